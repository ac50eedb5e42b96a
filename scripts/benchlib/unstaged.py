"""``unstaged``: what all but staging costs a loop, as where a GPU's copy engine fills the ring.

A GPU copies rows into the host's ring by itself. Here a loop of small tensor operations stands for
the host's side of such a simulator, and the ring is filled once, before it: ``add_step`` then does
all it ever does but for the copy. So this is no measurement of a GPU, but of what the threads, or
the process, behind the ring take from a loop at the rate of thousands of environments.
"""

from __future__ import annotations

import os
import time
from argparse import Namespace
from typing import Any

import numpy as np

from benchlib.loop import beside_alone, simulate, timed
from benchlib.measure import MB, one_torch_thread
from benchlib.peers import PEERS, Plan
from benchlib.peers.ours import Ours
from benchlib.recording import DifferentDataError, targets
from benchlib.workload import Workload, make_workload

RECORDERS = ("mosaic_collect", "mosaic-threads")
_ROUNDS = 4  # of ``simulate``: some 20 ms a step
_BLOCK_STEPS = 32
_CHECKED = "actions"


def unstaged(args: Namespace) -> dict[str, Any]:
    """The subcommand."""
    workload = make_workload(args.unstaged_envs, args.dims, args.noise)
    buffer_mb = (3 * _BLOCK_STEPS + 1) * workload.step_nbytes / MB
    path = os.path.join(targets(args)[-1].folder, "unstaged")
    plan = Plan(path, args.unstaged_steps, _BLOCK_STEPS, buffer_mb, args.compressor)
    title = f"Loop without staging, {args.unstaged_envs} environments"
    return beside_alone(args, title, RECORDERS, run_unstaged, workload, plan)


def run_unstaged(name: str | None, workload: Workload, plan: Plan) -> dict[str, float]:
    """The loop with one recorder, or with none; in a child process."""
    recorder = None if name is None else _filled(PEERS[name].load(), workload, plan)
    rows = workload.step(0)
    with one_torch_thread():
        simulate(256)
        figures = timed(recorder, lambda _: rows, plan.steps, [256] * _ROUNDS)
    if recorder is not None:
        recorder.finish()
        _compare(plan)
    return figures


def _filled(recorder_class: Any, workload: Workload, plan: Plan) -> Ours:
    """A recorder whose ring holds real steps, and which copies no more of them into it."""
    recorder: Ours = recorder_class(workload, plan)
    writer, used = recorder.writer, set()
    for index in range(3 * writer.block_steps):
        recorder.add(workload.step(index))
        used.add(writer._steps.block.slot)
    # A slot that no block needed yet gets what the current one holds.
    writer.commit()
    while len(writer._pipeline.free) < 2:
        writer._pipeline.fill_next()  # which has another one filled, if there is one
        time.sleep(0.01)
    for block in writer._pipeline.free:
        if block.slot not in used:
            for name, array in block.arrays.items():
                np.copyto(array, writer._steps.block.arrays[name])
    writer._pipeline.staging.stage = lambda block, rows: None
    return recorder


def _compare(plan: Plan) -> None:
    """Every block is one of the three with which the ring was filled.

    Raises:
        DifferentDataError: One is not.
    """
    from mosaic_collect import TrajectoryDataset

    dataset = TrajectoryDataset(plan.path)
    size = dataset.state.block_steps
    firsts = [dataset.read(_CHECKED, size * i, size * (i + 1)) for i in range(3)]
    for start in range(3 * size, dataset.num_steps, size):
        block = dataset.read(_CHECKED, start, min(start + size, dataset.num_steps))
        if not any((block == first[: len(block)]).all() for first in firsts):
            raise DifferentDataError(f"{_CHECKED}, steps from {start}: of no block of the ring")
