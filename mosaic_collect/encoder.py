"""Encoding one block: the tasks for the pool, and what they count on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mosaic_collect.codec import ChunkCodec
from mosaic_collect.grid import FieldGrid
from mosaic_collect.schema import VALID_MASK
from mosaic_collect.staging import Block
from mosaic_collect.stats import Counts, float_names, nonfinite_pairs


class BlockEncoder:
    """One block's chunks, in the order in which its shards hold them.

    Args:
        codec: Shared by all threads.
        block: All values arrived; nobody changes it meanwhile.
        count: Its steps that hold rows.
        grids: All stored fields' cuttings.
    """

    def __init__(
        self, codec: ChunkCodec, block: Block, count: int, grids: Mapping[str, FieldGrid]
    ) -> None:
        self._codec, self._block, self._count, self._grids = codec, block, count, grids
        self._num_envs = grids[VALID_MASK].num_envs
        self._nonfinite = dict.fromkeys(float_names(grids), 0)

    def tasks(self) -> Iterator[tuple[FieldGrid, int]]:
        """Every (field, chunk), field by field."""
        for grid in self._grids.values():
            for chunk in range(grid.chunks):
                yield grid, chunk

    def encode(self, task: tuple[FieldGrid, int]) -> tuple[Any, bytes, int]:
        """Payload, checksum, and number of pairs that hold NaN or infinity."""
        grid, chunk = task
        rows = slice(chunk * grid.chunk_envs, (chunk + 1) * grid.chunk_envs)
        values = self._block.arrays[grid.field.name][rows]
        found = 0
        if grid.field.name in self._nonfinite:
            found = nonfinite_pairs(values)
        return (*self._codec.encode(values), found)

    def collect(self, results: Iterator[Any], grid: FieldGrid) -> Iterator[tuple[Any, bytes]]:
        """The next shard's chunks out of ``results``, counted."""
        for _ in range(grid.chunks):
            payload, crc, found = next(results)
            if found:
                self._nonfinite[grid.field.name] += found
            yield payload, crc

    def counts(self) -> Counts:
        """Of the whole block, once all results were collected."""
        mask = self._block.arrays[VALID_MASK][: self._num_envs, : self._count]
        return Counts(int(np.count_nonzero(mask)), self._nonfinite)
