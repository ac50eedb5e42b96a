"""Chunks as Zstandard frames of new bytes and copies from the row before.

    row does not follow the pattern    ─▶ raw block                     (a trajectory's first row)
    rows that do, one behind the other ─▶ compressed block: their new bytes, then the copies

All but the rows' own bytes depends on which rows of an environment follow, and is made once and
kept: a *record*, a template with holes.

    │ header │ row 0 │ header │ new bytes of rows 1-42 │ copies │ header │ new ... 43-63 │ copies │
              ▔▔▔▔▔▔▔          ▔▔▔▔▔▔▔▔▔▔▔▔▔▔▔▔▔▔▔▔▔▔                    ▔▔▔▔▔▔▔▔▔▔▔▔▔        holes
"""

from __future__ import annotations

import math
from dataclasses import dataclass
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
#: That are kept; a few steps of a block begin trajectories, so the same ones come again and again.
_MOST_RECORDS = 4096

Bytes = NDArray[np.uint8]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class _Record:
    """How one environment's rows lie in a frame, given which of them follow the pattern.

    Attributes:
        template: All of its bytes, zeros where the holes are.
        holes: Where in the template, whether whole rows or only their new bytes go there, and of
            which steps.
    """

    template: Bytes
    holes: tuple[tuple[slice, bool, slice], ...]


class RepeatCoder:
    """Makes frames of chunks whose rows mostly follow one pattern; shared by threads.

    Args:
        pattern: Of a row at most ``MOST_BLOCK_NBYTES`` wide.
        itemsize: Of its values.
    """

    def __init__(self, pattern: RowPattern, itemsize: int) -> None:
        self.pattern = pattern
        copies = pattern.copies
        self._item = itemsize
        self._most_rows = max(
            1, min(MOST_BLOCK_NBYTES // pattern.row_nbytes, _MOST_COPIES // len(copies))
        )
        ends = [e // itemsize for c in copies for e in (c.start, c.stop - itemsize)]
        shifts = [c.shift // itemsize for c in copies for _ in range(2)]
        self._ends, self._sources = np.array(ends), np.add(ends, shifts)
        self._scattered, self._gathered = _record_types(pattern)
        self._new_nbytes = pattern.new_nbytes
        self._records: dict[bytes, _Record] = {}
        self._around: dict[int, tuple[Bytes, Bytes]] = {}

    def row_cost(self) -> float:
        """Bytes that a row takes if it follows the pattern."""
        before, behind = self._block(self._most_rows)
        return self._new_nbytes + (before.nbytes + behind.nbytes) / self._most_rows

    def likely_followers(self, rows: NDArray[np.unsignedinteger]) -> Flags:
        """Which rows have the ends of every copy where the pattern says.

        Args:
            rows: Values as whole numbers, ``(envs * steps, dim)``.

        Returns:
            ``(envs * steps,)``.
        """
        follows = np.zeros(len(rows), np.bool_)
        found = rows[1:].take(self._ends, axis=1) == rows[:-1].take(self._sources, axis=1)
        np.logical_and.reduce(found, axis=1, out=follows[1:])
        return follows

    def followers(self, rows: NDArray[np.unsignedinteger]) -> Flags:
        """Which rows follow the pattern, every value compared; as ``likely_followers``."""
        follows = np.zeros(len(rows), np.bool_)
        follows[1:] = True
        for copy in self.pattern.copies:
            start, stop, shift = (n // self._item for n in (copy.start, copy.stop, copy.shift))
            same = rows[1:, start:stop] == rows[:-1, start + shift : stop + shift]
            follows[1:] &= same.all(axis=1)
        return follows

    def new_bytes(self, data: Bytes, scratch: Scratch) -> Bytes:
        """What each row does not copy from the row before, ``(envs, steps, new_nbytes)``.

        Args:
            data: ``(envs, steps, row_nbytes)``, contiguous.
            scratch: Where to put them.
        """
        shape = (*data.shape[:2], self._new_nbytes)
        new = scratch.take(math.prod(shape))
        if self._new_nbytes:
            # One pass over the rows, which slices would make one each.
            new.view(self._gathered).reshape(shape[:2])[...] = data.view(self._scattered)[..., 0]
        return new.reshape(shape)

    def frame(self, data: Bytes, new: Bytes, follows: Flags) -> Frame:
        """The frame of a chunk, right if the rows that ``follows`` names do follow the pattern.

        Args:
            data: ``(envs, steps, row_nbytes)``, contiguous.
            new: Its ``new_bytes``.
            follows: ``(envs, steps)``; the first is False.
        """
        # Environments alike lie alike, so a run of them is filled in as one.
        other = np.logical_or.reduce(follows[1:] != follows[:-1], axis=1)
        edges = [0, *(np.flatnonzero(other) + 1).tolist(), len(follows)]
        runs = [(slice(a, b), self._record(follows[a].tobytes())) for a, b in pairwise(edges)]
        return Frame(data, new, runs)

    def _record(self, follows: bytes) -> _Record:
        record = self._records.get(follows)
        if record is None:
            if len(self._records) >= _MOST_RECORDS:
                self._records = {}
            record = self._records[follows] = self._made(follows)
        return record

    def _made(self, follows: bytes) -> _Record:
        pieces: list[Bytes] = []
        holes = []
        steps = len(follows)
        edges = [0, *(i for i in range(1, steps) if follows[i] != follows[i - 1]), steps]
        for start, stop in pairwise(edges):
            whole = not follows[start]
            width = self.pattern.row_nbytes if whole else self._new_nbytes
            for first in range(start, stop, self._most_rows):
                last = min(first + self._most_rows, stop)
                nbytes = (last - first) * width
                before, behind = self._raw(nbytes) if whole else self._block(last - first)
                at = sum(map(len, pieces)) + len(before)
                holes.append((slice(at, at + nbytes), whole, slice(first, last)))
                pieces += [before, np.zeros(nbytes, np.uint8), behind]
        return _Record(np.concatenate(pieces), tuple(holes))

    @staticmethod
    def _raw(nbytes: int) -> tuple[Bytes, Bytes]:
        return _array(raw_block_header(nbytes)), _array(b"")

    def _block(self, count: int) -> tuple[Bytes, Bytes]:
        """What stands before and behind the new bytes of so many rows."""
        if count not in self._around:
            sequences = []
            done = 0  # bytes of these rows behind the last copy
            for row in range(count):
                for copy in self.pattern.copies:
                    start = row * self.pattern.row_nbytes + copy.start
                    length = copy.stop - copy.start
                    sequences.append((start - done, length, self.pattern.row_nbytes - copy.shift))
                    done = start + length
            before, behind = compressed_block(count * self._new_nbytes, sequences)
            self._around[count] = _array(before), _array(behind)
        return self._around[count]


class Frame:
    """A frame that knows its size and is yet to be written."""

    def __init__(self, data: Bytes, new: Bytes, runs: list[tuple[slice, _Record]]) -> None:
        self._data, self._new, self._runs = data, new, runs
        self._header = frame_header(data.nbytes)
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
                source = self._data if whole else self._new
                part[:, hole] = source[envs, steps].reshape(count, -1)
            at += count * size
        out[at:] = _array(END)


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


def _array(data: bytes) -> Bytes:
    return np.frombuffer(data, np.uint8)
