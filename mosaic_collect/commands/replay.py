"""``mosaic-collect replay``."""

from __future__ import annotations

import argparse

from mosaic_collect.checks import needed
from mosaic_collect.commands.shared import bar
from mosaic_collect.reading.dataset import TrajectoryDataset

NAME = "replay"
HELP = "See one trajectory of a store collected in mjlab: the robot, and its reference beside it."
EXAMPLE = "mosaic-collect replay expert.zarr --trajectory 31 -o clip.mp4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("store", help="the store; with --record-states it has the robot's states")
    parser.add_argument("--trajectory", type=int, required=True, metavar="ID", help="which")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE",
        help="a clip, .mp4, or a strip of eight pictures, .png",
    )
    parser.add_argument("--motion", help="a file or folder where its motion lies by now")


def run(arguments: argparse.Namespace) -> bool:
    """Draw it, and say what is shown."""
    with needed("pictures of a robot need mjlab: pip install 'mosaic-collect[replay]'"):
        from mosaic_collect.film.make import film
    dataset = TrajectoryDataset(arguments.store)
    with bar("replay", " pictures") as shown:
        made = film(dataset, arguments.trajectory, arguments.output, arguments.motion, shown.update)
    one = made.trajectory
    print(
        f"{made.path}: trajectory {one.id} of environment {one.env}, {one.num_steps} steps, "
        f"{one.end}; {' and '.join(made.shown)} at {made.fps:g} steps a second"
    )
    for note in made.notes:
        print(f"note: {note}")
    return True
