"""``scale``: whether a commit, the metadata, opening and memory stay the same as blocks pile up."""

from __future__ import annotations

import os
import statistics
import time
from argparse import Namespace
from typing import Any

import numpy as np

from benchlib.measure import MB, Meter, in_child, status_nbytes
from benchlib.recording import DifferentDataError, Target, removed, targets
from benchlib.table import show

_ENVS, _DIM, _BLOCK_STEPS = 4, 4, 2
_COMMITS = 15
_MOST_ON_DISK = 1000


def scale(args: Namespace) -> dict[str, Any]:
    """The subcommand."""
    results = {}
    for target in targets(args):
        # Ten thousand blocks take minutes of syncs: on a disk only if nothing else is asked for.
        on_disk = target.title == "disk" and not args.disk_only
        marks = [b for b in sorted(args.blocks) if not on_disk or b <= _MOST_ON_DISK]
        rows = in_child(_grow, target, marks)
        show(f"One store as it grows, {target.title}: tiny blocks, three fields", rows)
        results[target.title] = rows
    return results


def _grow(target: Target, marks: list[int]) -> list[dict[str, Any]]:
    """Write one store, stopping at each mark to measure; runs in a child process."""
    path = os.path.join(target.folder, "scale.zarr")
    rows = []
    with removed(path):
        writer = tiny_writer(path)
        for mark in marks:
            start, before = time.perf_counter(), writer.num_steps
            add_until(writer, mark * _BLOCK_STEPS)
            writer.commit()
            blocks = max(1, (writer.num_steps - before) // _BLOCK_STEPS)
            per_block = (time.perf_counter() - start) / blocks
            row = {"blocks": mark, "ms a block": per_block * 1e3, "resume ms": None}
            rows.append({**row, **_look(path, writer)})
        writer.close()
        check_values(path, writer.num_steps)
        rows[-1]["resume ms"] = _resume_ms(path)
    return rows


def tiny_writer(path: str) -> Any:
    """A writer of three fields and tiny blocks."""
    from mosaic_collect import Field, Schema, TrajectoryWriter

    schema = Schema((Field(name="observations", dim=_DIM),))
    # Room for just three blocks of two steps makes blocks of two steps.
    buffer_mb = 3 * _BLOCK_STEPS * _ENVS * schema.pair_nbytes / MB
    writer = TrajectoryWriter(path, schema, _ENVS, buffer_mb=buffer_mb, commit_seconds=None)
    assert writer.block_steps == _BLOCK_STEPS, "the ring was planned otherwise"
    return writer


def add_until(writer: Any, steps: int) -> None:
    """Add steps until there are so many."""
    while writer.num_steps < steps:
        values = np.full((_ENVS, _DIM), writer.num_steps, np.float32)
        writer.add_step(observations=values)


def commit_milliseconds(writer: Any, commits: int, steps: int) -> float:
    """Median time of so many commits, each behind some steps."""
    taken = []
    for _ in range(commits):
        add_until(writer, writer.num_steps + steps)
        start = time.perf_counter()
        writer.commit()
        taken.append((time.perf_counter() - start) * 1e3)
    return statistics.median(taken)


def _look(path: str, writer: Any) -> dict[str, Any]:
    """Commit time, size of the root document, and what a reader needs, at this many blocks."""
    from mosaic_collect import TrajectoryDataset

    commit_ms = commit_milliseconds(writer, _COMMITS, _BLOCK_STEPS)
    memory = status_nbytes("VmRSS")
    meter = Meter()
    dataset = TrajectoryDataset(path)
    opened = meter.stop()
    start = time.perf_counter()
    dataset.read("observations", dataset.num_steps // 2, dataset.num_steps // 2 + 1)
    return {
        "commit ms": commit_ms,
        "root document bytes": os.path.getsize(os.path.join(path, "zarr.json")),
        "writer RAM MB": memory / MB,
        "open ms": opened["wall_s"] * 1e3,
        "open RAM MB": opened["peak_mb"],
        "one step read, ms": (time.perf_counter() - start) * 1e3,
    }


def check_values(path: str, steps: int) -> None:
    """Read the store back.

    Raises:
        DifferentDataError: It holds other values than it was given.
    """
    from mosaic_collect import TrajectoryDataset

    got = TrajectoryDataset(path).read("observations", 0, steps)
    if not (got == np.arange(steps)[:, None, None]).all():
        raise DifferentDataError("a growing store: other values than given")


def _resume_ms(path: str) -> float:
    from mosaic_collect import TrajectoryWriter

    start = time.perf_counter()
    writer = TrajectoryWriter(path, resume=True, buffer_mb=1)
    seconds = time.perf_counter() - start
    writer.close()
    return seconds * 1e3
