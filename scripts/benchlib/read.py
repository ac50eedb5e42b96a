"""``read``: from a store, everything in order, and one environment at random."""

from __future__ import annotations

import os
import random
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchlib.measure import MB, Meter, in_child
from benchlib.peers import Plan
from benchlib.recording import DifferentDataError, recorded
from benchlib.table import in_turns, show_medians
from benchlib.workload import Workload, make_workload

Read = Callable[[str, slice, slice], NDArray[Any]]
_RANDOM_READS = 200
_FIELD = "student_observations"


def read(args: Namespace) -> dict[str, Any]:
    """The subcommand; files are in the page cache, so it is decoding that is measured."""
    workload = make_workload(args.num_envs, args.dims, args.noise)
    plan = Plan.of(args, os.path.join(args.folder, "read.zarr"), args.read_steps)
    with recorded(workload, plan):
        runs = in_turns(args.runs, READERS, partial(in_child, measure_reader), workload, plan)
        chunks = in_child(chunks_decoded, plan)
    title = f"Reading {plan.steps} steps, medians of {args.runs}"
    found = show_medians(title, runs, "sequential raw MB/s")
    print(f"One environment of one block of {_FIELD}: {chunks} chunk decoded.\n", flush=True)
    return {**found, "chunks_decoded": chunks}


def chunks_decoded(plan: Plan) -> int:
    """How many chunks one environment's steps of one block take to decode."""
    from mosaic_collect import TrajectoryDataset
    from mosaic_collect.store.codec import Compressor

    decode, calls = Compressor.decode, []

    def counted(self: Compressor, data: memoryview, out: NDArray[Any], what: str) -> None:
        calls.append(what)
        decode(self, data, out, what)

    Compressor.decode = counted  # type: ignore[method-assign]
    TrajectoryDataset(plan.path)[_FIELD][0 : plan.block_steps // 2, 0]
    return len(calls)


def _ours(path: str) -> Read:
    from mosaic_collect import TrajectoryDataset

    dataset = TrajectoryDataset(path)
    return lambda field, steps, envs: dataset.read(field, steps.start, steps.stop, envs)


def _zarr(path: str) -> Read:
    from mosaic_collect import TrajectoryDataset

    group = TrajectoryDataset(path).to_zarr()
    arrays = {name: group[name] for name in group.array_keys()}
    return lambda field, steps, envs: np.asarray(arrays[field][steps, envs])


def _tensorstore(path: str) -> Read:
    import tensorstore as ts

    arrays: dict[str, Any] = {}

    def read_one(field: str, steps: slice, envs: slice) -> NDArray[Any]:
        if field not in arrays:
            store = {"driver": "file", "path": os.path.join(path, field)}
            arrays[field] = ts.open({"driver": "zarr3", "kvstore": store}, read=True).result()
        values: NDArray[Any] = arrays[field][steps, envs].read().result()
        return values

    return read_one


READERS = {"mosaic_collect": _ours, "zarr-python": _zarr, "tensorstore": _tensorstore}


def measure_reader(name: str, workload: Workload, plan: Plan) -> dict[str, float]:
    """One reader reads everything, block by block, is compared, and reads some slices at random.

    Raises:
        DifferentDataError: It gave back other values than were recorded.
    """
    read_one = READERS[name](plan.path)
    everyone = slice(0, workload.num_envs)
    expected = {n: np.arange(plan.steps) % workload.pool_steps for n in workload.pool}
    meter, wall, cpu, peak = Meter(), 0.0, 0.0, 0.0
    for field, order in expected.items():
        for start in range(0, plan.steps, plan.block_steps):
            steps = slice(start, min(start + plan.block_steps, plan.steps))
            meter.start()
            got = read_one(field, steps, everyone)
            figures = meter.stop()
            wall, cpu = wall + figures["wall_s"], cpu + figures["cpu_s"]
            peak = max(peak, figures["peak_mb"])
            if got.tobytes() != workload.pool[field][order[steps]].tobytes():
                raise DifferentDataError(f"{name}: {field}, {steps}: other values than given")
    raw = plan.steps * workload.step_nbytes
    return {
        "sequential raw MB/s": raw / MB / wall,
        "CPU s per raw GB": cpu / raw * 1e9,
        "peak RAM MB": peak,
        "one env of a block, ms": random_slice_ms(read_one, _FIELD, workload, plan),
    }


def random_slice_ms(read_one: Read, field: str, workload: Workload, plan: Plan) -> float:
    """Mean time of one environment's steps of one block, at random.

    Raises:
        DifferentDataError: It gave back other values than were recorded.
    """
    chance = random.Random(0)
    seconds = 0.0
    for _ in range(_RANDOM_READS):
        start = plan.block_steps * chance.randrange(max(1, plan.steps // plan.block_steps))
        steps = slice(start, min(start + plan.block_steps, plan.steps))
        env = chance.randrange(workload.num_envs)
        before = time.perf_counter()
        got = read_one(field, steps, slice(env, env + 1))
        seconds += time.perf_counter() - before
        rows = np.arange(steps.start, steps.stop) % workload.pool_steps
        if got.tobytes() != workload.pool[field][rows, env : env + 1].tobytes():
            raise DifferentDataError(f"{field}, {steps}, environment {env}: other values")
    return seconds / _RANDOM_READS * 1e3
