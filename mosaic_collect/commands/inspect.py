"""``mosaic-collect inspect``."""

from __future__ import annotations

import argparse

from mosaic_collect.inspect.summary import summarize
from mosaic_collect.inspect.text import summary_text

NAME = "inspect"
HELP = "Show what a store or an exported .npy holds, without loading or unpickling it."
EXAMPLE = "mosaic-collect inspect expert.zarr"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("path", nargs="+", help="a store, or an .npy file")


def run(arguments: argparse.Namespace) -> bool:
    """Print summaries."""
    print("\n\n".join(summary_text(summarize(path)) for path in arguments.path))
    return True
