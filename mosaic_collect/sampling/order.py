"""Which pairs come when: in an epoch, before any of them is decoded, and in a stream.

An epoch's tiles come in a random order. Each one's pairs are shuffled and spread evenly over the
tick at which it comes and those behind it, as many ticks as tiles lie in the pool; at each tick the
pairs of all these tiles are shuffled together:

    tick      3         4         5                 four tiles active, T = 8
    tile 0    ####
    tile 1    ###       #                           the first tick takes what the ticks before it
    tile 2    ##        #         #                 would have had; the last one likewise
    tile 3    #         #         #        ...
    tile 4              #         #
    tile 5                        #

A tile is wanted from its tick on and is done with so many ticks later: the pool holds that many. If
it holds all, there is one tick, and the order is a shuffle of everything.

Several ranks, or workers of one, cut the epoch's row of shuffled tiles at pairs: a tile on a cut is
decoded by both, and each takes its own part of the tile's shuffled pairs.

A stream is endless: uniform draws from the pool, whose tiles are renewed as they are drawn from:

    tiles     ... 7  2 [ 9  4  0  5  1 ] 3  8  6 ...     an endless row: pass behind pass, each in a
                        in the pool                      random order of its own

The pool's oldest tile goes when ``reuse`` draws for each of its pairs have been made since the one
before it went. So a pair is in the pool while all pairs of the pool are drawn ``reuse`` times over.
Where a pass ends, a tile may stand in the pool's part of the row twice; its pairs count once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import InputError
from mosaic_collect.sampling.options import LoaderOptions
from mosaic_collect.sampling.pool import Batch, Codes, Copies, Pool
from mosaic_collect.sampling.tiles import Tiles

#: Purposes of random numbers; no purpose shares numbers with another.
TILES, PAIRS, MIX, PASS, DRAW = range(5)


def rng_for(seed: int, purpose: int, *place: int) -> np.random.Generator:
    """The random generator of one purpose and place, such as an epoch and a tile."""
    return np.random.Generator(np.random.PCG64([seed, purpose, *place]))


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far an iteration is.

    Attributes:
        epoch: Number of the epoch, or of the stream.
        batches: Batches that were handed out, of the epoch or of the stream.
        renewed: Tiles that a stream's pool has replaced.
        paid: Draws that are accounted for, by replaced tiles or by tiles that stay.
        worker: Number of the ``DataLoader``'s worker that iterates; 0 without workers.
        workers: Number of workers; 1 without workers.
    """

    epoch: int = 0
    batches: int = 0
    renewed: int = 0
    paid: float = 0.0
    worker: int = 0
    workers: int = 1

    def of(self, worker: int, workers: int, go_on: bool) -> Position:
        """Where a worker begins: here, if this is its own position, else at the epoch's start.

        Raises:
            InputError: It must ``go_on`` from here, and this is another worker's position.
        """
        own = not self.batches or (self.worker, self.workers) == (worker, workers)
        if go_on and not own:
            raise InputError(
                f"state: is of worker {self.worker} of {self.workers}, this is worker {worker} of "
                f"{workers}, which gives other batches"
            )
        here = self if own else Position(epoch=self.epoch)
        return replace(here, worker=worker, workers=workers)


#: A batch, the position behind it, and the copies that fill it.
Made = tuple[Batch, Position, Copies]


class _EpochOrder:
    """Order of the pairs ``lo..hi`` in an epoch's row of tiles.

    Attributes:
        tiles: In the order in which they come.
        active: Tiles in the pool at a time; at most as many as there are.
        ends: After each tick, pairs that have come.
    """

    def __init__(self, tiles: Tiles, seed: int, epoch: int, lo: int, hi: int) -> None:
        self._key = (seed, epoch, lo)
        row = rng_for(seed, TILES, epoch).permutation(len(tiles.counts))
        stops = np.cumsum(tiles.counts[row])
        starts = stops - tiles.counts[row]
        mine = (stops > lo) & (starts < hi)
        self.tiles: list[int] = row[mine].tolist()
        self._first = np.maximum(lo - starts[mine], 0)
        self._sizes = np.minimum(hi, stops[mine]) - np.maximum(lo, starts[mine])
        self.active = max(1, min(tiles.active, len(self.tiles)))
        ticks = np.arange(len(self.tiles) - self.active + 1)
        sizes = np.zeros(len(ticks), np.int64)
        for place in range(self.active):
            first, stop = self._edges(ticks, ticks + place)
            sizes += stop - first
        self.ends: Codes = np.cumsum(sizes)

    def shuffled(self, place: int, codes: Any) -> Codes:
        """A tile's pairs in the order in which they come, those of other ranks left out."""
        seed, epoch, _ = self._key
        order = rng_for(seed, PAIRS, epoch, self.tiles[place]).permutation(codes)
        first = int(self._first[place])
        mine: Codes = order[first : first + int(self._sizes[place])]
        return mine

    def tick(self, tick: int, shuffled: dict[int, Codes]) -> Codes:
        """All pairs of a tick, mixed, of its tiles: those from its own number on."""
        places = np.arange(tick, tick + self.active)
        firsts, stops = self._edges(tick, places)
        parts = zip(places.tolist(), firsts.tolist(), stops.tolist(), strict=True)
        mixed = np.concatenate([shuffled[place][first:stop] for place, first, stop in parts])
        seed, epoch, lo = self._key
        rng_for(seed, MIX, epoch, lo, tick).shuffle(mixed)
        return mixed

    def _edges(self, tick: Any, place: Any) -> tuple[Any, Any]:
        """Range of a tile's shuffled pairs that come at a tick: first, and behind the last."""
        age, last = tick + self.active - 1 - place, len(self.tiles) - self.active
        shares = np.where(tick == 0, 0, age), np.where(tick == last, self.active, age + 1)
        first, stop = (self._sizes[place] * share // self.active for share in shares)
        return first, stop


def rank_share(num_pairs: int, options: LoaderOptions) -> tuple[int, int, int]:
    """A rank's share of an epoch's row of tiles: its first pair, the one behind, and its batches.

    All ranks have equally many batches, so that none waits for another in vain. Their pairs differ
    by one at most; where that would be a batch more, the last batches are smaller by some pairs.

    Raises:
        InputError: A rank would have none, or an empty batch where others have one more pair.
    """
    rank, ranks, size = options.rank, options.world_size, options.batch_size
    least, most = num_pairs // ranks, -(-num_pairs // ranks)
    batches = least // size if options.drop_last else -(-most // size)
    if not batches or least < batches:
        raise InputError(
            f"{num_pairs} pairs for {ranks} ranks in batches of {size}"
            f"{' with drop_last' if options.drop_last else ''}: a rank would have none, or an "
            "empty one"
        )
    return rank * num_pairs // ranks, (rank + 1) * num_pairs // ranks, batches


def rest_of_epoch(pool: Pool, options: LoaderOptions, at: Position) -> Generator[Made, None, None]:
    """The remaining batches of one worker's part of a rank's share of an epoch, from ``at`` on."""
    lo, hi, batches = rank_share(pool.tiles.num_pairs, options)
    first, stop = (part * batches // at.workers for part in (at.worker, at.worker + 1))
    # Pairs of the share before each batch.
    bounds = [batch * options.batch_size for batch in range(first, stop + 1)]
    if not options.drop_last:
        bounds = [min(b, hi - lo - batches + first + n) for n, b in enumerate(bounds)]
    order = _EpochOrder(pool.tiles, options.seed, at.epoch, lo + bounds[0], lo + bounds[-1])
    bounds = [bound - bounds[0] for bound in bounds][at.batches :]
    pieces = _pieces(pool, order, bounds[0], bounds[-1])
    codes, begin = np.empty(0, np.int64), 0
    for size in np.diff(bounds).tolist():
        batch, filled, copies = pool.memory.empty(size), 0, Copies()
        while filled < size:
            if begin == len(codes):
                codes, begin = next(pieces), 0
            taken = codes[begin : begin + size - filled]
            copies += pool.gather(taken, batch, filled)
            filled, begin = filled + len(taken), begin + len(taken)
        at = replace(at, batches=at.batches + 1)
        yield batch, at, copies
        del batch  # or it could not be used again


def _pieces(pool: Pool, order: _EpochOrder, first: int, stop: int) -> Iterator[Codes]:
    """Codes of the pairs ``first..stop``, tick by tick; whoever wants another is done with them."""
    shuffled: dict[int, Codes] = {}
    tick = wanted = int(np.searchsorted(order.ends, first, side="right"))
    while tick < len(order.ends):
        for place in range(wanted, min(tick + pool.tiles.slots, len(order.tiles))):
            pool.want(order.tiles[place])
            wanted = place + 1
        for place in range(tick, tick + order.active):
            if place not in shuffled:
                shuffled[place] = order.shuffled(place, pool.codes(order.tiles[place]))
        came = int(order.ends[tick - 1]) if tick else 0
        yield order.tick(tick, shuffled)[max(0, first - came) : stop - came]
        del shuffled[tick]
        pool.release(order.tiles[tick])
        tick += 1


def rest_of_stream(pool: Pool, options: LoaderOptions, at: Position) -> Generator[Made, None, None]:
    """The endless batches of one worker from ``at`` on, each with the position behind it.

    Each worker of each rank acts as a rank of its own.
    """
    rank, world_size = options.rank * at.workers + at.worker, options.world_size * at.workers
    num_tiles = len(pool.tiles.counts)
    all_in_pool = pool.tiles.active == num_tiles
    if all_in_pool:  # each rank draws from all of them, not from its part of the row
        drawn = _ActiveTiles(pool, iter(range(num_tiles)))
    else:
        row = _row(num_tiles, options.seed, at.epoch, rank, world_size, at.renewed)
        drawn = _ActiveTiles(pool, row)
    codes = drawn.codes()
    while True:
        batch = pool.memory.empty(options.batch_size)
        rng = rng_for(options.seed, DRAW, at.epoch, rank, at.batches)
        copies = pool.gather(codes[_draw(len(codes), options, rng)], batch, 0)
        batches, renewed = at.batches + 1, at.renewed
        draws = batches * options.batch_size
        if all_in_pool:  # tiles that stay owe nothing for it, should they no longer fit
            at = replace(at, batches=batches, paid=draws)
        else:
            at = drawn.renew(replace(at, batches=batches), draws, options.reuse)
        yield batch, at, copies
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
    """The tiles of a row that are drawn from, and those that are decoded meanwhile."""

    def __init__(self, pool: Pool, row: Iterator[int]) -> None:
        self._pool, self._row = pool, row
        self._tiles: deque[tuple[int, Codes]] = deque()
        self._coming: deque[int] = deque()
        for tile in islice(row, pool.tiles.slots):
            self._want(tile)
        for _ in range(pool.tiles.active):
            self._add()

    def codes(self) -> Codes:
        """Codes of all pairs that may be drawn."""
        return np.concatenate(list(dict(self._tiles).values()))

    def renew(self, at: Position, draws: int, reuse: float) -> Position:
        """Replace what has been drawn from often enough; each tile stays for one batch at least."""
        renewed, paid = at.renewed, at.paid
        for _ in range(len(self._tiles)):
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
