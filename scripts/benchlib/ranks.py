"""``ranks``: several processes that record into one folder, and what opening many parts costs."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from argparse import Namespace
from typing import Any

import numpy as np

from benchlib.measure import MB
from benchlib.recording import DifferentDataError, removed, targets
from benchlib.table import in_turns, medians, show, show_medians
from benchlib.workload import Workload, make_workload

_RANKS, _PARTS = (1, 2, 4), (1, 8, 64)
_OPENINGS = 15
_RATE = "env-steps/s, all"


def ranks(args: Namespace) -> dict[str, Any]:
    """The subcommand."""
    workload = make_workload(args.num_envs, args.dims)
    results: dict[str, Any] = {}
    for target in targets(args):
        folder = os.path.join(target.folder, "ranks")
        runs = in_turns(args.runs, _RANKS, _record, args, workload, folder)
        alone = medians(runs[1])[_RATE]

        def row(number: int, middle: dict[str, float], alone: float = alone) -> dict[str, Any]:
            return {"ranks": number, **middle, "of one's": middle[_RATE] / alone}

        title = f"Ranks side by side, {target.title}: {args.steps} steps each"
        recorded = show_medians(title, runs, _RATE, row)
        opened = [_open(folder, parts) for parts in _PARTS]
        show(f"Opening a folder of ranks, {target.title}", opened)
        results[target.title] = {"record": recorded, "open": opened}
    return results


def _record(number: int, args: Namespace, workload: Workload, folder: str) -> dict[str, float]:
    """Environment steps a second of so many ranks together, until the last one is closed."""
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(number + 1)
    told = (args, workload, folder, number, ready)
    children = [context.Process(target=_rank, args=(rank, *told)) for rank in range(number)]
    with removed(folder):
        for child in children:
            child.start()
        ready.wait()
        start = time.perf_counter()
        for child in children:
            child.join()
        seconds = time.perf_counter() - start
        if any(child.exitcode for child in children):
            raise RuntimeError("a rank failed")
        _check(workload, folder, number, args.steps)
    return {_RATE: number * args.steps * workload.num_envs / seconds}


def _rank(
    rank: int, args: Namespace, workload: Workload, folder: str, number: int, ready: Any
) -> None:
    from mosaic_collect import Field, Schema, TrajectoryWriter

    fields = [(n, v) for n, v in workload.pool.items() if n != "valid_mask"]
    schema = Schema(tuple(Field(name=n, dim=v.shape[2], dtype=str(v.dtype)) for n, v in fields))
    ring_mb = 3 * (args.block_steps + 0.5) * workload.step_nbytes / MB
    with TrajectoryWriter(
        *(folder, schema, workload.num_envs),
        rank=rank,
        world_size=number,
        buffer_mb=ring_mb,
        compressor=args.compressor,
        commit_seconds=None,
    ) as writer:
        ready.wait()
        for step in range(args.steps):
            writer.add_step(**{n: v[step % workload.pool_steps] for n, v in workload.pool.items()})


def _check(workload: Workload, folder: str, number: int, steps: int) -> None:
    """The last step of each rank, bit for bit."""
    from mosaic_collect import TrajectoryDataset

    parts = TrajectoryDataset(folder).parts
    last = (steps - 1) % workload.pool_steps
    for name, values in workload.pool.items():
        for part in parts:
            if not np.array_equal(part.read(name, steps - 1)[0], values[last]):
                raise DifferentDataError(f"{part.path}: {name}")
    if len(parts) != number:
        raise DifferentDataError(f"{folder}: {len(parts)} ranks")


def _open(folder: str, number: int) -> dict[str, Any]:
    """Medians, in ms of the processor, of so many parts of one block each."""
    from mosaic_collect import Field, Schema, TrajectoryDataset, TrajectoryWriter

    schema = Schema((Field(name="observations", dim=4),))
    names = [os.path.join(folder, f"rank-{rank:05d}") for rank in range(number)]
    with removed(folder):
        for rank in range(number):
            with TrajectoryWriter(folder, schema, 4, rank=rank, buffer_mb=0.1) as writer:
                writer.add_step(observations=np.zeros((4, 4), np.float32))
        return {
            "parts": number,
            "open, CPU ms": _milliseconds(lambda: TrajectoryDataset(folder)),
            "one by one, CPU ms": _milliseconds(lambda: [TrajectoryDataset(n) for n in names]),
            "its table, CPU ms": _milliseconds(lambda: TrajectoryDataset(folder).trajectories),
        }


def _milliseconds(call: Any) -> float:
    taken = []
    for _ in range(_OPENINGS):
        start = time.process_time()  # of all threads; steadier than the clock
        call()
        taken.append((time.process_time() - start) * 1e3)
    return statistics.median(taken)
