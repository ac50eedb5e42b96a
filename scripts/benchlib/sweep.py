"""Our own recorder over lengths and sizes, a part of ``ingest``."""

from __future__ import annotations

import os
from argparse import Namespace
from typing import Any

from benchlib.peers import Plan
from benchlib.recording import Target, record_once
from benchlib.table import show
from benchlib.workload import Workload, make_workload

_RAW_NBYTES = 500_000_000  # about so much a size: enough to leave the start behind
#: Environments, dims, noise.
_SIZES = (
    (16, "mosaic", 0.01),
    (256, "mosaic", 0.0),
    (4096, "mosaic", 0.01),
    (16384, "mosaic", 0.01),
    (16384, "small", 0.01),
)


def lengths(args: Namespace, workload: Workload, target: Target) -> list[dict[str, Any]]:
    """Peak memory of a short and of a long recording."""
    rows = []
    for steps in (args.steps, args.long_steps):
        plan = Plan.of(args, _path(target), steps)
        figures = record_once("mosaic_collect", workload, plan) or {}
        above = figures["peak_mb"] - args.buffer_mb
        rows.append({"steps": steps, **_row(figures), "above the ring MB": above})
    show(f"Memory of a short and a long recording, ring of {args.buffer_mb:.0f} MB", rows)
    return rows


def sizes(args: Namespace, target: Target) -> list[dict[str, Any]]:
    """Other numbers of environments, other widths, no noise; buffer_mb is "auto"."""
    rows = []
    for num_envs, dims, noise in _SIZES:
        workload = make_workload(num_envs, dims, noise)
        steps = max(8, min(20_000, _RAW_NBYTES // workload.step_nbytes))
        plan = Plan.of(args, _path(target), steps, "auto")
        figures = record_once("mosaic_collect", workload, plan) or {}
        size = {"envs": num_envs, "dims": dims, "noise": noise, "steps": steps}
        rows.append({**size, **_row(figures)})
    show(f'Sizes, {target.title}, buffer_mb "auto", one run each', rows)
    return rows


def _row(figures: dict[str, float]) -> dict[str, float]:
    return {
        "raw MB": figures["raw_mb"],
        "raw MB/s": figures["raw_mb_s"],
        "CPU s per raw GB": figures["cpu_s_per_gb"],
        "peak RAM MB": figures["peak_mb"],
        "ratio": figures["ratio"],
    }


def _path(target: Target) -> str:
    return os.path.join(target.folder, "sweep.out")
