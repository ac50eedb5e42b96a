"""The command line of scripts/bench.py."""

from __future__ import annotations

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser

from benchlib.frames import CAMERAS
from benchlib.peers import PEERS
from benchlib.workload import DIMS


def add_options(parser: ArgumentParser) -> None:
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
