"""``ingest``: every recorder takes the same steps to durable, is read back, and compared."""

from __future__ import annotations

import os
import shutil
from argparse import Namespace
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchlib.measure import MB, Meter, in_child, medians, spread, tree_nbytes
from benchlib.peers import PEERS, Plan, Recorder
from benchlib.table import show
from benchlib.workload import Workload, make_workload

_COMPARED_STEPS = 64
#: Where no disk is waited for, only the fastest are worth the time.
_IN_MEMORY = ("mosaic_collect", "mosaic-threads", "tensorstore", "memmap", "zarr-layout")


class DifferentDataError(Exception):
    """A recorder gave back other values than it was given."""


@dataclass(frozen=True)
class Target:
    """Where recordings go: ``folder``, named ``title`` in tables."""

    title: str
    folder: str


def record(name: str, workload: Workload, plan: Plan) -> dict[str, float]:
    """One recording of one recorder, measured and compared; runs in a child process."""
    recorder_class = PEERS[name].load()
    meter = Meter()
    meter.start()
    recorder = recorder_class(workload, plan)
    for index in range(plan.steps):
        recorder.add(workload.step(index))
    meter.see_children()
    recorder.finish()
    figures = meter.stop()
    compare(recorder_class, workload, plan)
    raw = plan.steps * workload.step_nbytes
    stored = tree_nbytes(plan.path)
    return {
        "raw_mb_s": raw / MB / figures["wall_s"],
        "cpu_s_per_gb": figures["cpu_s"] / raw * 1e9,
        "peak_mb": figures["peak_mb"],
        "disk_mb": stored / MB,
        "ratio": raw / stored,
        "raw_mb": raw / MB,
        "wall_s": figures["wall_s"],
    }


def record_all(workload: Workload, plan: Plan) -> None:
    """A store of ours with all steps, for what is measured on stores."""
    recorder = PEERS["mosaic_collect"].load()(workload, plan)
    for index in range(plan.steps):
        recorder.add(workload.step(index))
    recorder.finish()


def compare(recorder_class: type[Recorder], workload: Workload, plan: Plan) -> None:
    """Read everything back, bit for bit.

    Raises:
        DifferentDataError: Naming the field and step of the first difference.
    """
    for name, pool in workload.pool.items():
        for start in range(0, plan.steps, _COMPARED_STEPS):
            stop = min(start + _COMPARED_STEPS, plan.steps)
            got = recorder_class.read(plan.path, name, start, stop)
            expected = pool[np.arange(start, stop) % workload.pool_steps]
            same = got.shape == expected.shape and got.dtype == expected.dtype
            if not same or got.tobytes() != expected.tobytes():
                raise DifferentDataError(f"{name}, steps {start}..{stop}: other values than given")


def ingest(args: Namespace) -> dict[str, Any]:
    """The subcommand."""
    from benchlib import sweep  # which builds on this module

    workload = make_workload(args.num_envs, args.dims, args.noise)
    results: dict[str, Any] = {}
    for target in targets(args):
        runs = side_by_side(args, workload, target)
        size = f"{args.num_envs} environments, {args.dims} dims, {args.steps} steps"
        title = f"Ingest to durable, {target.title}: {size}, medians of {args.runs}"
        show(title, [_row(name, figures) for name, figures in runs.items()])
        results[target.title] = {n: {"runs": f, "median": medians(f)} for n, f in runs.items()}
    disk = targets(args)[0]
    results["lengths"] = sweep.lengths(args, workload, disk)
    if not args.no_sweep:
        results["sizes"] = sweep.sizes(args, disk)
    return results


def side_by_side(args: Namespace, workload: Workload, target: Target) -> dict[str, Any]:
    """Per recorder the figures of all its runs; the recorders take turns."""
    names = [n for n in args.recorders if target.title == "disk" or n in _IN_MEMORY]
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(args.runs):
        for name in names:
            steps = args.steps // 8 if PEERS[name].slow else args.steps
            plan = Plan(
                os.path.join(target.folder, f"{name}.out"),
                max(steps, 1),
                args.block_steps,
                args.buffer_mb,
                args.compressor,
            )
            figures = record_once(name, workload, plan)
            if figures is None:
                print(f"{name}: not installed, left out", flush=True)
            else:
                runs[name].append(figures)
    return {name: figures for name, figures in runs.items() if figures}


def record_once(name: str, workload: Workload, plan: Plan) -> dict[str, float] | None:
    """``record`` in a child; None if the library is missing. The recording is removed."""
    remove(plan.path)
    # What others wrote before must not be waited for in this one's fsync.
    os.sync()
    try:
        figures: dict[str, float] | None = in_child(_try_record, name, workload, plan)
    finally:
        remove(plan.path)
    return figures


def targets(args: Namespace) -> list[Target]:
    """The disk, and memory-backed storage where there is some."""
    os.makedirs(args.folder, exist_ok=True)
    found = [Target("disk", args.folder)]
    if os.path.isdir("/dev/shm") and not args.disk_only:
        os.makedirs(memory_folder(), exist_ok=True)
        found.append(Target("memory", memory_folder()))
    return found


def memory_folder() -> str:
    """In memory-backed storage, for this process; whoever makes it removes it."""
    return f"/dev/shm/mosaic_bench_{os.getpid()}"


def _try_record(name: str, workload: Workload, plan: Plan) -> dict[str, float] | None:
    try:
        PEERS[name].load()
    except ImportError:
        return None
    return record(name, workload, plan)


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


def remove(path: str) -> None:
    """Remove a file or a folder; there may be none."""
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        os.remove(path)
