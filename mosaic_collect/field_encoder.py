"""Chunks of one field to bytes, by the cheapest of three ways to a frame of the store's codec.

    nothing to gain (sensor noise)       the values as they are, in raw blocks, not copied
    rows repeat the row before, shifted  new bytes and copies (``repeat_coder``)
    else                                 the compressor's own

Which way is decided on samples that the compressor is given, anew every few chunks. All three are
frames of one format: readers see no difference. Other compressors than zstd have only the last way.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.codec import ChunkCodec, Compressor
from mosaic_collect.repeat_coder import Bytes, Frame, RepeatCoder
from mosaic_collect.repeats import find_pattern
from mosaic_collect.scratch import Scratch
from mosaic_collect.zstd_format import MOST_BLOCK_NBYTES, raw_frame

_log = logging.getLogger(__name__)
_SMALL_NBYTES = 256 << 10  # a chunk below this is not worth a decision
_DECISION = 32  # chunks that one decision is good for
_SAMPLES = 4
_SAMPLE_NBYTES, _SAMPLE_ROWS = 16 << 10, 6
_NOTHING = 0.98  # of a sample's size: it did not compress
_MUCH = 0.1  # of it: so little that the compressor is fast
_SLACK = 1.05  # what frames by hand may be larger than the compressor's
_FOLLOWING = 0.6  # of the rows: below this the pattern is no longer theirs


@dataclass(frozen=True)
class Encoded:
    """One chunk's bytes.

    Attributes:
        buffers: They follow each other in the file.
        distinct: Arrays among which every value of the chunk is: what is looked for in the chunk
            needs to be looked for only there. Good until the thread encodes again.
        room: The encoder's own memory that they are in; None: not its own.
    """

    buffers: list[Any]
    distinct: list[NDArray[Any]]
    room: Bytes | None = None


class FieldEncoder:
    """Encodes one field's chunks; used by several threads at once.

    What it remembers only decides how the next chunks are tried, so threads that overtake each
    other do no harm.
    """

    def __init__(self, compressor: Compressor) -> None:
        self._codec = ChunkCodec(compressor)
        self._by_hand = compressor.name == "zstd" and sys.byteorder == "little"
        self._scratch = Scratch()
        # Memory of frames that are written: fresh pages cost more than to fill them.
        self._rooms: list[Bytes] = []
        self._encoded = 0
        self._raw = False
        self._coder: RepeatCoder | None = None

    def encode(self, values: NDArray[Any]) -> Encoded:
        """The bytes of one chunk, without a checksum.

        Args:
            values: ``(chunk_envs, block_steps[, dim])``, C-contiguous; must not change before the
                buffers are written, for they may be its own.
        """
        data = values.reshape(-1).view(np.uint8)
        if not self._by_hand or data.nbytes < _SMALL_NBYTES:
            return self.compressed(values)
        if self._encoded % _DECISION == 0:
            self._decide(values, data)
        self._encoded += 1
        if self._raw:
            return Encoded(raw_frame(data), [values])
        coder = self._coder
        found = None if coder is None else self._repeating(values, coder)
        return found or self.compressed(values)

    def compressed(self, values: NDArray[Any]) -> Encoded:
        """The same by the compressor alone."""
        return Encoded([self._codec.compress(values)], [values])

    def _decide(self, values: NDArray[Any], data: Bytes) -> None:
        """Choose a way for this chunk and the next ones."""
        row_nbytes = data.nbytes // (values.shape[0] * values.shape[1])
        left = self._sampled(data, row_nbytes)
        self._raw = left >= _NOTHING
        wide = values.ndim == 3 and row_nbytes <= MOST_BLOCK_NBYTES
        if self._raw or left < _MUCH or not wide:
            self._coder = None
        elif self._coder is None or not _fits(self._coder, values):
            pattern = find_pattern(_rows(values))
            coder = None if pattern is None else RepeatCoder(pattern, values.itemsize)
            self._coder = coder if coder and _pays(coder, left) else None

    def _sampled(self, data: Bytes, row_nbytes: int) -> float:
        """Compressed size of a sample as a share of what it was: the median of a few."""
        size = min(_sample_rows(row_nbytes) * row_nbytes, data.nbytes // _SAMPLES)
        # Not at the very start, where a trajectory begins and its first row tells all frames.
        starts = np.linspace(0, data.nbytes - size, _SAMPLES + 1)[1:].astype(int)
        packed = [len(self._codec.compress(data[s : s + size])) for s in starts]
        return float(np.median(packed)) / size

    def _repeating(self, values: NDArray[Any], coder: RepeatCoder) -> Encoded | None:
        """The frame by hand; None if too few rows follow the pattern."""
        rows, shape = _rows(values), values.shape[:2]
        follows = coder.likely_followers(rows)
        if np.count_nonzero(follows) < _FOLLOWING * len(rows):
            return None
        data = values.view(np.uint8)
        new = coder.new_bytes(data, self._scratch)
        encoded = self._proven(coder.frame(data, new, follows.reshape(shape)), data)
        if encoded is None:
            # Some follow at the ends of the copies and not between: compare it all.
            follows = coder.followers(rows)
            encoded = self._proven(coder.frame(data, new, follows.reshape(shape)), data)
        if encoded is None:
            _log.error("a frame by hand does not decode to its chunk: %s", coder.pattern)
            return None
        odd = rows[~follows].view(values.dtype)
        return replace(encoded, distinct=[new.view(values.dtype), odd])

    def _proven(self, frame: Frame, data: Bytes) -> Encoded | None:
        """The frame written, if the compressor's own decoder makes the chunk of it."""
        room = self._rooms.pop() if self._rooms else np.empty(0, np.uint8)
        if room.nbytes < frame.nbytes:
            room = np.empty(frame.nbytes + frame.nbytes // 8, np.uint8)
        written = room[: frame.nbytes]
        frame.write(written)
        return Encoded([written], [], room) if self._codec.gives(written, data) else None

    def take_back(self, encoded: Encoded) -> None:
        """Its buffers are written: their memory may be used again."""
        if encoded.room is not None:
            self._rooms.append(encoded.room)


def _rows(values: NDArray[Any]) -> NDArray[np.unsignedinteger]:
    """Rows ``(chunk_envs * block_steps, dim)`` as whole numbers, which equal only bit for bit."""
    return values.view(f"u{values.itemsize}").reshape(-1, values.shape[2])


def _fits(coder: RepeatCoder, values: NDArray[Any]) -> bool:
    """Whether enough rows still follow its pattern."""
    return bool(coder.likely_followers(_rows(values)).mean() >= _FOLLOWING)


def _pays(coder: RepeatCoder, left: float) -> bool:
    """Whether a sample by hand would be about as small as the compressor's."""
    row_nbytes = coder.pattern.row_nbytes
    count = _sample_rows(row_nbytes)
    expected = row_nbytes + (count - 1) * coder.row_cost()
    return expected <= _SLACK * left * count * row_nbytes


def _sample_rows(row_nbytes: int) -> int:
    return max(_SAMPLE_ROWS, _SAMPLE_NBYTES // row_nbytes)
