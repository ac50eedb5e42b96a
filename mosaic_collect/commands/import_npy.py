"""``mosaic-collect import``."""

from __future__ import annotations

import argparse
import os
import sys

from mosaic_collect.checks import local_path
from mosaic_collect.commands.reports import add_json, as_json
from mosaic_collect.commands.shared import add_resume, add_writer, bar, interrupted_text
from mosaic_collect.importing import ImportReport, import_npy
from mosaic_collect.recording.signals import termination_as_exit
from mosaic_collect.text import pace_of

NAME = "import"
HELP = (
    "Make a store of an .npy file of MOSAIC's own collector, or of an export, without unpickling "
    "or loading it."
)
EXAMPLE = "mosaic-collect import expert.npy expert.zarr"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("npy", help="the file")
    parser.add_argument("store", help="the store to be made")
    add_resume(parser, "an interrupted import of the same file")
    add_writer(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> bool:
    """Import with a progress bar, then say what was made."""
    try:
        total = 2 * os.path.getsize(local_path(arguments.npy, "npy"))
        with termination_as_exit(), bar("import", total=total, leave=True) as shown:
            report = import_npy(
                arguments.npy,
                arguments.store,
                buffer_mb=arguments.buffer_mb,
                compressor=arguments.compressor,
                resume=arguments.resume,
                progress=shown.update,
            )
    except (KeyboardInterrupt, SystemExit):
        print(interrupted_text(arguments.store), file=sys.stderr)
        raise
    print(as_json(report) if arguments.json else report_text(report))
    return True


def report_text(report: ImportReport) -> str:
    """What was made."""
    pace = pace_of(report.file_nbytes, report.seconds)
    steps = f"{report.num_steps:,} steps x {report.num_envs:,} envs"
    pairs = f"{report.num_valid:,} valid pairs, {report.num_trajectories:,} ended trajectories"
    lines = [
        f"{report.store}: {steps}, {pairs}, from {pace}",
        f"fields: {', '.join(report.shapes)}",
    ]
    return "\n".join(lines + [f"note: {note}" for note in report.notes])
