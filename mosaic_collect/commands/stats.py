"""``mosaic-collect stats``."""

from __future__ import annotations

import argparse
import json

from mosaic_collect.checks import output_path
from mosaic_collect.commands.shared import (
    add_engine,
    add_pairs,
    chosen_engine,
    measure,
)
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.stats.files import write_statistics
from mosaic_collect.stats.text import statistics_text

NAME = "stats"
HELP = (
    "Measure every feature over the valid pairs: mean, std, least, greatest, quantiles, shares of "
    "NaN and infinity, constant and dead features; also as rsl_rl's normaliser takes it. One pass, "
    "bounded memory."
)
EXAMPLE = "mosaic-collect stats expert.zarr"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("store", help="the store; it may still be written to")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write all figures to this JSON file (default: none)"
    )
    parser.add_argument("--fields", nargs="+", metavar="FIELD", help="only these")
    add_pairs(parser, 0)
    parser.add_argument("--json", action="store_true", help="print that JSON in place of the table")
    add_engine(parser)


def run(arguments: argparse.Namespace) -> bool:
    """Measure, print and write."""
    dataset = TrajectoryDataset(arguments.store)
    output = None if arguments.output is None else output_path(arguments.output, "output")
    with chosen_engine(arguments) as engine:
        found = measure(dataset, arguments.max_pairs or None, arguments.fields, engine)
    if output is not None:
        write_statistics(found, output)
    as_json = arguments.json
    print(json.dumps(found.to_json(), allow_nan=False) if as_json else statistics_text(found))
    if output is not None and not as_json:
        print(f"{output}: written")
    return True
