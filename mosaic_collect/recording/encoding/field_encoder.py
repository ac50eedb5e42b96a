"""Chunks of one field to bytes: compressed, or as they are where that gains nothing.

Sensor noise does not compress, and compressors take their time to find that out. So now and then a
few samples of a chunk are compressed; as long as they do not get smaller, chunks become frames of
raw blocks around the ring's own memory, which goes to the file uncopied. Readers see frames of one
format. Only zstd has such frames; the other compressors always compress.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.store.codec import ChunkCodec, Compressor, raw_frame

_SMALL_NBYTES = 256 << 10  # a chunk below this is not worth a decision
_DECISION = 16  # chunks that one decision is good for
_SAMPLES = 4
_SAMPLE_NBYTES, _SAMPLE_ROWS = 16 << 10, 6  # rows: so many that a history's repeats are seen
_NOTHING = 0.98  # of a sample's size: it did not compress


class FieldEncoder:
    """Encodes one field's chunks; used by several threads at once.

    What it remembers only decides how the next chunks are written, so threads that overtake each
    other do no harm.
    """

    def __init__(self, compressor: Compressor) -> None:
        self._codec = ChunkCodec(compressor)
        self._may_be_raw = compressor.name == "zstd" and sys.byteorder == "little"
        self._encoded = 0
        self._raw = False

    def encode(self, values: NDArray[Any], whole: bool = True) -> list[Any]:
        """Buffers that follow each other in the file, without a checksum.

        Args:
            values: ``(chunk_envs, chunk_steps[, dim])``, C-contiguous; must not change before the
                buffers are written, for they may be its own.
            whole: Whether all steps hold rows. Behind those of a partial block is fill value, which
                only a compressor makes small.
        """
        if not whole or not self._may_be_raw or values.nbytes < _SMALL_NBYTES:
            return [self._codec.compress(values)]
        if self._encoded % _DECISION == 0:
            self._raw = self._sampled(values) >= _NOTHING
        self._encoded += 1
        if self._raw:
            return raw_frame(values.reshape(-1).view(np.uint8))
        return [self._codec.compress(values)]

    def _sampled(self, values: NDArray[Any]) -> float:
        """Compressed size of a few samples as a share of what they were."""
        data = values.reshape(-1).view(np.uint8)
        row_nbytes = data.nbytes // (values.shape[0] * values.shape[1])
        rows = max(_SAMPLE_ROWS, _SAMPLE_NBYTES // row_nbytes)
        size = min(rows * row_nbytes, data.nbytes // _SAMPLES)
        starts = np.linspace(0, data.nbytes - size, _SAMPLES).astype(int)
        packed: int = sum(len(self._codec.compress(data[s : s + size])) for s in starts)
        return float(packed / (size * _SAMPLES))
