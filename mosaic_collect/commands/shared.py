"""What several commands read and say alike."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from mosaic_collect.errors import InputError, StoreError
from mosaic_collect.passes.cluster import DaskEngine
from mosaic_collect.passes.engine import Engine
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.stats import StoreStatistics, store_statistics
from mosaic_collect.stats.scan import part_pairs
from mosaic_collect.store.place import Place
from mosaic_collect.store.root import AUTO
from mosaic_collect.store.urls import is_url


def number_or_auto(text: str) -> float | str:
    """``--buffer-mb``; what is neither is the writer's to refuse."""
    try:
        return float(text)
    except ValueError:
        return text


def add_writer(parser: argparse._ActionsContainer) -> None:
    """``--buffer-mb`` and ``--compressor``."""
    parser.add_argument(
        "--buffer-mb",
        type=number_or_auto,
        default="auto",
        metavar="MB",
        help="most memory for steps on their way, 10^6 bytes (default: some 64 steps a block, in "
        "a tenth of the free memory)",
    )
    parser.add_argument(
        "--compressor",
        choices=("auto", "lz4", "zstd", "none"),
        default="auto",
        help="default: zstd, or the store's",
    )


def add_resume(parser: argparse._ActionsContainer, what: str) -> None:
    """``--resume``, for people, and ``--auto-resume``, for jobs that are queued again."""
    flags = parser.add_mutually_exclusive_group()
    flags.add_argument("--resume", action="store_true", help=f"go on with {what}")
    flags.add_argument(
        "--auto-resume",
        dest="resume",
        action="store_const",
        const=AUTO,
        help="the same, if it is there; else begin",
    )


def add_engine(parser: argparse.ArgumentParser) -> None:
    """``--scheduler`` and ``--workers``, of passes over everything."""
    flags = parser.add_mutually_exclusive_group()
    flags.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="have a Dask cluster do it, whose workers see the same files and have the same "
        "mosaic_collect: its scheduler, such as tcp://10.0.0.1:8786",
    )
    flags.add_argument(
        "--workers", type=int, metavar="N", help="have N processes of this machine do it"
    )


def add_pairs(parser: argparse.ArgumentParser, default: int) -> None:
    """``--pairs``."""
    parser.add_argument(
        "--pairs",
        dest="max_pairs",
        type=int,
        default=default,
        metavar="N",
        help="values are those of an even part of about N pairs; 0: of all (default %(default)s)",
    )


@contextmanager
def chosen_engine(arguments: argparse.Namespace) -> Iterator[Engine | None]:
    """Who was asked to do it; None: threads of this process."""
    if arguments.scheduler is None and arguments.workers is None:
        yield None
        return
    with DaskEngine(arguments.scheduler, arguments.workers) as engine:
        yield engine


def interrupted_text(store: str) -> str:
    """What is safe of a store whose making was interrupted, and how to go on."""
    try:
        steps = TrajectoryDataset(store).num_steps
    except StoreError:
        return "interrupted before the first step"
    return f"{store}: {steps:,} steps are committed; the same command with --resume goes on"


def bar(what: str, unit: str = "B", total: int | None = None, leave: bool = False) -> Any:
    """A bar on stderr while something is done, if that is a terminal; tell its ``update``."""
    scaled = unit == "B"
    return tqdm(total=total, unit=unit, unit_scale=scaled, desc=what, disable=None, leave=leave)


def store_stem(store: str) -> str:
    """Its path without the ending ``.zarr``: what lies beside the store begins with it.

    What is made of a store in object storage lies here, by the store's name.

    Raises:
        InputError: A pattern, which has nothing beside it.
    """
    if not Place.of(store).is_one:
        raise InputError(f"output: expected a name, for {store} is a pattern")
    path = store.rstrip("/").rpartition("/")[2] if is_url(store) else os.path.normpath(store)
    return path.removesuffix(".zarr")


def measure(
    dataset: TrajectoryDataset,
    max_pairs: int | None,
    fields: list[str] | None = None,
    engine: Engine | None = None,
) -> StoreStatistics:
    """Statistics of a store, behind a bar."""
    with bar("stats", " pairs", part_pairs(dataset, max_pairs)) as shown:
        return store_statistics(dataset, fields, max_pairs, shown.update, engine=engine)
