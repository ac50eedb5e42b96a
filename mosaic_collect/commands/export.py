"""``mosaic-collect export``."""

from __future__ import annotations

import argparse
import glob
import os
from dataclasses import asdict

from mosaic_collect.commands.options import add_options, chosen
from mosaic_collect.commands.reports import add_json, as_json
from mosaic_collect.commands.shared import add_engine, bar, chosen_engine, store_stem
from mosaic_collect.errors import InputError
from mosaic_collect.export import ExportReport, Options, export_npy, plan_export
from mosaic_collect.export.options import LAYOUTS
from mosaic_collect.export.target import check_target
from mosaic_collect.reading.provenance import ALIKE
from mosaic_collect.store.place import addresses_of
from mosaic_collect.text import pace_of

NAME = "export"
HELP = "Write a store, or several as one, as the .npy dict that MOSAIC loads, in bounded memory."
EXAMPLE = (
    "mosaic-collect export expert.zarr expert.npy "
    "--fields student_observations actions action_mean action_sigma"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="the store, or several with the same fields, then the file, a name ending in .npy; "
        "of one store it may be left out: then it is beside it, by its name",
    )
    add_options(
        parser,
        Options,
        export_npy,
        but=("metadata",),
        layout={"choices": LAYOUTS},
        fields={"metavar": "FIELD"},
        max_pairs={"metavar": "K"},
        allow_different={"metavar": "NAME", "choices": ALIKE},
    )
    add_json(parser)
    add_engine(parser)


def run(arguments: argparse.Namespace) -> bool:
    """Export, saying sizes before and figures after."""
    names, path = _stores_and_target(arguments.paths)
    path = check_target(path, addresses_of(names))
    with chosen_engine(arguments) as engine:
        plan = plan_export(names, chosen(Options, arguments), engine)
        if not arguments.json:
            print(plan.size_text, flush=True)
        with bar("export", total=plan.arrays_nbytes, leave=True) as shown:
            report = plan.write(path, shown.update, engine)
    print(as_json(report) if arguments.json else report_text(report))
    return True


def _stores_and_target(paths: list[str]) -> tuple[list[str], str]:
    """The last path is the file, unless it is the only one."""
    *stores, last = paths
    if stores:
        return stores, last
    if last.endswith(".npy"):
        raise InputError(f"{last}: expected a store before the file's name, got none")
    if glob.has_magic(last) and not os.path.lexists(last):
        raise InputError(f"{last}: expected the file's name behind a pattern, got none")
    # Beside the store, by its name.
    return [last], f"{store_stem(last)}.npy"


def report_text(report: ExportReport) -> str:
    """What was exported."""
    left = {k: v for k, v in asdict(report.left_out).items() if v}
    told = ", ".join(f"{v:,} {k.replace('_', ' ')}" for k, v in left.items())
    pace = pace_of(report.file_nbytes, report.seconds)
    lines = [
        f"{report.path}: {report.num_pairs:,} valid pairs, {report.layout}, {pace}",
        f"left out: {told or 'nothing'}",
    ]
    return "\n".join(lines + [f"note: {note}" for note in report.notes])
