"""What several commands read and say alike."""

from __future__ import annotations

import argparse
import os
from typing import Any

from tqdm import tqdm

from mosaic_collect.errors import StoreError
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.stats import StoreStatistics, store_statistics
from mosaic_collect.stats.scan import part_pairs
from mosaic_collect.store.root import AUTO


def number_or_auto(text: str) -> float | str:
    """``--buffer-mb``; what is neither is the writer's to refuse."""
    try:
        return float(text)
    except ValueError:
        return text


def add_resume(parser: argparse.ArgumentParser, what: str) -> None:
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
    """Its path without the ending ``.zarr``: what lies beside the store begins with it."""
    return os.path.normpath(store).removesuffix(".zarr")


def measure(
    dataset: TrajectoryDataset, max_pairs: int | None, fields: list[str] | None = None
) -> StoreStatistics:
    """Statistics of a store, behind a bar."""
    with bar("stats", " pairs", part_pairs(dataset, max_pairs)) as shown:
        return store_statistics(dataset, fields, max_pairs, shown.update)
