"""Encoding: from a block's arrays to the bytes of its shards, in threads of this process.

Chunks of a field become compressed frames, or frames of raw blocks where compression gains nothing:
sensor noise does not compress, and compressors take their time to find that out. So now and then a
few samples of a chunk are compressed; as long as they do not get smaller, chunks become raw frames
around the ring's own memory, which goes to the file uncopied. Readers see frames of one format.
Only zstd has such frames; the other compressors always compress.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.recording.blocks import Block
from mosaic_collect.store.blobs import Upload
from mosaic_collect.store.codec import Compressor, crc_bytes, raw_frame, same_bytes
from mosaic_collect.store.counts import float_names, nonfinite_pairs
from mosaic_collect.store.grid import FieldGrid
from mosaic_collect.store.schema import VALID_MASK
from mosaic_collect.store.shard import MOST_TWINS, Encoded, write_chunks
from mosaic_collect.store.workers import WorkerPool

_SMALL_NBYTES = 256 << 10  # a chunk below this is not worth a decision
_DECISION = 16  # chunks that one decision is good for
_SAMPLES = 4
_SAMPLE_NBYTES, _SAMPLE_ROWS = 16 << 10, 6  # rows: so many that a history's repeats are seen
_NOTHING = 0.98  # of a sample's size: it did not compress


class FieldEncoder:
    """Encodes one field's chunks. Threads share it: what it remembers is no more than a hint."""

    def __init__(self, compressor: Compressor) -> None:
        self._codec = compressor
        self._may_be_raw = compressor.has_raw_frames
        self._encoded = 0
        self._raw = False

    def encode(self, values: NDArray[Any], whole: bool = True) -> list[Any]:
        """Buffers that follow each other in the file, without a checksum; they may be the values'.

        Behind the rows of a block that is not ``whole`` is fill value, which only a compressor
        makes small.
        """
        if whole and self._may_be_raw and values.nbytes >= _SMALL_NBYTES:
            if self._encoded % _DECISION == 0:
                self._raw = self._sampled(values) >= _NOTHING
            self._encoded += 1
            if self._raw:
                return raw_frame(values.reshape(-1).view(np.uint8))
        return [self._codec.compress(values)]

    def encode_chunk(self, values: NDArray[Any], whole: bool) -> Encoded:
        """Encode one chunk, of any strides, with its checksum and count; see ``encode``."""
        values = np.ascontiguousarray(values)
        found = nonfinite_pairs(values) if values.dtype.kind == "f" else 0
        buffers = self.encode(values, whole)
        return buffers, crc_bytes(*buffers), found

    def _sampled(self, values: NDArray[Any]) -> float:
        """Compressed size of a few samples as a share of what they were."""
        data = values.reshape(-1).view(np.uint8)
        row_nbytes = data.nbytes // (values.shape[0] * values.shape[1])
        rows = max(_SAMPLE_ROWS, _SAMPLE_NBYTES // row_nbytes)
        size = min(rows * row_nbytes, data.nbytes // _SAMPLES)
        starts = np.linspace(0, data.nbytes - size, _SAMPLES).astype(int)
        packed: int = sum(len(self._codec.compress(data[s : s + size])) for s in starts)
        return float(packed / (size * _SAMPLES))


#: Opens a field's shard for writing.
OpenShard = Callable[[str], Upload]


class BlockEncoder:
    """Encodes fields of one block, whose values have all arrived and do not change.

    Attributes:
        written: Fields to be encoded and written.
        twins: Field -> the field that stands in for it and has just its bytes in this block, as
            actions have those of their mean where a policy acts by the mean. Empty where fields
            cannot share a shard (``links``).
        slot: Number of the ring's slot that holds the block.
        whole: Whether all its steps hold rows.
        nonfinite: Per written field, pairs that hold NaN or infinity.
    """

    def __init__(
        self,
        encoders: Mapping[str, FieldEncoder],
        block: Block,
        whole: bool,
        grids: Mapping[str, FieldGrid],
        names: Sequence[str],
        links: bool,
    ) -> None:
        self._encoders, self._block, self.grids = encoders, block, grids
        self.slot, self.whole = block.slot, whole
        self.twins = dict(self._find_twins(names)) if links else {}
        self.written = [name for name in names if name not in self.twins]
        self.nonfinite = Counter[str]()

    def write(
        self, names: Sequence[str], open_shard: OpenShard, pool: WorkerPool
    ) -> Iterator[Upload]:
        """Write these fields' shards: the pool encodes some chunks ahead of the calling thread."""
        grids = [self.grids[name] for name in names]
        tasks = ((grid, chunk) for grid in grids for chunk in range(grid.chunks))
        results = pool.map_ahead(self.encode, tasks)
        for grid in grids:
            shard = open_shard(grid.field.name)
            try:
                encoded = islice(results, grid.chunks)
                _, nonfinite = write_chunks(encoded, shard.write, shard.nbytes)
            except BaseException:
                shard.abandon()
                raise
            self.nonfinite[grid.field.name] = nonfinite
            yield shard

    def encode(self, task: tuple[FieldGrid, int]) -> Encoded:
        """Encode one chunk of a field."""
        grid, chunk = task
        values = self._block.arrays[grid.field.name][grid.rows(chunk)]
        return self._encoders[grid.field.name].encode_chunk(values, self.whole)

    def counts(self) -> Counter[str]:
        """Counts of the whole block, as of ``Commit``, once all its shards are written."""
        twins = {name: self.nonfinite[source] for name, source in self.twins.items()}
        return count_pairs(self._block, self.grids, {**self.nonfinite, **twins})

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
            if not isinstance(source, str):
                continue
            sharing = [n for n, other in self.grids.items() if other.field.default == source]
            if sharing.index(name) >= MOST_TWINS:  # its label has no place for it
                continue
            if grid.chunk_shape == self.grids[source].chunk_shape and all(
                same_bytes(self._block.arrays[name][rows], self._block.arrays[source][rows])
                for rows in map(grid.rows, range(grid.chunks))
            ):
                yield name, source


def count_pairs(
    block: Block, grids: Mapping[str, FieldGrid], nonfinite: Mapping[str, int] | None = None
) -> Counter[str]:
    """Return the counts of a block, as of ``Commit``; behind its rows lies the fill value.

    ``nonfinite`` is what was counted of fields already; None: nothing.
    """
    if nonfinite is None:
        nonfinite = {n: nonfinite_pairs(block.arrays[n]) for n in float_names(grids)}
    mask = block.arrays[VALID_MASK][: grids[VALID_MASK].num_envs]
    return Counter({**nonfinite, VALID_MASK: int(np.count_nonzero(mask))})
