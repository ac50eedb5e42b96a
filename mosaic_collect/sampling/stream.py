"""The endless stream: uniform draws from the pool, whose tiles are renewed as they are drawn from.

    tiles     ... 7  2 [ 9  4  0  5  1 ] 3  8  6 ...     an endless row: pass behind pass, each in a
                        in the pool                      random order of its own

The pool's oldest tile goes when ``reuse`` draws for each of its pairs have been made since the one
before it went. So a pair is in the pool while all pairs of the pool are drawn ``reuse`` times over.
Where a pass ends, a tile may stand in the pool's part of the row twice; its pairs count once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.sampling.options import LoaderOptions
from mosaic_collect.sampling.order import DRAW, PASS, Position, rng_for
from mosaic_collect.sampling.pool import Batch, Codes, Pool


class Row:
    """The endless row of tiles, of which a rank takes every ``world_size``-th.

    Args:
        num_tiles: Number of tiles.
        seed: Seed of the loader.
        epoch: Number of the stream.
        rank: Rank that takes its part.
        world_size: Number of ranks.
    """

    def __init__(self, num_tiles: int, seed: int, epoch: int, rank: int, world_size: int) -> None:
        self.num_tiles, self._seed, self._epoch = num_tiles, seed, epoch
        self._rank, self._world_size = rank, world_size
        self._pass, self._order = -1, np.empty(0, np.int64)

    def tile(self, place: int) -> int:
        """The rank's tile of that place."""
        number, inside = divmod(self._rank + place * self._world_size, self.num_tiles)
        if number != self._pass:
            self._order = rng_for(self._seed, PASS, self._epoch, number).permutation(self.num_tiles)
            self._pass = number
        return int(self._order[inside])

    def rng(self, batch: int) -> np.random.Generator:
        """The random generator of a batch."""
        return rng_for(self._seed, DRAW, self._epoch, self._rank, batch)


class _ActiveTiles:
    """The tiles that are drawn from, and those that are decoded meanwhile.

    Args:
        pool: Pool of the tiles.
        tile_of: Gives the tile of a place in the row.
        active: Number of tiles to draw from.
        ahead: Number of tiles to decode meanwhile.
        first: The first one's place in the row.
    """

    def __init__(
        self, pool: Pool, tile_of: Callable[[int], int], active: int, ahead: int, first: int
    ) -> None:
        self._pool, self._tile_of = pool, tile_of
        self._tiles: deque[tuple[int, Codes]] = deque()
        self._coming: deque[int] = deque()
        self._next = first
        for _ in range(active + ahead):
            self._want()
        for _ in range(active):
            self._add()

    @property
    def oldest_size(self) -> int:
        """Pairs of the oldest tile."""
        return len(self._tiles[0][1])

    def codes(self) -> Codes:
        """Codes of all pairs that may be drawn."""
        return np.concatenate(list(dict(self._tiles).values()))

    def renew(self) -> None:
        """Give up the oldest tile, for the next one."""
        self._pool.release(self._tiles.popleft()[0])
        self._want()
        self._add()

    def _want(self) -> None:
        self._coming.append(self._tile_of(self._next))
        self._pool.want(self._coming[-1])
        self._next += 1

    def _add(self) -> None:
        tile = self._coming.popleft()
        self._tiles.append((tile, self._pool.codes(tile)))


@dataclass(frozen=True, kw_only=True)
class StreamRules:
    """How batches are drawn.

    Attributes:
        batch_size: Pairs of a batch.
        reuse: Average number of times each pair is drawn before it leaves the pool.
        replace: Whether a pair may come twice in a batch before every pair of the pool came once.
        active: Tiles to draw from.
    """

    batch_size: int
    reuse: float
    replace: bool
    active: int


def stream_batches(
    pool: Pool, row: Row, rules: StreamRules, at: Position
) -> Generator[tuple[Batch, Position], None, None]:
    """Endless batches, each with the position behind it.

    Args:
        pool: With room for the active tiles, and for those to come if there are more.
        row: The tiles.
        rules: How to draw.
        at: Position to continue from.
    """
    all_in_pool = rules.active == row.num_tiles
    if all_in_pool:  # each rank draws from all of them, not from its part of the row
        drawn = _ActiveTiles(pool, range(row.num_tiles).__getitem__, row.num_tiles, 0, 0)
    else:
        ahead = pool.slots - rules.active
        drawn = _ActiveTiles(pool, row.tile, rules.active, ahead, at.renewed)
    codes = drawn.codes()
    while True:
        batch = pool.memory.empty(rules.batch_size)
        chosen = _draw(len(codes), rules, row.rng(at.batches))
        pool.memory.gather(codes[chosen], batch, 0)
        before = at
        at = _paid(before, rules) if all_in_pool else _renewed(drawn, rules, before)
        yield batch, at
        del batch  # or it could not be used again
        if at.renewed != before.renewed:
            codes = drawn.codes()


def _paid(at: Position, rules: StreamRules) -> Position:
    """Behind a batch from tiles that stay: none is owed for it, should they no longer fit."""
    batches = at.batches + 1
    return replace(at, batches=batches, paid=batches * rules.batch_size)


def _renewed(drawn: _ActiveTiles, rules: StreamRules, at: Position) -> Position:
    """Renew what has been drawn from often enough; each tile stays for one batch at least."""
    batches, renewed, paid = at.batches + 1, at.renewed, at.paid
    draws = batches * rules.batch_size
    for _ in range(rules.active):
        worth = rules.reuse * drawn.oldest_size
        if paid + worth > draws:
            break
        drawn.renew()
        renewed, paid = renewed + 1, paid + worth
    return replace(at, batches=batches, renewed=renewed, paid=paid)


def _draw(size: int, rules: StreamRules, random: np.random.Generator) -> NDArray[np.int64]:
    """Draw the pairs of a batch from so many."""
    count = rules.batch_size
    if rules.replace:
        return random.integers(size, size=count)
    whole = [random.permutation(size) for _ in range(count // size)]
    return np.concatenate([*whole, random.choice(size, count % size, replace=False)])


def rest_of_stream(
    pool: Pool, num_tiles: int, active: int, options: LoaderOptions, at: Position
) -> Generator[tuple[Batch, Position], None, None]:
    """The endless batches of one worker, each with the position behind it.

    Args:
        pool: The pool of the tiles.
        num_tiles: Number of tiles.
        active: Tiles to draw from.
        options: Options of the loader; each worker of each rank acts as a rank of its own.
        at: Position to continue from.
    """
    row = Row(
        num_tiles=num_tiles,
        seed=options.seed,
        epoch=at.epoch,
        rank=options.rank * at.workers + at.worker,
        world_size=options.world_size * at.workers,
    )
    rules = StreamRules(
        batch_size=options.batch_size, reuse=options.reuse, replace=options.replace, active=active
    )
    return stream_batches(pool, row, rules, at)
