"""Decoding committed rows: from shards to NumPy arrays, touching only the chunks asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.codec import ChunkCodec
from mosaic_collect.grid import FieldGrid
from mosaic_collect.shard import ShardReader


@dataclass(frozen=True)
class Cut:
    """The part of a range that falls into one cell of a grid line.

    Attributes:
        cell: Which block, or which chunk.
        inside: Where in the cell, a slice with the range's step.
        out: Where in the result.
    """

    cell: int
    inside: slice
    out: slice


def cuts(wanted: range, cell_size: int) -> Iterator[Cut]:
    """Cut a range of ascending positions at multiples of ``cell_size``."""
    done = 0
    while done < len(wanted):
        first = wanted[done]
        cell = first // cell_size
        end = (cell + 1) * cell_size
        count = min(len(wanted) - done, -(-(end - first) // wanted.step))
        start = first - cell * cell_size
        inside = slice(start, start + (count - 1) * wanted.step + 1, wanted.step)
        yield Cut(cell, inside, slice(done, done + count))
        done += count


def open_shard(store: str, grid: FieldGrid, codec: ChunkCodec, block: int) -> ShardReader:
    """The shard of a field and block.

    Raises:
        CorruptStoreError: It is missing or its index damaged.
    """
    name = grid.field.name
    path = os.path.join(store, name, grid.shard_name(block))
    return ShardReader(path, grid, codec, f"{store}: {name}, block {block}")


def load_block(
    store: str, grid: FieldGrid, codec: ChunkCodec, block: int, out: NDArray[Any]
) -> None:
    """Decode a whole shard into a staged block's buffer ``(padded_envs, block_steps[, dim])``."""
    values = np.empty(grid.chunk_shape, np.dtype(grid.field.dtype))
    with open_shard(store, grid, codec, block) as shard:
        for chunk in range(grid.chunks):
            shard.read(chunk, values)
            out[grid.rows(chunk)] = values


def read_ranges(
    store: str,
    grid: FieldGrid,
    codec: ChunkCodec,
    pool: ThreadPoolExecutor | None,
    steps: range,
    envs: range,
) -> NDArray[Any]:
    """Rows of some steps and environments.

    Args:
        store: The store's path.
        grid: The field's cutting.
        codec: The store's.
        pool: Decodes chunks side by side; None: one after the other.
        steps: Ascending, all committed.
        envs: Ascending.

    Returns:
        Shape ``(len(steps), len(envs)[, dim])``, C-contiguous, the caller's own.
    """
    dtype = np.dtype(grid.field.dtype)
    out = np.empty((len(steps), len(envs), *grid.field.row_shape), dtype)
    env_cuts = list(cuts(envs, grid.chunk_envs))
    for step_cut in cuts(steps, grid.block_steps):
        if not env_cuts:
            break
        with open_shard(store, grid, codec, step_cut.cell) as shard:

            def decode(env_cut: Cut, shard: ShardReader = shard, step_cut: Cut = step_cut) -> None:
                values = np.empty(grid.chunk_shape, dtype)
                shard.read(env_cut.cell, values)
                part = values[env_cut.inside, step_cut.inside]
                out[step_cut.out, env_cut.out] = part.swapaxes(0, 1)

            _run(pool, decode, env_cuts)
    return out


def _run(pool: ThreadPoolExecutor | None, work: Any, items: list[Cut]) -> None:
    if pool is None or len(items) == 1:
        for item in items:
            work(item)
    else:
        for _ in pool.map(work, items):
            pass
