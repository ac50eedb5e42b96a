"""``mosaic-collect report``."""

from __future__ import annotations

import argparse
import json
from typing import Any

from mosaic_collect.checks import local_path, output_path
from mosaic_collect.commands.shared import add_pairs, measure, store_stem
from mosaic_collect.errors import InputError
from mosaic_collect.look.report import report_page
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.store.files import PosixFiles, temp_name, write_file

NAME = "report"
HELP = (
    "Make one page of a store that needs nothing beside it: what to know first, then pictures and "
    "tables."
)
EXAMPLE = "mosaic-collect report expert.zarr -o report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("store", help="the store; it may still be written to")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="the page (default: STORE.report.html)"
    )
    parser.add_argument("--trajectory", type=int, metavar="ID", help="whose curves are drawn")
    parser.add_argument(
        "--checks",
        metavar="FILE",
        help="what 'mosaic-collect verify --json' printed of this store: failures come first",
    )
    add_pairs(parser, 1_000_000)


def run(arguments: argparse.Namespace) -> bool:
    """Make the page."""
    checks = [] if arguments.checks is None else _checks(arguments.checks)
    output = output_path(arguments.output or f"{store_stem(arguments.store)}.report.html", "output")
    dataset = TrajectoryDataset(arguments.store)
    statistics = measure(dataset, arguments.max_pairs or None)
    page = report_page(dataset, statistics, arguments.trajectory, checks)
    write_file(PosixFiles(), output, page.encode(), temp_name(output))
    print(f"{output}: written, {len(page) / 1e6:.1f} MB")
    return True


def _checks(path: str) -> list[dict[str, Any]]:
    try:
        with open(local_path(path, "checks"), encoding="utf-8") as file:
            found = [json.loads(line) for line in file if line.strip()]
    except ValueError as error:
        raise InputError(f"{path}: expected a JSON object a line: {error}") from error
    if not all(isinstance(entry, dict) for entry in found):
        raise InputError(f"{path}: expected a JSON object a line")
    return found
