"""Options, progress bars and output formats that several commands share."""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from tqdm import tqdm

from mosaic_collect.commands.options import Command, shown
from mosaic_collect.errors import InputError, StoreError
from mosaic_collect.passes.cluster import DaskEngine
from mosaic_collect.passes.engine import Engine
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.store.codec import COMPRESSORS
from mosaic_collect.store.objects import is_url
from mosaic_collect.store.ranks import Place
from mosaic_collect.store.view import AUTO

#: What every command that reads stores takes.
STORES = shown(positional=True)


@dataclass(frozen=True, kw_only=True)
class WithJson(Command):
    """A command that can print its answer for programs.

    Attributes:
        json: Print the answer as JSON, one object per line.
    """

    json: bool = False

    def answer(self, report: Any, *lines: str, but: Collection[str] = (), **more: Any) -> None:
        """Print a report: as JSON ``but`` some fields and ``more`` beside, or else these lines."""
        print(as_json(report, but, **more) if self.json else "\n".join(lines), flush=True)


@dataclass(frozen=True, kw_only=True)
class WithStores(Command):
    """A command that reads stores as one.

    Attributes:
        store: Store, multi-rank dataset or pattern; several are read as one. A store may still be
            recording.
    """

    store: Sequence[str] = field(metadata=STORES)

    @property
    def dataset(self) -> TrajectoryDataset:
        """The stores; a single one is named in errors as it was given."""
        return TrajectoryDataset(self.store[0] if len(self.store) == 1 else list(self.store))


@dataclass(frozen=True, kw_only=True)
class WithEngine(Command):
    """A command that reads whole stores, on several processes or machines if wanted.

    Attributes:
        scheduler: Address of a Dask scheduler that does the work, such as tcp://10.0.0.1:8786. Its
            workers need the same files and the same version of mosaic_collect (default: threads of
            this process).
        workers: Number of local processes that do the work (default: threads of this process).
    """

    GROUPS: ClassVar[Mapping[str, Sequence[str]]] = {"many processes": ("scheduler", "workers")}

    scheduler: str | None = field(default=None, metadata=shown(exclusive="engine"))
    workers: int | None = field(default=None, metadata=shown(exclusive="engine"))

    @contextmanager
    def engine(self) -> Iterator[Engine | None]:
        """The processes or the cluster; None: threads of this process."""
        if self.scheduler is None and self.workers is None:
            yield None
            return
        with DaskEngine(self.scheduler, self.workers) as engine:
            yield engine


def add_resume(group: argparse._ActionsContainer, help_: str, default: Any) -> None:
    """``--resume``, for people, and ``--auto-resume``, for jobs that are queued again."""
    flags = group.add_mutually_exclusive_group()
    flags.add_argument("--resume", action="store_true", help=help_, default=default)
    flags.add_argument(
        "--auto-resume",
        dest="resume",
        action="store_const",
        const=AUTO,
        default=default,
        help="continue if there is something to continue, and begin otherwise (default: no)",
    )


@dataclass(frozen=True, kw_only=True)
class WithWriter(WithJson):
    """A command that makes a store of other data.

    Attributes:
        buffer_mb: Memory for steps that are not on disk yet, in MB of 10^6 bytes (default: about 64
            steps per block, at most a tenth of the free memory).
        compressor: Compression of the chunks (default: zstd).
    """

    GROUPS: ClassVar[Mapping[str, Sequence[str]]] = {"tuning": ("buffer_mb", "compressor")}

    buffer_mb: float | Literal["auto"] = "auto"
    compressor: str = field(default="auto", metadata=shown(choices=COMPRESSORS))


def as_json(report: Any, but: Collection[str] = (), **more: Any) -> str:
    """One line: all fields of a dataclass ``but`` some, and more beside.

    JSON has no NaN and no infinity: where a field is that, its name stands as a text.
    """
    values = {**{k: v for k, v in asdict(report).items() if k not in but}, **more}
    odd = {k: str(v) for k, v in values.items() if isinstance(v, float) and not math.isfinite(v)}
    return json.dumps({**values, **odd}, allow_nan=False)


def interrupted_text(store: str, again: str = "") -> str:
    """How much of an interrupted recording is committed, and how to continue it."""
    try:
        steps = TrajectoryDataset(store).num_steps
    except StoreError:
        return "interrupted before the first step"
    words = again or "the same command with --resume"
    return f"{store}: {steps:,} steps are committed; continue with: {words}"


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
