"""``loop``: what recording costs a Python-heavy loop of small tensor operations on two cores."""

from __future__ import annotations

import os
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from benchlib.measure import MB, in_child, one_torch_thread, percentile
from benchlib.peers import PEERS, Plan, Recorder
from benchlib.recording import compare, removed
from benchlib.table import Figures, in_turns, medians, show_medians
from benchlib.workload import Rows, Workload, make_workload

RECORDERS = ("mosaic_collect", "mosaic-threads", "tensorstore", "zarr-layout", "zarr", "lists")
_ROUNDS = 500  # of three small operations each: a step of some milliseconds
_WARM_UP = 10

Run = Callable[[str | None, Workload, Plan], Figures]


def loop(args: Namespace) -> dict[str, Any]:
    """The subcommand."""
    workload = make_workload(args.num_envs, args.dims, args.noise)
    plan = Plan.of(args, os.path.join(args.folder, "loop"), args.loop_steps)
    title = f"Loop of small tensor operations, {args.loop_steps} steps"
    return beside_alone(args, title, RECORDERS, run_loop, workload, plan)


def beside_alone(
    args: Namespace,
    title: str,
    recorders: Iterable[str],
    run: Run,
    workload: Workload,
    plan: Plan,
) -> dict[str, Any]:
    """A loop without a recorder, None, and with each of those that were asked for."""
    names = (None, *(n for n in recorders if n in args.recorders))
    runs = in_turns(args.runs, names, partial(_alone_or_with, run), workload, plan)
    alone = medians(runs[None])["steps/s"]

    def row(name: str | None, middle: Figures) -> dict[str, Any]:
        rate = middle["steps/s"]
        return {
            "recorder": "none" if name is None else PEERS[name].title,
            "of the loop alone": f"{rate / alone:.1%}",
            "raw MB/s": 0.0 if name is None else rate * workload.step_nbytes / MB,
            **middle,
        }

    return show_medians(f"{title}, medians of {args.runs}", runs, "steps/s", row)


def _alone_or_with(run: Run, name: str | None, workload: Workload, plan: Plan) -> Figures:
    own = replace(plan, path=f"{plan.path}-{name or 'alone'}.out")
    with removed(own.path):
        figures: Figures = in_child(run, name, workload, own)
    return figures


def run_loop(name: str | None, workload: Workload, plan: Plan) -> dict[str, float]:
    """The loop with one recorder, or with none; in a child process."""
    with one_torch_thread():
        recorder = None if name is None else PEERS[name].load()(workload, plan)
        for _ in range(_WARM_UP):
            simulate(workload.num_envs)
        figures = timed(recorder, workload.step, plan.steps, [workload.num_envs])
    if recorder is not None:
        recorder.finish()
        compare(type(recorder), workload, plan)
    return figures


def timed(
    recorder: Recorder | None, rows: Callable[[int], Rows], steps: int, simulated: Sequence[int]
) -> Figures:
    """Steps a second of a loop, each of so many simulations, and how long adding its rows took."""
    adding = []
    start = time.perf_counter()
    for index in range(steps):
        for num_envs in simulated:
            simulate(num_envs)
        row = rows(index)
        before = time.perf_counter()
        if recorder is not None:
            recorder.add(row)
        adding.append(time.perf_counter() - before)
    return {
        "steps/s": steps / (time.perf_counter() - start),
        "add p50 ms": percentile(adding, 0.5) * 1e3,
        "add p99 ms": percentile(adding, 0.99) * 1e3,
        "add max ms": max(adding) * 1e3,
    }


def simulate(num_envs: int) -> Any:
    """What an environment in Python does: many small operations, little in each."""
    import torch

    state = torch.ones(num_envs, 29)
    for _ in range(_ROUNDS):
        state = (state * 0.99 + 0.01).clamp(-1.0, 1.0)
    return state
