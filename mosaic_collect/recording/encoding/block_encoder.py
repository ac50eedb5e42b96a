"""Encoding one block: the tasks for the pool, and what they count on the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.recording.encoding.field_encoder import FieldEncoder
from mosaic_collect.recording.ring.block import Block
from mosaic_collect.store.codec import crc_bytes, same_bytes
from mosaic_collect.store.counts import Counts, float_names, nonfinite_pairs
from mosaic_collect.store.grid import FieldGrid
from mosaic_collect.store.label import MOST_TWINS
from mosaic_collect.store.schema import VALID_MASK
from mosaic_collect.store.shard import Encoded


def encode_chunk(encoder: FieldEncoder, values: NDArray[Any], whole: bool) -> Encoded:
    """Encode one chunk.

    Args:
        encoder: Of its field.
        values: ``(chunk_envs, chunk_steps[, dim])``; must not change before the buffers are
            written.
        whole: Whether all steps hold rows.
    """
    values = np.ascontiguousarray(values)
    found = nonfinite_pairs(values) if values.dtype.kind == "f" else 0
    buffers = encoder.encode(values, whole)
    return buffers, crc_bytes(*buffers), found


class BlockEncoder:
    """One block's chunks, in the order in which its shards hold them.

    Attributes:
        written: Fields to be encoded and written.
        twins: Field -> the field that stands in for it and has just its bytes in this block, as
            actions have those of their mean where a policy acts by the mean.
        grids: All stored fields' cuttings.
        slot: Of the ring, in which the block lies.
        whole: Whether all its steps hold rows.

    Args:
        encoders: One a stored field, shared by all threads.
        block: All values arrived; nobody changes it meanwhile.
        count: Its steps that hold rows.
        grids: All stored fields' cuttings.
        names: Fields whose shards are wanted.
        links: Whether equal fields can share a shard.
    """

    def __init__(
        self,
        encoders: Mapping[str, FieldEncoder],
        block: Block,
        count: int,
        grids: Mapping[str, FieldGrid],
        names: Iterable[str],
        links: bool = True,
    ) -> None:
        self._encoders, self._block, self._count, self.grids = encoders, block, count, grids
        self._num_envs = grids[VALID_MASK].num_envs
        self.slot, self.whole = block.slot, count == grids[VALID_MASK].block_steps
        names = list(names)
        self.twins = dict(self._find_twins(names)) if links else {}
        self.written = [name for name in names if name not in self.twins]
        self._nonfinite = dict.fromkeys(float_names(grids), 0)

    def tasks(self, names: Iterable[str]) -> Iterator[tuple[FieldGrid, int]]:
        """Every (field, chunk) of these fields, field by field."""
        for grid in map(self.grids.__getitem__, names):
            for chunk in range(grid.chunks):
                yield grid, chunk

    def encode(self, task: tuple[FieldGrid, int]) -> Encoded:
        """Encode one of the tasks."""
        grid, chunk = task
        values = self._block.arrays[grid.field.name][grid.rows(chunk)]
        return encode_chunk(self._encoders[grid.field.name], values, self.whole)

    def add_nonfinite(self, name: str, found: int) -> None:
        """Count pairs of a field that hold NaN or infinity."""
        if found:
            self._nonfinite[name] += found

    def counts(self) -> Counts:
        """Of the whole block, once all its shards are written."""
        mask = self._block.arrays[VALID_MASK][: self._num_envs, : self._count]
        twins = {n: self._nonfinite[s] for n, s in self.twins.items() if s in self._nonfinite}
        return Counts(int(np.count_nonzero(mask)), {**self._nonfinite, **twins})

    def _find_twins(self, names: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Compares only where the schema says that one field can stand in for the other.

        And only full blocks, which are never written again: a copy of a store may have kept the
        link, and what brings it up to date may write into its files in place.
        """
        if not self.whole:
            return
        for name in names:
            grid = self.grids[name]
            source = grid.field.default
            if not isinstance(source, str) or not self._has_place(name, source):
                continue
            if grid.chunk_shape == self.grids[source].chunk_shape and all(
                same_bytes(self._block.arrays[name][rows], self._block.arrays[source][rows])
                for rows in map(grid.rows, range(grid.chunks))
            ):
                yield name, source

    def _has_place(self, name: str, source: str) -> bool:
        """In the label of the other's shard."""
        sharing = [n for n, grid in self.grids.items() if grid.field.default == source]
        return sharing.index(name) < MOST_TWINS
