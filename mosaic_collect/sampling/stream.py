"""The endless stream: uniform draws from the pool, whose tiles are renewed as they are drawn from.

    tiles     ... 7  2 [ 9  4  0  5  1 ] 3  8  6 ...     an endless row: pass behind pass, each in a
                        in the pool                      random order of its own

The pool's oldest tile goes when ``reuse`` draws for each of its pairs have been made since the one
before it went. So a pair is in the pool while all pairs of the pool are drawn ``reuse`` times over.
Where a pass ends, a tile may stand in the pool's part of the row twice; its pairs count once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import replace
from itertools import count, islice

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.sampling.options import LoaderOptions
from mosaic_collect.sampling.order import DRAW, PASS, Position, rng_for
from mosaic_collect.sampling.pool import Batch, Codes, Pool


def rest_of_stream(
    pool: Pool, num_tiles: int, active: int, options: LoaderOptions, at: Position
) -> Generator[tuple[Batch, Position], None, None]:
    """The endless batches of one worker, each with the position behind it.

    Args:
        pool: With room for the active tiles, and for those to come if there are more.
        num_tiles: Number of tiles.
        active: Tiles to draw from.
        options: Options of the loader; each worker of each rank acts as a rank of its own.
        at: Position to continue from.
    """
    rank, world_size = options.rank * at.workers + at.worker, options.world_size * at.workers
    all_in_pool = active == num_tiles
    if all_in_pool:  # each rank draws from all of them, not from its part of the row
        drawn = _ActiveTiles(pool, iter(range(num_tiles)), active, 0)
    else:
        row = _row(num_tiles, options.seed, at.epoch, rank, world_size, at.renewed)
        drawn = _ActiveTiles(pool, row, active, pool.slots - active)
    codes = drawn.codes()
    while True:
        batch = pool.memory.empty(options.batch_size)
        rng = rng_for(options.seed, DRAW, at.epoch, rank, at.batches)
        pool.memory.gather(codes[_draw(len(codes), options, rng)], batch, 0)
        batches, renewed = at.batches + 1, at.renewed
        draws = batches * options.batch_size
        if all_in_pool:  # tiles that stay owe nothing for it, should they no longer fit
            at = replace(at, batches=batches, paid=draws)
        else:
            at = drawn.renew(replace(at, batches=batches), draws, options.reuse)
        yield batch, at
        del batch  # or it could not be used again
        if at.renewed != renewed:
            codes = drawn.codes()


def _row(
    num_tiles: int, seed: int, epoch: int, rank: int, world_size: int, first: int
) -> Iterator[int]:
    """Every ``world_size``-th tile of the endless row, from a rank's ``first`` on."""
    known, order = -1, np.empty(0, np.int64)
    for place in count(first):
        number, inside = divmod(rank + place * world_size, num_tiles)
        if number != known:
            known, order = number, rng_for(seed, PASS, epoch, number).permutation(num_tiles)
        yield int(order[inside])


class _ActiveTiles:
    """The tiles of a row that are drawn from, and those ``ahead`` that are decoded meanwhile."""

    def __init__(self, pool: Pool, row: Iterator[int], active: int, ahead: int) -> None:
        self._pool, self._row, self._active = pool, row, active
        self._tiles: deque[tuple[int, Codes]] = deque()
        self._coming: deque[int] = deque()
        for tile in islice(row, active + ahead):
            self._want(tile)
        for _ in range(active):
            self._add()

    def codes(self) -> Codes:
        """Codes of all pairs that may be drawn."""
        return np.concatenate(list(dict(self._tiles).values()))

    def renew(self, at: Position, draws: int, reuse: float) -> Position:
        """Replace what has been drawn from often enough; each tile stays for one batch at least."""
        renewed, paid = at.renewed, at.paid
        for _ in range(self._active):
            worth = reuse * len(self._tiles[0][1])
            if paid + worth > draws:
                break
            self._pool.release(self._tiles.popleft()[0])
            self._want(next(self._row))
            self._add()
            renewed, paid = renewed + 1, paid + worth
        return replace(at, renewed=renewed, paid=paid)

    def _want(self, tile: int) -> None:
        self._coming.append(tile)
        self._pool.want(tile)

    def _add(self) -> None:
        tile = self._coming.popleft()
        self._tiles.append((tile, self._pool.codes(tile)))


def _draw(size: int, options: LoaderOptions, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw the pairs of a batch from so many."""
    number = options.batch_size
    if options.replace:
        return rng.integers(size, size=number)
    whole = [rng.permutation(size) for _ in range(number // size)]
    return np.concatenate([*whole, rng.choice(size, number % size, replace=False)])
