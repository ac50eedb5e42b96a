"""``loop``: what recording costs a Python-heavy loop of small tensor operations on two cores."""

from __future__ import annotations

import os
import time
from argparse import Namespace
from typing import Any

from benchlib.measure import MB, in_child, medians, one_torch_thread, percentile, spread
from benchlib.peers import PEERS, Plan
from benchlib.recording import compare, remove
from benchlib.table import show
from benchlib.workload import Workload, make_workload

RECORDERS = ("mosaic_collect", "mosaic-threads", "tensorstore", "zarr-layout", "zarr", "lists")
_ROUNDS = 500  # of three small operations each: a step of some milliseconds
_WARM_UP = 10


def loop(args: Namespace) -> dict[str, Any]:
    """The subcommand."""
    workload = make_workload(args.num_envs, args.dims, args.noise)
    names = (None, *(n for n in RECORDERS if n in args.recorders))
    runs: dict[str | None, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(args.runs):
        for name in names:
            plan = _plan(args, name)
            remove(plan.path)
            os.sync()
            try:
                runs[name].append(in_child(run_loop, name, workload, plan))
            finally:
                remove(plan.path)
    alone = medians(runs[None])["steps_s"]
    title = f"Loop of small tensor operations, {args.loop_steps} steps, medians of {args.runs}"
    show(title, [_row(name, figures, alone, workload) for name, figures in runs.items()])
    return {name or "alone": {"runs": f, "median": medians(f)} for name, f in runs.items()}


def run_loop(name: str | None, workload: Workload, plan: Plan) -> dict[str, float]:
    """The loop with one recorder, or with none; in a child process."""
    recorder_class = None if name is None else PEERS[name].load()
    with one_torch_thread():
        recorder = None if recorder_class is None else recorder_class(workload, plan)
        adding = []
        for _ in range(_WARM_UP):
            simulate(workload.num_envs)
        start = time.perf_counter()
        for index in range(plan.steps):
            simulate(workload.num_envs)
            rows = workload.step(index)
            before = time.perf_counter()
            if recorder is not None:
                recorder.add(rows)
            adding.append(time.perf_counter() - before)
        seconds = time.perf_counter() - start
    if recorder is not None and recorder_class is not None:
        recorder.finish()
        compare(recorder_class, workload, plan)
    return {
        "steps_s": plan.steps / seconds,
        "add_p50_ms": percentile(adding, 0.5) * 1e3,
        "add_p99_ms": percentile(adding, 0.99) * 1e3,
        "add_max_ms": max(adding) * 1e3,
    }


def simulate(num_envs: int) -> Any:
    """What an environment in Python does: many small operations, little in each."""
    import torch

    state = torch.ones(num_envs, 29)
    for _ in range(_ROUNDS):
        state = (state * 0.99 + 0.01).clamp(-1.0, 1.0)
    return state


def _plan(args: Namespace, name: str | None) -> Plan:
    path = os.path.join(args.folder, f"loop-{name or 'alone'}.out")
    return Plan(path, args.loop_steps, args.block_steps, args.buffer_mb, args.compressor)


def _row(
    name: str | None, figures: list[dict[str, float]], alone: float, workload: Workload
) -> dict[str, Any]:
    middle = medians(figures)
    return {
        "recorder": "none" if name is None else PEERS[name].title,
        "steps/s": middle["steps_s"],
        "of the loop alone": f"{middle['steps_s'] / alone:.1%}",
        "raw MB/s": 0.0 if name is None else middle["steps_s"] * workload.step_nbytes / MB,
        "add p50 ms": middle["add_p50_ms"],
        "add p99 ms": middle["add_p99_ms"],
        "add max ms": middle["add_max_ms"],
        "spread": f"{spread(f['steps_s'] for f in figures):.0%}",
    }
