"""``mosaic-collect copy``."""

from __future__ import annotations

import argparse

from mosaic_collect.commands.reports import add_json, as_json
from mosaic_collect.commands.shared import bar
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.verify import verify_store
from mosaic_collect.store.copies import copy_store
from mosaic_collect.store.copying import CopyReport
from mosaic_collect.text import pace_of

NAME = "copy"
HELP = (
    "Copy a store, or a folder of ranks, to another place, from folder or object storage to "
    "either. Shards are checked on the way, and the root document comes last. The same command "
    "goes on with a copy that was interrupted, and brings an older one up to date."
)
EXAMPLE = "mosaic-collect copy expert.zarr s3://bucket/expert.zarr --verify"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("source", help="the store, or the folder of ranks")
    parser.add_argument("target", help="where nothing lies, or a copy of it")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="default: the processors, at most 4"
    )
    parser.add_argument(
        "--verify", action="store_true", help="read the copy back, and check all of it"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> bool:
    """Copy behind a bar; True if the copy, where that was asked for, was found to be good."""
    views = [part.view for part in TrajectoryDataset(arguments.source).parts]
    shards = sum(view.state.num_blocks * len(view.grids) for view in views)
    with bar("copy", " shards", shards, leave=True) as shown:
        report = copy_store(arguments.source, arguments.target, arguments.threads, shown.update)
    problems: tuple[str, ...] = ()
    if arguments.verify:
        with bar("verify", " shards", shards) as shown:
            problems = verify_store(report.target, shown.update).problems
    if arguments.json:
        print(as_json(report, ok=not problems, problems=problems))
    else:
        print("\n".join([_text(report), *(f"  problem: {problem}" for problem in problems)]))
    return not problems


def _text(report: CopyReport) -> str:
    pace = pace_of(report.nbytes, report.seconds)
    shards = f"{report.copied:,} shards copied, {pace}, {report.kept:,} were there"
    line = f"{report.target}: {report.num_steps:,} steps; {shards}"
    return "\n".join([line] + [f"note: {note}" for note in report.notes])
