"""``passes``: verify, statistics and export in threads here, and by processes of a Dask cluster."""

from __future__ import annotations

import hashlib
import os
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from benchlib.measure import in_child
from benchlib.peers import Plan
from benchlib.recording import DifferentDataError, recorded, remove, removed
from benchlib.table import Figures, in_turns, show_medians
from benchlib.workload import make_workload

#: How many worker processes; None: threads here, as many as there are processors.
ENGINES: dict[str, int | None] = {"threads here": None, "1 worker": 1, "2 workers": 2}
_TASKS = 300


def passes(args: Namespace) -> dict[str, Any]:
    """The subcommand; files are in the page cache, but what exports write is synced."""
    workload = make_workload(args.num_envs, args.dims, args.noise)
    steps = max(1, int(args.passes_gb * 1e9) // workload.step_nbytes)
    store, file = (os.path.join(args.folder, n) for n in ("passes.zarr", "passes.npy"))
    plan = Plan.of(args, store, steps)
    told = set()

    def run(name: str) -> Figures:
        figures: Figures
        figures, found = in_child(measure_engine, ENGINES[name], store, file)
        told.add(found)
        return figures

    with removed(file), recorded(workload, plan):
        runs = in_turns(args.runs, ENGINES, run)
    if len(told) > 1:
        raise DifferentDataError(f"passes: expected one answer of all engines, got {told}")
    raw_gb = steps * workload.step_nbytes / 1e9
    title = f"Passes over {raw_gb:.2f} GB raw, medians of {args.runs}"
    return show_medians(title, runs, "export s")


def measure_engine(
    workers: int | None, store: str, file: str
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Seconds and CPU seconds of each pass, and what came out."""
    from mosaic_collect import export_npy, store_statistics, verify_store

    figures: dict[str, float] = {}
    with _engine(workers) as engine:
        pids = [os.getpid(), *(engine._client.run(os.getpid).values() if engine else ())]

        def measured(name: str, call: Callable[[], Any]) -> Any:
            cpu, wall = _cpu_seconds(pids), time.perf_counter()
            found = call()
            figures[f"{name} s"] = time.perf_counter() - wall
            figures[f"{name} CPU s"] = _cpu_seconds(pids) - cpu
            return found

        if engine is not None:
            start = time.perf_counter()
            list(engine.map(_nothing, iter(range(_TASKS))))
            figures["ms a task"] = (time.perf_counter() - start) / _TASKS * 1e3
        verified = measured("verify", lambda: verify_store(store, engine=engine))
        stats = measured("statistics", lambda: store_statistics(store, engine=engine))
        os.sync()
        measured("export", lambda: export_npy(store, file, engine=engine))
    with open(file, "rb") as exported:
        digest = hashlib.file_digest(exported, "sha256").hexdigest()
    remove(file)
    values = {**stats.to_json(), "seconds": 0}
    return figures, (str(verified.problems), str(values), digest)


@contextmanager
def _engine(workers: int | None) -> Iterator[Any]:
    if workers is None:
        yield None
        return
    from mosaic_collect import DaskEngine

    with DaskEngine(workers=workers) as engine:
        yield engine


def _nothing(piece: int) -> None:
    """What handing over takes."""


def _cpu_seconds(pids: list[int]) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(t.user + t.system for t in times)
