"""``ingest``: every recorder takes the same steps to durable, is read back, and compared."""

from __future__ import annotations

import os
from argparse import Namespace
from typing import Any

from benchlib.peers import PEERS, Plan
from benchlib.recording import Target, record_once, targets
from benchlib.table import Figures, in_turns, show, show_medians
from benchlib.workload import Workload, make_workload

#: Where no disk is waited for, only the fastest are worth the time.
_IN_MEMORY = ("mosaic_collect", "mosaic-threads", "tensorstore", "memmap", "zarr-layout")
_RAW_NBYTES = 500_000_000  # about so much a size: enough to leave the start behind
#: Environments, dims, noise.
_SIZES = (
    (16, "mosaic", 0.01),
    (256, "mosaic", 0.0),
    (4096, "mosaic", 0.01),
    (16384, "mosaic", 0.01),
    (16384, "small", 0.01),
)


def ingest(args: Namespace) -> dict[str, Any]:
    """The subcommand."""
    workload = make_workload(args.num_envs, args.dims, args.noise)
    size = f"{args.num_envs} environments, {args.dims} dims, {args.steps} steps"
    results: dict[str, Any] = {}
    for target in targets(args):
        names = [n for n in args.recorders if target.title == "disk" or n in _IN_MEMORY]
        runs = in_turns(args.runs, names, _record, args, workload, target)
        title = f"Ingest to durable, {target.title}: {size}, medians of {args.runs}"
        results[target.title] = show_medians(title, runs, "raw MB/s", recorder_row)
    results["lengths"] = _lengths(args, workload)
    if not args.no_sweep:
        results["sizes"] = _sizes(args)
    return results


def recorder_row(name: str, middle: Figures) -> dict[str, Any]:
    """A row that begins with the recorder's title."""
    return {"recorder": PEERS[name].title, **middle}


def _record(name: str, args: Namespace, workload: Workload, target: Target) -> Figures | None:
    steps = max(args.steps // 8 if PEERS[name].slow else args.steps, 1)
    path = os.path.join(target.folder, f"{name}.out")
    figures = record_once(name, workload, Plan.of(args, path, steps))
    if figures is None:
        print(f"{name}: not installed, left out", flush=True)
    return figures


def _lengths(args: Namespace, workload: Workload) -> list[dict[str, Any]]:
    """Peak memory of a short and of a long recording of ours."""
    rows = []
    for steps in (args.steps, args.long_steps):
        plan = Plan.of(args, os.path.join(args.folder, "sweep.out"), steps)
        figures = record_once("mosaic_collect", workload, plan) or {}
        above = figures["peak RAM MB"] - args.buffer_mb
        rows.append({"steps": steps, **figures, "above the ring MB": above})
    show(f"Memory of a short and a long recording, ring of {args.buffer_mb:.0f} MB", rows)
    return rows


def _sizes(args: Namespace) -> list[dict[str, Any]]:
    """Other numbers of environments, other widths, no noise; buffer_mb is "auto"."""
    rows = []
    for num_envs, dims, noise in _SIZES:
        workload = make_workload(num_envs, dims, noise)
        steps = max(8, min(20_000, _RAW_NBYTES // workload.step_nbytes))
        plan = Plan.of(args, os.path.join(args.folder, "sweep.out"), steps, "auto")
        figures = record_once("mosaic_collect", workload, plan) or {}
        rows.append({"envs": num_envs, "dims": dims, "noise": noise, "steps": steps, **figures})
    show('Sizes, disk, buffer_mb "auto", one run each', rows)
    return rows
