"""``gpu``: what recording costs a simulator on a CUDA device, and whether every bit arrives."""

from __future__ import annotations

import math
import os
import random
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchlib.measure import MB, in_child, percentile
from benchlib.peers import Plan
from benchlib.recording import DifferentDataError, removed
from benchlib.table import show
from benchlib.workload import Workload, make_workload

_STEP_MS = 20.0
_UPDATE_MS, _UPDATES, _BATCH = 50.0, 100, 100_000
_POOL_ON_DEVICE = 64


def gpu(args: Namespace) -> dict[str, Any]:
    """The subcommand; says why where there is nothing to measure."""
    reason = in_child(_why_not)
    if reason:
        print(f"\n### GPU: not measured, {reason}\n", flush=True)
        return {"skipped": reason}
    workload = make_workload(args.num_envs, args.dims, args.noise)
    small = make_workload(16, "small")
    path = os.path.join(args.folder, "gpu.zarr")
    plan = Plan(path, args.steps, args.block_steps, args.buffer_mb, "auto")
    # A ring of three blocks of about two steps: thousands of blocks in a few seconds.
    many = Plan(path, 4 * args.steps, 2, 7 * small.step_nbytes / MB, "auto")
    results = {}
    for name, measure in _MEASURES.items():
        mine = (small, many) if name.startswith("correct") else (workload, plan)
        with removed(path):
            results[name] = in_child(measure, *mine)
    figures = {n: ", ".join(f"{k} {v:.4g}" for k, v in f.items()) for n, f in results.items()}
    show("GPU", [{"what": name, "figures": words} for name, words in figures.items()])
    return results


def host_time(workload: Workload, plan: Plan) -> dict[str, float]:
    """Host microseconds of ``add_step`` for six fields, the device idle or not."""
    import torch

    steps, writer = _on_device(workload), _writer(workload, plan)
    taken = []
    for index in range(plan.steps):
        rows = steps[index % len(steps)]
        start = time.perf_counter()
        writer.add_step(**rows)
        taken.append((time.perf_counter() - start) * 1e6)
        if index % 16 == 15:
            # Enough pause that the disk keeps up: it is the call that is measured.
            torch.cuda.synchronize()
            time.sleep(0.01)
    writer.close()
    return {
        "p50_us": percentile(taken, 0.5),
        "p99_us": percentile(taken, 0.99),
        "max_us": max(taken),
    }


def copy_rate(workload: Workload, plan: Plan) -> dict[str, float]:
    """A block's way off the device, beside one large pinned copy.

    Once into memory that the driver allocates, once into a ring that another process sees.
    """
    from mosaic_collect.recording.blocks import SharedRing
    from mosaic_collect.recording.cuda import DeviceStaging

    writer = _writer(workload, plan)
    grids = writer._state.grids()
    writer.close()
    rows = _on_device(workload)[0]
    nbytes = sum(math.prod(v.shape) * v.element_size() for v in rows.values()) * plan.block_steps
    plain_s = _seconds_of_a_copy(nbytes)
    figures = {"pinned_mb_s": nbytes / MB / plain_s}
    for name, ring in (("own", None), ("shared", SharedRing(grids, 1, by_step=False))):
        staging = DeviceStaging(grids, workload.num_envs, "cuda:0", ring)
        block_s, staged = _seconds_of_a_block(staging, rows)
        figures[f"{name}_mb_s"] = staged / MB / block_s
        figures[f"{name}_share"] = staged / block_s / (nbytes / plain_s)
        staging.close()
    return figures


def _seconds_of_a_block(staging: Any, rows: dict[str, Any]) -> tuple[float, int]:
    block = staging.new_block(0)
    block.fill()

    def begin() -> None:
        staging.begin(block)
        staging.stage(block, rows)

    def copy() -> None:
        staging.seal(block)
        block.wait_ready()

    return _seconds(begin, copy), sum(block.arrays[n].nbytes for n in rows)


def _seconds_of_a_copy(nbytes: int) -> float:
    import torch

    source = torch.empty(nbytes, dtype=torch.uint8, device="cuda:0")
    target = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    def copy() -> None:
        target.copy_(source, non_blocking=True)
        torch.cuda.synchronize()

    return _seconds(lambda: None, copy)


def _seconds(begin: Callable[[], None], work: Callable[[], None]) -> float:
    """Median seconds of some work, which begins on an idle device."""
    import torch

    taken = []
    for _ in range(20):
        begin()
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return percentile(taken, 0.5)


def step_loss(workload: Workload, plan: Plan) -> dict[str, float]:
    """Steps a second of a simulation that keeps the device busy 20 ms a step."""
    alone = _simulated(workload, None, plan.steps // 4)
    writer = _writer(workload, plan)
    recorded = _simulated(workload, writer, plan.steps // 4)
    writer.close()
    return {"alone_steps_s": alone, "recorded_steps_s": recorded, "loss": 1 - recorded / alone}


def correctness(workload: Workload, plan: Plan, encode_in: str = "threads") -> dict[str, float]:
    """Under load, with random delays, and sources overwritten at once, nothing may change.

    Raises:
        DifferentDataError: It did.
    """
    import torch

    from mosaic_collect import TrajectoryDataset

    steps, chance = _on_device(workload), random.Random(0)
    writer = _writer(workload, plan, encode_in)
    buffers = {n: torch.empty_like(v) for n, v in steps[0].items()}
    load = torch.randn(2048, 2048, device="cuda:0")
    for index in range(plan.steps):
        for name, buffer in buffers.items():
            buffer.copy_(steps[index % len(steps)][name], non_blocking=True)
        torch.cuda._sleep(chance.randrange(2_000_000))
        load = (load @ load).clamp(-1, 1)
        writer.add_step(**buffers)
        for buffer in buffers.values():
            buffer.fill_(1)
    blocks = writer.num_steps // writer.block_steps
    writer.close()
    dataset = TrajectoryDataset(plan.path)
    for start in range(0, plan.steps, 64):
        order = np.arange(start, min(start + 64, plan.steps)) % len(steps)
        for name, pool in workload.pool.items():
            if dataset.read(name, start, start + len(order)).tobytes() != pool[order].tobytes():
                raise DifferentDataError(f"{name}, step {start}: other values than given")
    return {"blocks": blocks, "differences": 0}


def sampling(workload: Workload, plan: Plan) -> dict[str, float]:
    """Milliseconds that a trainer waits for batches of 100,000 pairs, at work 50 ms on each."""
    import torch

    from benchlib.sample import FIELDS
    from mosaic_collect import BatchLoader

    rows = _on_device(workload)
    with _writer(workload, plan) as writer:
        for index in range(plan.steps):
            writer.add_step(**rows[index % len(rows)])
    cycles, figures = _cycles_of(_UPDATE_MS), {}
    for reuse in (4, 16):
        loader = BatchLoader(
            plan.path,
            _BATCH,
            FIELDS,
            mode="stream",
            reuse=reuse,
            device="cuda:0",
            shuffle_buffer_mb=512,
        )
        stream, waited = iter(loader), []
        next(stream)  # waits for the pool
        for _ in range(_UPDATES):
            start = time.perf_counter()
            next(stream)
            waited.append((time.perf_counter() - start) * 1e3)
            torch.cuda._sleep(cycles)
            torch.cuda.current_stream().synchronize()
        loader.close()
        figures[f"reuse_{reuse}_p50_ms"] = percentile(waited, 0.5)
        figures[f"reuse_{reuse}_max_ms"] = max(waited)
    return figures


_MEASURES = {
    "host_time": host_time,
    "copy_rate": copy_rate,
    "step_loss": step_loss,
    "correctness": correctness,
    "correctness_of_a_process": partial(correctness, encode_in="process"),
    "sampling": sampling,
}


def _simulated(workload: Workload, writer: Any, steps: int) -> float:
    import torch

    rows = _on_device(workload)
    cycles = _cycles_of(_STEP_MS)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for index in range(steps):
        torch.cuda._sleep(cycles)
        if writer is not None:
            writer.add_step(**rows[index % len(rows)])
        # As a simulator does, which needs the step's results for the next action.
        torch.cuda.current_stream().synchronize()
    return steps / (time.perf_counter() - start)


def _cycles_of(milliseconds: float) -> int:
    """How long ``torch.cuda._sleep`` must be told to sleep."""
    import torch

    probe = 50_000_000
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(2):  # the first warms up
        begin.record()
        torch.cuda._sleep(probe)
        end.record()
        end.synchronize()
    return int(probe * milliseconds / begin.elapsed_time(end))


def _on_device(workload: Workload) -> list[dict[str, Any]]:
    import torch

    count = min(_POOL_ON_DEVICE, workload.pool_steps)
    return [
        {n: torch.from_numpy(v).to("cuda:0") for n, v in workload.true_step(i).items()}
        for i in range(count)
    ]


def _writer(workload: Workload, plan: Plan, encode_in: str = "auto") -> Any:
    from benchlib.peers.ours import schema_of
    from mosaic_collect import TrajectoryWriter

    return TrajectoryWriter(
        plan.path,
        schema_of(workload),
        workload.num_envs,
        device="cuda:0",
        buffer_mb=plan.buffer_mb,
        encode_in=encode_in,
    )


def _why_not() -> str:
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    return "" if torch.cuda.is_available() else "torch sees no CUDA device"
