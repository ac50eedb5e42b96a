"""Measures mosaic_collect beside its peers, and compares what each of them stored, bit for bit.

    pip install -e '.[bench]'
    python scripts/bench.py all --json out/bench.json

What is measured and how is said in docs/benchmarks.md.
"""

from __future__ import annotations

import os
import time

# Before NumPy is loaded: its own threads would take the cores that are measured.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser

from benchlib.camera import camera
from benchlib.codecs import codec
from benchlib.export import export
from benchlib.frames import CAMERAS
from benchlib.gpu import gpu
from benchlib.ingest import ingest
from benchlib.loop import loop
from benchlib.objects import objects
from benchlib.passes import passes
from benchlib.peers import PEERS
from benchlib.ranks import ranks
from benchlib.read import read
from benchlib.recording import memory_folder, remove
from benchlib.sample import sample
from benchlib.scale import scale
from benchlib.table import machine, write_json
from benchlib.unstaged import unstaged
from benchlib.workload import DIMS

COMMANDS = {
    "ingest": ingest,
    "loop": loop,
    "unstaged": unstaged,
    "export": export,
    "read": read,
    "sample": sample,
    "scale": scale,
    "ranks": ranks,
    "codec": codec,
    "camera": camera,
    "objects": objects,
    "passes": passes,
    "gpu": gpu,
}


def main(arguments: list[str] | None = None) -> None:
    """Run one subcommand, or all of them."""
    parser = ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in (*COMMANDS, "all"):
        _add_options(commands.add_parser(name, help=_help(name)))
    args = parser.parse_args(arguments)
    os.makedirs(args.folder, exist_ok=True)
    print(", ".join(f"{key}: {value}" for key, value in machine().items()), flush=True)
    chosen = list(COMMANDS) if args.command == "all" else [args.command]
    results = {}
    try:
        for name in chosen:
            start = time.perf_counter()
            results[name] = COMMANDS[name](args)
            print(f"({name}: {time.perf_counter() - start:.0f} s)", flush=True)
    finally:
        remove(memory_folder())
    if args.json:
        write_json(args.json, results)


def _help(name: str) -> str:
    command = COMMANDS.get(name)
    text = command.__globals__["__doc__"] if command else "all of them, one after the other"
    return str(text).splitlines()[0].split(": ", 1)[-1]


def _add_options(parser: ArgumentParser) -> None:
    """Options that all subcommands share; each uses those that concern it."""
    parser.formatter_class = ArgumentDefaultsHelpFormatter
    add = parser.add_argument
    add("--json", metavar="FILE", help="write all figures of all runs here")
    add("--folder", default="out/bench", help="on the disk to measure; what is there is replaced")
    add("--disk-only", action="store_true", help="leave memory-backed storage out")
    add("--runs", type=int, default=3, help="of which tables show the median")
    add("--num-envs", type=int, default=256, help="environments, N")
    add("--dims", choices=DIMS, default="mosaic", help="widths of the fields")
    add("--noise", type=float, default=0.01, help="standard deviation of the sensors' noise")
    add("--compressor", default="auto", help="as TrajectoryWriter names it")
    add("--block-steps", type=int, default=64, help="of the peers' blocks")
    add("--buffer-mb", type=float, default=203, help="of our ring: three blocks of 64 steps")
    add("--recorders", nargs="+", choices=PEERS, default=list(PEERS), metavar="NAME")
    add("--steps", type=int, default=1000, help="ingest, gpu: steps to record")
    add("--long-steps", type=int, default=8000, help="ingest: a long recording, for its memory")
    add("--no-sweep", action="store_true", help="ingest: only the one size")
    add("--loop-steps", type=int, default=400, help="loop: its steps")
    add("--unstaged-envs", type=int, default=4096, help="unstaged: environments")
    add("--unstaged-steps", type=int, default=160, help="unstaged: steps of the loop")
    add("--cameras", nargs="+", choices=CAMERAS, default=["small", "large"], help="camera: which")
    add("--camera-steps", type=int, default=450, help="camera: steps, of 1/30 s where paced")
    add("--read-steps", type=int, default=512, help="read: steps of the store")
    add("--sample-steps", type=int, default=4096, help="sample: steps of the store")
    add("--sample-seconds", type=float, default=8, help="sample: of what has no end")
    add("--batch", type=int, default=4096, help="sample: pairs of a batch")
    add("--shuffle-buffer-mb", type=float, default=512, help="sample: the loader's pool")
    add("--export-gb", type=float, default=4.0, help="export: raw size of the store")
    add("--export-runs", type=int, default=2, help="export: of which the table shows the median")
    add("--passes-gb", type=float, default=2.0, help="passes: raw size of the store")
    add("--object-blocks", type=int, nargs="+", default=[10, 10000], help="objects: stores to open")
    add(
        "--blocks",
        type=int,
        nargs="+",
        default=[10, 1000, 10000],
        help="scale: where to measure; over 1000 on a disk only with --disk-only",
    )


if __name__ == "__main__":
    main()
