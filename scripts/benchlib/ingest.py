"""``ingest``: every recorder takes the same steps to durable, is read back, and compared."""

from __future__ import annotations

import os
from argparse import Namespace
from typing import Any

from benchlib import sweep
from benchlib.measure import medians, spread
from benchlib.peers import PEERS, Plan
from benchlib.recording import Target, record_once, targets
from benchlib.table import show
from benchlib.turns import in_turns, with_medians
from benchlib.workload import Workload, make_workload

#: Where no disk is waited for, only the fastest are worth the time.
_IN_MEMORY = ("mosaic_collect", "mosaic-threads", "tensorstore", "memmap", "zarr-layout")


def ingest(args: Namespace) -> dict[str, Any]:
    """The subcommand."""
    workload = make_workload(args.num_envs, args.dims, args.noise)
    results: dict[str, Any] = {}
    for target in targets(args):
        runs = side_by_side(args, workload, target)
        size = f"{args.num_envs} environments, {args.dims} dims, {args.steps} steps"
        title = f"Ingest to durable, {target.title}: {size}, medians of {args.runs}"
        show(title, [_row(name, figures) for name, figures in runs.items()])
        results[target.title] = with_medians(runs)
    disk = targets(args)[0]
    results["lengths"] = sweep.lengths(args, workload, disk)
    if not args.no_sweep:
        results["sizes"] = sweep.sizes(args, disk)
    return results


def side_by_side(args: Namespace, workload: Workload, target: Target) -> dict[str, Any]:
    """Per recorder the figures of all its runs; the recorders take turns."""
    names = [n for n in args.recorders if target.title == "disk" or n in _IN_MEMORY]

    def run(name: str) -> dict[str, float] | None:
        steps = max(args.steps // 8 if PEERS[name].slow else args.steps, 1)
        path = os.path.join(target.folder, f"{name}.out")
        figures = record_once(name, workload, Plan.of(args, path, steps))
        if figures is None:
            print(f"{name}: not installed, left out", flush=True)
        return figures

    return in_turns(args, names, run)


def _row(name: str, figures: list[dict[str, float]]) -> dict[str, Any]:
    middle = medians(figures)
    return {
        "recorder": PEERS[name].title,
        "raw MB/s": middle["raw_mb_s"],
        "CPU s per raw GB": middle["cpu_s_per_gb"],
        "peak RAM MB": middle["peak_mb"],
        "disk MB": middle["disk_mb"],
        "ratio": middle["ratio"],
        "spread": f"{spread(f['raw_mb_s'] for f in figures):.0%}",
    }
