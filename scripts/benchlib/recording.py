"""Recordings that are measured or measured on: made, compared bit for bit, removed."""

from __future__ import annotations

import os
import shutil
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from benchlib.measure import MB, Meter, in_child, tree_nbytes
from benchlib.peers import PEERS, Plan, Recorder
from benchlib.workload import Workload

_COMPARED_STEPS = 64


class DifferentDataError(Exception):
    """A recorder gave back other values than it was given."""


@dataclass(frozen=True)
class Target:
    """Where recordings go: ``folder``, named ``title`` in tables."""

    title: str
    folder: str


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


def remove(path: str) -> None:
    """Remove a file or a folder; there may be none."""
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        os.remove(path)


@contextmanager
def removed(*paths: str) -> Iterator[None]:
    """Remove files and folders before and behind the block; other writes are over by then."""
    for path in paths:
        remove(path)
    os.sync()  # what others wrote must not be waited for in an fsync of the block
    try:
        yield
    finally:
        for path in paths:
            remove(path)


@contextmanager
def recorded(workload: Workload, plan: Plan) -> Iterator[None]:
    """Keep a store of ours with all steps within the block, for what is measured on stores."""
    with removed(plan.path):
        in_child(record_all, workload, plan)
        yield


def record_once(name: str, workload: Workload, plan: Plan) -> dict[str, float] | None:
    """``record`` in a child; None if the library is missing. The recording is removed."""
    with removed(plan.path):
        figures: dict[str, float] | None = in_child(_try_record, name, workload, plan)
    return figures


def _try_record(name: str, workload: Workload, plan: Plan) -> dict[str, float] | None:
    try:
        PEERS[name].load()
    except ImportError:
        return None
    return record(name, workload, plan)


def record(name: str, workload: Workload, plan: Plan) -> dict[str, float]:
    """One recording of one recorder, measured and compared; runs in a child process."""
    figures = metered(name, workload, plan)
    compare(PEERS[name].load(), workload, plan)
    raw = plan.steps * workload.step_nbytes
    stored = tree_nbytes(plan.path)
    return {
        "raw MB": raw / MB,
        "raw MB/s": raw / MB / figures["wall_s"],
        "CPU s per raw GB": figures["cpu_s"] / raw * 1e9,
        "peak RAM MB": figures["peak_mb"],
        "disk MB": stored / MB,
        "ratio": raw / stored,
    }


def metered(name: str, workload: Workload, plan: Plan) -> dict[str, float]:
    """The meter's figures of a recording, from the making of its recorder to durable."""
    recorder_class = PEERS[name].load()
    meter = Meter()
    recorder = recorder_class(workload, plan)
    for index in range(plan.steps):
        recorder.add(workload.step(index))
    meter.see_children()
    recorder.finish()
    return meter.stop()


def record_all(workload: Workload, plan: Plan) -> None:
    """Record a store of ours with all steps."""
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
