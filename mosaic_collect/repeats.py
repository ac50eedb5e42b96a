"""Which part of a row stands in the row before, somewhere else: the mark of a history.

    row t-1   │ a1 a2 a3 a4 a5 │ b1 b2 b3 b4 b5 │     two terms, five frames each, oldest first
                   ╱╱╱╱╱╱╱╱╱        ╱╱╱╱╱╱╱╱╱
    row t     │ a2 a3 a4 a5 a6 │ b2 b3 b4 b5 b6 │     copies: a2..a5, b2..b5; new: a6, b6

Nobody has to tell how a history is laid out: it is found in a few rows, in any order of terms and
frames. What was found is a guess about the other rows; whoever uses it compares.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_PAIRS = 24  # of neighbouring rows that are looked at
_AGREEING = 0.7  # of them; others may be where a trajectory begins
_CANDIDATES = 48
_LEAST_NBYTES = 12  # of a copy: a shorter one costs more to tell than it saves


@dataclass(frozen=True)
class Copy:
    """Bytes ``start..stop`` of a row are the bytes ``start + shift..`` of the row before."""

    start: int
    stop: int
    shift: int


@dataclass(frozen=True)
class RowPattern:
    """A row as copies from the row before, and new bytes between them.

    Attributes:
        row_nbytes: Of a row.
        copies: In order, apart from each other; at least one.
    """

    row_nbytes: int
    copies: tuple[Copy, ...]

    @property
    def new(self) -> tuple[tuple[int, int], ...]:
        """What is copied from nowhere: (start, stop) in order, none empty."""
        edges = [0, *(e for c in self.copies for e in (c.start, c.stop)), self.row_nbytes]
        return tuple((a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b > a)

    @property
    def new_nbytes(self) -> int:
        """Bytes of a row that are copied from nowhere."""
        return sum(b - a for a, b in self.new)


def find_pattern(rows: NDArray[np.unsignedinteger]) -> RowPattern | None:
    """The pattern that most of the rows follow; None if there is none.

    Args:
        rows: Values as whole numbers of their width, ``(rows, columns)``.
    """
    if len(rows) < 3 or rows.shape[1] < 2:
        return None
    at = np.unique(np.linspace(1, len(rows) - 1, _PAIRS).astype(int))
    before, now = rows[at - 1], rows[at]
    shifts = _candidates(before, now)
    if not shifts:
        return None
    lengths = np.stack([_run_lengths(_agree(before, now, s)) for s in shifts])
    item = rows.itemsize
    lengths[lengths * item < _LEAST_NBYTES] = 0
    best = lengths.argmax(axis=0)
    chosen = np.where(lengths.max(axis=0) > 0, np.array(shifts)[best], rows.shape[1])
    edges = [0, *(np.flatnonzero(np.diff(chosen)) + 1).tolist(), rows.shape[1]]
    copies = tuple(
        Copy(a * item, b * item, int(chosen[a]) * item)
        for a, b in itertools.pairwise(edges)
        if chosen[a] < rows.shape[1] and (b - a) * item >= _LEAST_NBYTES
    )
    return RowPattern(rows.shape[1] * item, copies) if copies else None


def _candidates(before: NDArray[np.unsignedinteger], now: NDArray[np.unsignedinteger]) -> list[int]:
    """Shifts by which values of a row stand in the row before, the most frequent first."""
    found: Counter[int] = Counter()
    for old, new in zip(before, now, strict=True):
        order = np.argsort(old, kind="stable")
        place = np.minimum(np.searchsorted(old[order], new), len(old) - 1)
        source = order[place]
        columns = np.flatnonzero(old[source] == new)
        found.update((source[columns] - columns).tolist())
    return [shift for shift, _ in found.most_common(_CANDIDATES)]


def _agree(
    before: NDArray[np.unsignedinteger], now: NDArray[np.unsignedinteger], shift: int
) -> NDArray[np.bool_]:
    """Columns that nearly always have the value of the row before, ``shift`` columns on."""
    columns = now.shape[1]
    inside = slice(max(0, -shift), min(columns, columns - shift))
    source = slice(inside.start + shift, inside.stop + shift)
    agree = np.zeros(columns, np.bool_)
    agree[inside] = (now[:, inside] == before[:, source]).mean(axis=0) >= _AGREEING
    return agree


def _run_lengths(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each place the length of the run of true ones that it is in."""
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False))
    lengths = np.zeros(len(flags), np.int64)
    for start, stop in edges.reshape(-1, 2):
        lengths[start:stop] = stop - start
    return lengths
