"""Stores to draw from, and what was drawn of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from mosaic_collect import Schema, TrajectoryDataset
from mosaic_collect.sampling.tiles import INDEX_NBYTES
from mosaic_collect.store.schema import Field
from tests import helpers

#: Each pair's number, by which it is known, and a wide field, so that tiles are small.
NUMBERED = Schema((Field(name="number", dtype="int32"), Field(name="wide", dim=6)))


def numbered(
    path: Any, steps: int, num_envs: int, block_steps: int, valid: Any = None, first: int = 0
) -> np.ndarray:
    """Record pairs of the numbers ``step * num_envs + env``; those that are valid, ascending."""
    found = []
    with helpers.open_writer(path, num_envs, NUMBERED, block_steps) as writer:
        for step in range(first, first + steps):
            numbers = np.arange(step * num_envs, (step + 1) * num_envs, dtype=np.int32)
            mask = np.ones(num_envs, bool) if valid is None else valid(step)
            wide = np.repeat(numbers[:, None], 6, axis=1).astype(np.float32)
            writer.add_step(number=numbers, wide=wide, valid_mask=None if valid is None else mask)
            found.append(numbers[mask])
    return np.concatenate(found)


def every_third(step: int) -> np.ndarray:
    """A mask of 7 environments that leaves out every third, another one in each step."""
    return (np.arange(7) + step) % 3 != 1


def add(writer: Any, first: int, count: int) -> None:
    """Add steps of 7 environments, all pairs of which are valid."""
    for step in range(first, first + count):
        number = np.arange(step * 7, step * 7 + 7, dtype=np.int32)
        writer.add_step(number=number, wide=np.repeat(number[:, None], 6, 1).astype(np.float32))


def numbers(batches: Iterable[dict[str, Any]]) -> np.ndarray:
    """The pairs' numbers, in order; each row's wide field must be the same pair's."""
    found = []
    for batch in batches:
        number = batch["number"].cpu().numpy().copy()
        assert (batch["wide"].cpu().numpy() == number[:, None]).all(), "fields of different pairs"
        found.append(number)
    return np.concatenate(found) if found else np.empty(0, np.int32)


def tile_mb(path: Any) -> float:
    """Megabytes of the smallest pool's half: a tile of one chunk of the widest field."""
    grid = TrajectoryDataset(path).view.grids["wide"]
    return grid.chunk_envs * grid.block_steps * (28 + INDEX_NBYTES) / 1e6
