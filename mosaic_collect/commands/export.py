"""``mosaic-collect export``."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from mosaic_collect.dataset import TrajectoryDataset
from mosaic_collect.errors import InputError
from mosaic_collect.export.npy import ExportReport, run_export, size_text, store_paths
from mosaic_collect.export.options import Options
from mosaic_collect.export.plan import default_target, plan_export
from mosaic_collect.export.target import check_target
from mosaic_collect.text import size_of

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
    parser.add_argument(
        "--layout",
        choices=("auto", "grid", "compact"),
        default="auto",
        help="grid [T, N, D] with valid_mask, compact [M, 1, D] of valid rows only; "
        "auto: grid of one store if every row is valid",
    )
    parser.add_argument("--fields", nargs="+", metavar="FIELD", help="keep only these")
    parser.add_argument("--max-pairs", type=int, metavar="K", help="draw K pairs uniformly")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--allow-incomplete", action="store_true", help="of an unfinished store")
    parser.add_argument("--allow-nonfinite", action="store_true", help="let a grid hold NaN")
    parser.add_argument(
        "--exclude-truncated", action="store_true", help="leave out trajectories that never ended"
    )
    parser.add_argument(
        "--exclude-failed", action="store_true", help="leave out trajectories that ended by a fall"
    )
    parser.add_argument(
        "--skip-damaged", action="store_true", help="leave out pairs whose bytes are damaged"
    )


def run(arguments: argparse.Namespace) -> bool:
    """Export, saying sizes before and figures after."""
    named, path = _stores_and_target(arguments.paths)
    stores = store_paths(named)
    check_target(path, stores)
    options = Options(
        layout=arguments.layout,
        fields=arguments.fields,
        max_pairs=arguments.max_pairs,
        seed=arguments.seed,
        allow_incomplete=arguments.allow_incomplete,
        allow_nonfinite=arguments.allow_nonfinite,
        exclude_truncated=arguments.exclude_truncated,
        exclude_failed=arguments.exclude_failed,
        skip_damaged=arguments.skip_damaged,
    )
    plan = plan_export([TrajectoryDataset(store) for store in stores], options)
    print(size_text(plan), flush=True)
    print(report_text(run_export(plan, path)))
    return True


def _stores_and_target(paths: list[str]) -> tuple[list[str], str]:
    """The last path is the file, unless it is the only one."""
    *stores, last = paths
    if stores:
        return stores, last
    if last.endswith(".npy"):
        raise InputError(f"{last}: expected a store before the file's name, got none")
    return [last], default_target(last)


def report_text(report: ExportReport) -> str:
    """What was exported."""
    left = {k: v for k, v in asdict(report.left_out).items() if v}
    rate = report.file_nbytes / 1e6 / max(report.seconds, 1e-9)
    size = f"{size_of(report.file_nbytes)} in {report.seconds:.1f} s ({rate:,.0f} MB/s)"
    lines = [f"{report.path}: {report.num_pairs:,} valid pairs, {report.layout}, {size}"]
    lines.append(
        "left out: "
        + (", ".join(f"{v:,} {k.replace('_', ' ')}" for k, v in left.items()) or "nothing")
    )
    return "\n".join(lines + [f"note: {note}" for note in report.notes])
