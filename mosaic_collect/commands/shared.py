"""Options, progress bars and output formats that several commands share."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from typing import Annotated, Any

from tqdm import tqdm

from mosaic_collect.commands.options import ARGUMENT
from mosaic_collect.errors import InputError, StoreError
from mosaic_collect.passes.cluster import DaskEngine
from mosaic_collect.passes.engine import Engine
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.recording.signals import termination_as_exit
from mosaic_collect.store.objects import is_url
from mosaic_collect.store.ranks import Place
from mosaic_collect.store.view import AUTO

Paths = Annotated[Sequence[str], ARGUMENT]
File = Annotated[str | None, {"metavar": "FILE"}]
Stores = Annotated[
    Paths,
    {
        "help": "Store, multi-rank dataset or pattern; several are read as one. A store may still "
        "be recording."
    },
]
Json = Annotated[bool, {"help": "Print the answer as JSON, one object per line."}]
_ONE = {"exclusive": "engine"}


def engine_of(
    scheduler: Annotated[str | None, _ONE] = None, workers: Annotated[int | None, _ONE] = None
) -> AbstractContextManager[Engine | None]:
    """The processes or the cluster that a command is given; None: threads of this process.

    Args:
        scheduler: Address of a Dask scheduler that does the work, such as tcp://10.0.0.1:8786. Its
            workers need the same files and the same version of mosaic_collect (default: threads of
            this process).
        workers: Number of local processes that do the work (default: threads of this process).
    """
    if scheduler is None and workers is None:
        return nullcontext()
    return DaskEngine(scheduler, workers)


#: The options of ``engine_of``.
ENGINE = {"of": engine_of, "group": "many processes"}


def engine_options(options: dict[str, Any]) -> dict[str, Any]:
    """Take the options of ``engine_of`` out of all that a command was given."""
    return {name: options.pop(name) for name in ("scheduler", "workers") if name in options}


def dataset_of(stores: Sequence[str]) -> TrajectoryDataset:
    """The stores as one; a single one is named in errors as it was given."""
    return TrajectoryDataset(stores[0] if len(stores) == 1 else list(stores))


def add_resume(group: argparse._ActionsContainer, help_: str) -> None:
    """``--resume``, for people, and ``--auto-resume``, for jobs that are queued again."""
    flags, default = group.add_mutually_exclusive_group(), argparse.SUPPRESS
    flags.add_argument("--resume", action="store_true", help=help_, default=default)
    flags.add_argument(
        "--auto-resume",
        dest="resume",
        action="store_const",
        const=AUTO,
        default=default,
        help="continue if there is something to continue, and begin otherwise (default: no)",
    )


def answer(is_json: bool, report: Any, *lines: str, but: Collection[str] = (), **more: Any) -> None:
    """Print a report: as JSON ``but`` some fields and ``more`` beside, or else these lines."""
    print(as_json(report, but, **more) if is_json else "\n".join(lines), flush=True)


def as_json(report: Any, but: Collection[str] = (), **more: Any) -> str:
    """One line: all fields of a dataclass ``but`` some, and more beside.

    JSON has no NaN and no infinity: where a field is that, its name stands as a text.
    """
    values = {**{k: v for k, v in asdict(report).items() if k not in but}, **more}
    odd = {k: str(v) for k, v in values.items() if isinstance(v, float) and not math.isfinite(v)}
    return json.dumps({**values, **odd}, allow_nan=False)


@contextmanager
def resumable(store: str, again: str = "") -> Iterator[None]:
    """A recording, which a signal ends as an exit; tells what is committed, and how to continue."""
    try:
        with termination_as_exit():
            yield
    except (KeyboardInterrupt, SystemExit):
        words = again or "the same command with --resume"
        try:
            steps = TrajectoryDataset(store).num_steps
            told = f"{store}: {steps:,} steps are committed; continue with: {words}"
        except StoreError:
            told = "interrupted before the first step"
        print(told, file=sys.stderr)
        raise


def bar(what: str, unit: str = "B", total: int | None = None, leave: bool = False) -> Any:
    """A progress bar on stderr, if that is a terminal; pass its ``update`` as ``progress``."""
    return tqdm(total=total, unit=unit, unit_scale=True, desc=what, disable=None, leave=leave)


def store_stem(stores: Sequence[str]) -> str:
    """The store's path without ``.zarr``: output files next to the store begin with it.

    A pattern and several stores have no name in common. A URL has no folder: a file of its name in
    the working folder may be of another store.
    """
    store = stores[0]
    if len(stores) > 1:
        raise InputError("output: expected a name, for there are several stores")
    if not Place.of(store).is_one:
        raise InputError(f"output: expected a name, for {store} is a pattern")
    if is_url(store):
        raise InputError(f"output: expected a name, for {store} is in object storage")
    return os.path.normpath(store).removesuffix(".zarr")
