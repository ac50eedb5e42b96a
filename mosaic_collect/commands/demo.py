"""``mosaic-collect demo``."""

from __future__ import annotations

import argparse

from mosaic_collect.checks import needed
from mosaic_collect.errors import InputError

NAME = "demo"
HELP = (
    "The main job in small: a Unitree G1 in real physics is recorded, interrupted, resumed, "
    "exported to MOSAIC's .npy, and proven right."
)
EXAMPLE = "mosaic-collect demo --output out/demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("--output", default="out/demo", help="folder (default %(default)s)")
    parser.add_argument(
        "--student",
        action="store_true",
        help="another demo: record with disturbed actions, train a student, and let it run",
    )
    parser.add_argument(
        "--sim",
        choices=("mjlab", "isaaclab"),
        default="mjlab",
        help="the simulator (default %(default)s); isaaclab: version 3, on Newton's physics",
    )
    parser.add_argument(
        "--num-envs", type=int, metavar="N", help="environments (default 80, or 128)"
    )
    parser.add_argument("--device", help="cpu or cuda:0; default: CUDA if there is one")


def run(arguments: argparse.Namespace) -> bool:
    """Run a demo; True if everything was proven."""
    with needed("the demo needs mjlab: pip install 'mosaic-collect[mjlab]'"):
        from mosaic_collect.demo.run import run_demo
        from mosaic_collect.demo.student import run_student
    if arguments.student:
        if arguments.sim != "mjlab":
            raise InputError("student: expected only with --sim mjlab")
        return run_student(arguments.output, arguments.num_envs or 128, arguments.device)
    return run_demo(arguments.output, arguments.num_envs or 80, arguments.device, arguments.sim)
