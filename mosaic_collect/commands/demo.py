"""``mosaic-collect demo``."""

from __future__ import annotations

import argparse

from mosaic_collect.errors import MissingDependencyError

NAME = "demo"
HELP = (
    "The main job in small: a Unitree G1 in real physics is recorded, interrupted, resumed, "
    "exported to MOSAIC's .npy, and proven right."
)
EXAMPLE = "mosaic-collect demo --output out/demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("--output", default="out/demo", help="folder for store and export")
    parser.add_argument("--num-envs", type=int, default=80, help="environments")
    parser.add_argument("--device", help="cpu or cuda:0; default: CUDA if there is one")


def run(arguments: argparse.Namespace) -> bool:
    """Run the demo; True if everything was proven."""
    try:
        from mosaic_collect.demo.run import run_demo
    except ImportError as error:
        raise MissingDependencyError(
            f"the demo needs mjlab: pip install 'mosaic-collect[mjlab]' ({error})"
        ) from error
    return run_demo(arguments.output, arguments.num_envs, arguments.device)
