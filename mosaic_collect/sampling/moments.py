"""Mean and standard deviation of fields, tile by tile, for normalisers."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import InputError
from mosaic_collect.reading.tiles import Places, Tiles
from mosaic_collect.store.schema import Field

_ROWS = 4096  # whose float64 copy a thread holds


@dataclass(frozen=True)
class Moments:
    """Of some rows, float64.

    Attributes:
        count: Rows.
        mean: Shape ``([dim])``.
        squares: Squared differences from the mean, summed, same shape.
    """

    count: int
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]

    @property
    def deviation(self) -> NDArray[np.float64]:
        """The standard deviation of the rows themselves: divided by their number."""
        return np.sqrt(self.squares / self.count)

    @classmethod
    def of(cls, rows: NDArray[Any]) -> Moments:
        """Of rows ``(n[, dim])``."""
        values = rows.astype(np.float64)
        mean = values.mean(axis=0)
        values -= mean
        return cls(len(values), mean, np.square(values, out=values).sum(axis=0))

    def __add__(self, other: Moments) -> Moments:
        """Of both's rows, without the loss of a difference of large sums (Chan et al. 1983)."""
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        between = np.square(apart) * (self.count * other.count / count)
        return Moments(count, mean, self.squares + other.squares + between)


def moments(tiles: Tiles, names: Sequence[str], threads: int) -> dict[str, Moments]:
    """Of all chosen pairs: one pass, a tile a thread in memory.

    Args:
        tiles: Of the stores.
        names: Of fields; none: all floats.
        threads: That decode.

    Raises:
        InputError: No such field.
        CorruptStoreError: A damaged chunk.
    """
    known = {f.name: f for f in tiles.fields}
    for name in names:
        if name not in known:
            raise InputError(f"field {name!r}: expected one of {', '.join(known)}")
    fields = [known[n] for n in names] or [f for f in tiles.fields if f.is_float]

    def of_tile(number: int) -> dict[str, Moments]:
        places = tiles.places(number)
        return {f.name: _of_field(tiles, number, f, places) for f in fields}

    found: dict[str, Moments] = {}
    with ThreadPoolExecutor(threads, "mosaic-moments") as pool:
        for some in pool.map(of_tile, range(len(tiles.tiles))):
            found = {n: found[n] + m if n in found else m for n, m in some.items()}
    return found


def _of_field(tiles: Tiles, number: int, field: Field, places: Places) -> Moments:
    rows = np.empty((tiles.rows, *field.row_shape), field.dtype)
    tiles.load_field(number, field.name, rows)
    first, *others = (Moments.of(rows[places[k : k + _ROWS]]) for k in range(0, len(places), _ROWS))
    return sum(others, first)
