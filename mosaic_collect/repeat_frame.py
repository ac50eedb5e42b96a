"""One chunk as a Zstandard frame of new bytes and copies from the row before.

    row does not follow the pattern    ─▶ raw block                     (a trajectory's first row)
    rows that do, one behind the other ─▶ compressed block: their new bytes, then the copies

What the copies take depends on the number of rows alone, so it is made once and kept. A frame put
together by hand is believed only when the library's own decoder gives the chunk back, bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.repeats import RowPattern
from mosaic_collect.scratch import Scratch
from mosaic_collect.zstd_format import (
    END,
    MOST_BLOCK_NBYTES,
    compressed_block,
    frame_header,
    raw_block_header,
)

#: Of a block: more would not make frames smaller, and each number of rows is coded once.
_MOST_COPIES = 256

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class _Record:
    """How one environment's rows lie in a frame, given which of them follow the pattern.

    Attributes:
        template: All of its bytes but those of the holes.
        holes: (start, stop) in the template, whether whole rows or only their new bytes go there,
            and of which steps: (first, last).
    """

    template: Bytes
    holes: tuple[tuple[slice, bool, slice], ...]


def repeat_frame(rows: Bytes, new: Bytes, follows: NDArray[np.bool_], pattern: RowPattern) -> Frame:
    """The frame of a chunk, right if the rows that ``follows`` names do follow the pattern.

    Args:
        rows: ``(envs, steps, row_nbytes)``, contiguous.
        new: Their ``new_bytes``, ``(envs, steps, new_nbytes)``.
        follows: ``(envs, steps)``; the first is False.
        pattern: Of a row at most ``MOST_BLOCK_NBYTES`` wide.
    """
    # Environments alike lie alike, so a run of them is filled in as one.
    edges = [0, *(np.flatnonzero((follows[1:] != follows[:-1]).any(axis=1)) + 1), len(follows)]
    runs = [(slice(a, b), _record(pattern, follows[a].tobytes())) for a, b in pairwise(edges)]
    return Frame(rows, new, runs)


class Frame:
    """A frame that knows its size and is yet to be written."""

    def __init__(self, rows: Bytes, new: Bytes, runs: list[tuple[slice, _Record]]) -> None:
        self._rows, self._new, self._runs = rows, new, runs
        self._header = frame_header(rows.nbytes)
        sizes = ((envs.stop - envs.start) * len(record.template) for envs, record in runs)
        self.nbytes = len(self._header) + sum(sizes) + len(END)

    def write(self, out: Bytes) -> None:
        """Fill ``out``, of ``nbytes``."""
        at = len(self._header)
        out[:at] = _array(self._header)
        for envs, record in self._runs:
            count, size = envs.stop - envs.start, len(record.template)
            part = out[at : at + count * size].reshape(count, size)
            part[...] = record.template
            for hole, whole, steps in record.holes:
                source = self._rows if whole else self._new
                part[:, hole] = source[envs, steps].reshape(count, -1)
            at += count * size
        out[at:] = _array(END)


def raw_frame(data: Bytes) -> list[Any]:
    """The frame of bytes that nothing compresses, as buffers around ``data`` itself."""
    return [frame_header(data.nbytes), *raw_blocks(data), END]


def raw_blocks(data: Bytes) -> list[Bytes]:
    """``data`` and the headers that cut it into blocks."""
    pieces = []
    for start in range(0, data.nbytes, MOST_BLOCK_NBYTES):
        part = data[start : start + MOST_BLOCK_NBYTES]
        pieces += [_array(raw_block_header(part.nbytes)), part]
    return pieces


def row_cost(pattern: RowPattern) -> float:
    """Bytes that a row takes if it follows the pattern."""
    count = _most_rows(pattern)
    before, behind = _around(pattern, count)
    return pattern.new_nbytes + (before.nbytes + behind.nbytes) / count


def likely_followers(rows: NDArray[np.unsignedinteger], pattern: RowPattern) -> NDArray[np.bool_]:
    """Which rows have the ends of every copy where the pattern says; ``(rows,)``."""
    item = rows.itemsize
    ends = np.array([e for c in pattern.copies for e in (c.start // item, c.stop // item - 1)])
    shifts = np.repeat([c.shift // item for c in pattern.copies], 2)
    follows = np.zeros(len(rows), np.bool_)
    follows[1:] = (rows[1:, ends] == rows[:-1, ends + shifts]).all(axis=1)
    return follows


def followers(rows: NDArray[np.unsignedinteger], pattern: RowPattern) -> NDArray[np.bool_]:
    """Which rows follow the pattern, every value compared; ``(rows,)``."""
    item = rows.itemsize
    follows = np.zeros(len(rows), np.bool_)
    follows[1:] = True
    for copy in pattern.copies:
        start, stop, shift = copy.start // item, copy.stop // item, copy.shift // item
        same = rows[1:, start:stop] == rows[:-1, start + shift : stop + shift]
        follows[1:] &= same.all(axis=1)
    return follows


def new_bytes(rows: Bytes, pattern: RowPattern, scratch: Scratch) -> Bytes:
    """What each row does not copy from the row before, ``(envs, steps, new_nbytes)``.

    Args:
        rows: ``(envs, steps, row_nbytes)``, contiguous.
        pattern: Of a row.
        scratch: Where to put them.
    """
    shape = (*rows.shape[:2], pattern.new_nbytes)
    new = scratch.take(math.prod(shape))
    if pattern.new:
        # One pass over the rows, which slices would make one each.
        scattered, gathered = _record_types(pattern)
        new.view(gathered).reshape(rows.shape[:2])[...] = rows.view(scattered)[..., 0]
    return new.reshape(shape)


@lru_cache(maxsize=4096)
def _record(pattern: RowPattern, follows: bytes) -> _Record:
    """A few steps begin trajectories, so the same few records come again and again."""
    pieces: list[Bytes] = []
    holes = []
    edges = [0, *(i for i in range(1, len(follows)) if follows[i] != follows[i - 1]), len(follows)]
    for start, stop in pairwise(edges):
        whole = not follows[start]
        width = pattern.row_nbytes if whole else pattern.new_nbytes
        most = MOST_BLOCK_NBYTES // width if whole else _most_rows(pattern)
        for first in range(start, stop, most):
            steps = slice(first, min(first + most, stop))
            count = steps.stop - steps.start
            before, behind = _around(pattern, count, whole)
            at = sum(map(len, pieces)) + len(before)
            holes.append((slice(at, at + count * width), whole, steps))
            pieces += [before, np.zeros(count * width, np.uint8), behind]
    return _Record(np.concatenate(pieces), tuple(holes))


def _most_rows(pattern: RowPattern) -> int:
    by_size = MOST_BLOCK_NBYTES // pattern.row_nbytes
    return max(1, min(by_size, _MOST_COPIES // len(pattern.copies)))


@lru_cache
def _record_types(pattern: RowPattern) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """A row's new bytes where they stand in it, and side by side."""
    names = [f"f{i}" for i in range(len(pattern.new))]
    formats = [f"V{stop - start}" for start, stop in pattern.new]
    scattered: Any = {
        "names": names,
        "formats": formats,
        "offsets": [start for start, _ in pattern.new],
        "itemsize": pattern.row_nbytes,
    }
    gathered: Any = list(zip(names, formats, strict=True))
    return np.dtype(scattered), np.dtype(gathered)


@lru_cache(maxsize=1024)
def _around(pattern: RowPattern, count: int, whole: bool = False) -> tuple[Bytes, Bytes]:
    """What stands before and behind so many whole rows, or the new bytes of so many."""
    if whole:
        return _array(raw_block_header(count * pattern.row_nbytes)), _array(b"")
    sequences = []
    done = 0  # bytes of these rows behind the last copy
    for row in range(count):
        for copy in pattern.copies:
            start = row * pattern.row_nbytes + copy.start
            length = copy.stop - copy.start
            sequences.append((start - done, length, pattern.row_nbytes - copy.shift))
            done = start + length
    before, behind = compressed_block(count * pattern.new_nbytes, sequences)
    return _array(before), _array(behind)


def _array(data: bytes) -> Bytes:
    return np.frombuffer(data, np.uint8)
