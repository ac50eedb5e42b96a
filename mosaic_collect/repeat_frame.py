"""One chunk as a Zstandard frame of new bytes and copies from the row before.

    row does not follow the pattern    ─▶ raw block                     (a trajectory's first row)
    rows that do, one behind the other ─▶ compressed block: their new bytes, then the copies

What the copies take depends on the number of rows alone, so it is made once and kept. A frame put
together by hand is believed only when the library's own decoder gives the chunk back, bit for bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.repeats import RowPattern
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


def repeat_frame(
    rows: Bytes, new: Bytes, follows: NDArray[np.bool_], pattern: RowPattern
) -> list[Bytes]:
    """The frame of ``rows``, in pieces; right if the rows that ``follows`` names do follow.

    Args:
        rows: ``(rows, row_nbytes)``, contiguous.
        new: Their ``new_bytes``.
        follows: ``(rows,)``; the first is False.
        pattern: Of a row at most ``MOST_BLOCK_NBYTES`` wide.
    """
    pieces = [_array(frame_header(rows.nbytes))]
    most = _most_rows(pattern)
    for start, stop in _runs(follows):
        if not follows[start]:
            pieces += raw_blocks(rows[start:stop].reshape(-1))
            continue
        for first in range(start, stop, most):
            last = min(first + most, stop)
            before, behind = _around(pattern, last - first)
            pieces += [before, new[first:last].reshape(-1), behind]
    pieces.append(_array(END))
    return pieces


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


def new_bytes(rows: Bytes, pattern: RowPattern) -> Bytes:
    """What each row does not copy from the row before, ``(rows, new_nbytes)``."""
    scattered, gathered = _record_types(pattern)
    new = np.empty(len(rows), gathered)
    if pattern.new:
        # One pass over the rows, which slices would make one each.
        new[...] = rows.view(scattered)[:, 0]
    return new.view(np.uint8).reshape(len(rows), pattern.new_nbytes)


def _runs(flags: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    edges = [0, *(np.flatnonzero(np.diff(flags)) + 1).tolist(), len(flags)]
    return itertools.pairwise(edges)


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
def _around(pattern: RowPattern, count: int) -> tuple[Bytes, Bytes]:
    """What stands before and behind the new bytes of so many rows."""
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
