"""``sample``: random minibatches from a store, beside what its parts allow and other loaders."""

from __future__ import annotations

import os
import time
from argparse import Namespace
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchlib.loaders import LOADERS, Copies, Loader, Ours
from benchlib.measure import Meter, in_child
from benchlib.peers import Plan
from benchlib.recording import DifferentDataError, recorded, removed
from benchlib.table import Figures, in_turns, medians, show_medians
from benchlib.workload import Workload, make_workload

#: What a student of MOSAIC's is trained on: 857 floats a pair.
FIELDS = ("student_observations", "actions", "action_mean", "action_sigma")
_GATHERED = 400


def sample(args: Namespace) -> dict[str, Any]:
    """The subcommand; files are in the page cache, as far as memory goes."""
    workload = make_workload(args.num_envs, args.dims, args.noise)
    path = os.path.join(args.folder, "sample.zarr")
    plan = Plan.of(args, path, args.sample_steps)
    copies = Copies(path, os.path.join(args.folder, "sample"), plan.steps, FIELDS)
    contenders = _contenders(args, copies)
    skipped: dict[str, str] = {}
    with removed(copies.folder), recorded(workload, plan):
        for name, loader in LOADERS.items():
            skipped.update(in_child(_prepare, name, loader, workload, copies))
        names = [name for name in contenders if name not in skipped]
        runs = in_turns(args.runs, names, lambda name: in_child(contenders[name], workload))
    runs["decode and gather"] = [
        {
            **decoded,
            "pairs/s": 1 / (1 / decoded["pairs/s"] + 1 / gathered["pairs/s"]),
            "CPU µs a pair": decoded["CPU µs a pair"] + gathered["CPU µs a pair"],
        }
        for decoded, gathered in zip(runs["decode"], runs["gather"], strict=True)
    ]
    allowed = medians(runs["decode and gather"])["pairs/s"]

    def row(name: str, middle: Figures) -> dict[str, Any]:
        return {"what": name, **middle, "of decode and gather": middle["pairs/s"] / allowed}

    title = f"{plan.steps * args.num_envs:,} pairs, batches of {args.batch}, pool of "
    title += f"{args.shuffle_buffer_mb:g} MB, medians of {args.runs}"
    found = show_medians(title, runs, "pairs/s", row)
    for name, reason in skipped.items():
        print(f"{name}: {reason}", flush=True)
    return {**found, "skipped": skipped}


def _contenders(args: Namespace, copies: Copies) -> dict[str, Callable[[Workload], Any]]:
    ours: dict[str, Callable[[Workload], Any]] = {
        "decode": lambda workload: _decode(args, copies),
        "gather": lambda workload: _gather(args, copies),
    }

    def theirs(loader: Loader) -> Callable[[Workload], Any]:
        return lambda workload: _measure(loader, copies, args, workload)

    return {**ours, **{name: theirs(loader) for name, loader in LOADERS.items()}}


def _prepare(name: str, loader: Loader, workload: Workload, copies: Copies) -> dict[str, str]:
    """Write what the loader reads; why it is skipped if it is not here."""
    try:
        loader.prepare(workload, copies)
    except ImportError as error:
        return {name: f"skipped, {error}"}
    return {}


def _decode(args: Namespace, copies: Copies) -> dict[str, float]:
    """Every tile decoded once into memory that is used again, by as many threads as processors."""
    from mosaic_collect.sampling.source import PairSource

    tiles = PairSource(copies.store, _options(args)).tiles
    numbers = range(len(tiles.tiles))
    rooms = cycle([_room(tiles) for _ in range(_threads() + 1)])
    with ThreadPoolExecutor(_threads()) as pool:
        meter = Meter()
        for _ in pool.map(tiles.load, numbers, rooms):
            pass
        figures = meter.stop()
    return _figures(figures, tiles.num_pairs)


def _gather(args: Namespace, copies: Copies) -> dict[str, float]:
    """Batches of random rows out of a full pool, into memory that is used again."""
    from mosaic_collect.sampling.pool import HostMemory
    from mosaic_collect.sampling.source import PairSource

    options = _options(args, threads=_threads())
    tiles = PairSource(copies.store, options).tiles
    slots, memory = tiles.slots, HostMemory(tiles, options)
    for slot in range(slots):
        memory.load(slot, slot)
    chance = np.random.default_rng(0)
    codes = [chance.integers(slots * tiles.rows, size=args.batch) for _ in range(50)]
    room, done = memory.empty(args.batch), 0
    wait(memory.gather(codes[0], room, 0))
    meter = Meter()
    for some in cycle(codes):
        wait(memory.gather(some, room, 0))
        done += args.batch
        if done >= _GATHERED * args.batch:
            break
    figures = meter.stop()
    memory.close()
    return _figures(figures, done)


def _options(args: Namespace, **others: Any) -> Any:
    from mosaic_collect.sampling.options import LoaderOptions

    return LoaderOptions(
        batch_size=args.batch, fields=FIELDS, shuffle_buffer_mb=args.shuffle_buffer_mb, **others
    )


def _room(tiles: Any) -> dict[str, NDArray[Any]]:
    return {f.name: np.zeros((tiles.rows, *f.row_shape), f.dtype) for f in tiles.fields}


def _threads() -> int:
    from mosaic_collect.checks import processors

    return processors()


def _measure(loader: Loader, copies: Copies, args: Namespace, workload: Workload) -> Any:
    """Batches until there are none, or for some seconds.

    The clock runs from the start for ours, which fills its pool then; for others from their first
    batch on, which waits for workers to be started.
    """
    import torch

    torch.set_num_threads(1)
    batches = loader.batches(copies, args)
    pairs, batch = 0, None
    if not isinstance(loader, Ours):
        next(batches)
    meter = Meter()
    end = time.perf_counter() + args.sample_seconds
    for batch in batches:
        pairs += len(batch["actions"])
        if time.perf_counter() > end:
            break
    meter.see_children()
    figures = meter.stop()
    check(batch, workload)
    return _figures(figures, pairs)


def _figures(figures: dict[str, float], pairs: int) -> dict[str, float]:
    return {
        "pairs/s": pairs / figures["wall_s"],
        "CPU µs a pair": figures["cpu_s"] / pairs * 1e6,
        "peak RAM MB": figures["peak_mb"],
    }


def check(batch: dict[str, Any] | None, workload: Workload) -> None:
    """Every row of a batch is some pair's, and all of its fields are that pair's.

    Raises:
        DifferentDataError: One is not.
    """
    assert batch is not None, "no batch"
    rows = {name: np.asarray(batch[name]) for name in FIELDS}
    flat = {name: workload.pool[name].reshape(-1, rows[name].shape[-1]) for name in FIELDS}
    place_of = {row.tobytes(): i for i, row in enumerate(flat["actions"])}
    for i, action in enumerate(rows["actions"]):
        place = place_of.get(action.tobytes(), -1)
        for name in FIELDS:
            if place < 0 or rows[name][i].tobytes() != flat[name][place].tobytes():
                raise DifferentDataError(f"{name}: a row that was not recorded so")
