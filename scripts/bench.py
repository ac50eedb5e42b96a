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

from argparse import ArgumentParser

from benchlib.camera import camera
from benchlib.codecs import codec
from benchlib.export import export
from benchlib.gpu import gpu
from benchlib.ingest import ingest
from benchlib.loop import loop
from benchlib.objects import objects
from benchlib.options import add_options
from benchlib.passes import passes
from benchlib.ranks import ranks
from benchlib.read import read
from benchlib.recording import memory_folder, remove
from benchlib.sample import sample
from benchlib.scale import scale
from benchlib.table import machine, write_json
from benchlib.unstaged import unstaged

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
        add_options(commands.add_parser(name, help=_help(name)))
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


if __name__ == "__main__":
    main()
