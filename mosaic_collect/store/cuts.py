"""A range of positions, cut where cells of a grid meet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


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
