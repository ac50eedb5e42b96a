"""``mosaic-collect plot``."""

from __future__ import annotations

import argparse
from functools import partial

from mosaic_collect.commands.shared import add_pairs, measure, store_stem
from mosaic_collect.look.canvas import THEMES, check_picture, save
from mosaic_collect.look.pictures import Pictures
from mosaic_collect.reading.dataset import TrajectoryDataset

NAME = "plot"
HELP = (
    "Draw a store: timeline, lengths, bands of each observation term, actions and sigmas, one "
    "trajectory, rate and stalls."
)
EXAMPLE = "mosaic-collect plot expert.zarr --only timeline lengths"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("store", help="the store; it may still be written to")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="PICTURE",
        help="of timeline, lengths, bands-FIELD, actions, trajectory, pace (default: all)",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="STEM",
        help="the pictures are STEM.NAME.png (default: the store's path without .zarr)",
    )
    parser.add_argument(
        "--format", default="png", help="png, svg, pdf and others (default %(default)s)"
    )
    parser.add_argument("--theme", choices=THEMES, default="light", help="default: %(default)s")
    parser.add_argument("--trajectory", type=int, metavar="ID", help="whose curves are drawn")
    add_pairs(parser, 1_000_000)


def run(arguments: argparse.Namespace) -> bool:
    """Draw, and say what was drawn."""
    stem = arguments.output or store_stem(arguments.store)
    check_picture(f"{stem}.{arguments.format}")
    dataset = TrajectoryDataset(arguments.store)
    pictures = Pictures(
        dataset,
        partial(measure, dataset, arguments.max_pairs or None),
        arguments.trajectory,
        THEMES[arguments.theme],
    )
    for name in arguments.only or pictures.names:
        path = f"{stem}.{name}.{arguments.format}"
        save(pictures.draw(name), path)
        print(f"{path}: drawn", flush=True)
    return True
