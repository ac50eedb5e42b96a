"""``mosaic-collect inspect``."""

from __future__ import annotations

import argparse
from dataclasses import replace

from mosaic_collect.commands.reports import add_json, as_json
from mosaic_collect.commands.shared import add_engine, chosen_engine
from mosaic_collect.look.inspect import summarize, summary_text
from mosaic_collect.npyfile.plain import plain_copy
from mosaic_collect.reading.summary import Summary

NAME = "inspect"
HELP = "Show what a store or an exported .npy holds, without loading or unpickling it."
EXAMPLE = "mosaic-collect inspect expert.zarr"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("path", nargs="+", help="a store, or an .npy file")
    parser.add_argument(
        "--metadata", action="store_true", help="show all metadata, not only short values"
    )
    add_json(parser)
    add_engine(parser)


def run(arguments: argparse.Namespace) -> bool:
    """Print summaries."""
    with chosen_engine(arguments) as engine:
        found = [summarize(path, engine) for path in arguments.path]
    if arguments.json:
        print("\n".join(_json(summary) for summary in found))
    else:
        print("\n\n".join(summary_text(summary, arguments.metadata) for summary in found))
    return True


def _json(summary: Summary) -> str:
    """With figures in place of the facts in words."""
    plain = replace(
        summary,
        # Which a file may have filled with anything.
        figures=plain_copy(summary.figures, summary.path),
        metadata=plain_copy(summary.metadata, summary.path),
    )
    totals = {"raw_nbytes": summary.raw_nbytes, "stored_nbytes": summary.stored_nbytes}
    return as_json(plain, but=("facts",), **totals)
