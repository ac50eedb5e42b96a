"""Mean and standard deviation of fields over all pairs, for normalisers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce

import numpy as np

from mosaic_collect.errors import InputError
from mosaic_collect.passes.engine import Threads
from mosaic_collect.reading.moments import Moments
from mosaic_collect.sampling.tiles import Tiles
from mosaic_collect.store.schema import Field

_TILE_NBYTES = 8 << 20  # about: the pool's own may be far larger, and there is a pool beside it
_PART_NBYTES = 2 << 20  # of a tile, as float64


def moments(tiles: Tiles, names: Sequence[str], threads: int) -> dict[str, Moments]:
    """Of all chosen pairs, a number a value of the row; one pass, in a small tile a thread.

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
    found = {f.name: Moments.nothing(f.width) for f in fields}
    small = tiles.of_fields(fields, _TILE_NBYTES)
    for some in Threads(threads).map(partial(_of_tile, small), range(len(small.tiles))):
        found = {name: found[name] + of_tile for name, of_tile in some.items()}
    return found


def _of_tile(tiles: Tiles, number: int) -> dict[str, Moments]:
    return {f.name: _of_field(tiles, number, f) for f in tiles.fields}


def _of_field(tiles: Tiles, number: int, field: Field) -> Moments:
    rows, chosen = np.empty((tiles.rows, field.width), field.dtype), tiles.chosen(number)
    tiles.load_field(number, field.name, rows, chosen)
    places, step = np.flatnonzero(chosen), max(1, _PART_NBYTES // (8 * field.width))
    parts = (Moments.of(rows[places[k : k + step]]) for k in range(0, len(places), step))
    return reduce(Moments.__add__, parts)
