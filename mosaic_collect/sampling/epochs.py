"""The batches of one epoch: every pair once."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

import numpy as np

from mosaic_collect.sampling.batches import Batch
from mosaic_collect.sampling.order import Codes, EpochOrder
from mosaic_collect.sampling.pool import Pool


def epoch_batches(
    pool: Pool, order: EpochOrder, bounds: Sequence[int]
) -> Generator[Batch, None, None]:
    """Batches of an order, cut at ``bounds``: pairs before the first are left out.

    Args:
        pool: With more slots than tiles are active at a time, or one for each.
        order: Of the pairs.
        bounds: Where each batch begins, and where the last one ends.
    """
    pieces = _pieces(pool, order, bounds[0], bounds[-1])
    codes, at = np.empty(0, np.int64), 0
    for size in np.diff(bounds).tolist():
        batch, filled = pool.memory.empty(size), 0
        while filled < size:
            if at == len(codes):
                codes, at = next(pieces), 0
            taken = codes[at : at + size - filled]
            pool.memory.gather(taken, batch, filled)
            filled, at = filled + len(taken), at + len(taken)
        yield batch
        del batch  # or it could not be used again


def _pieces(pool: Pool, order: EpochOrder, first: int, stop: int) -> Iterator[Codes]:
    """Codes of the pairs ``first..stop``, tick by tick; whoever wants another is done with them."""
    shuffled: dict[int, Codes] = {}
    tick = wanted = order.tick_at(first)
    while tick < order.num_ticks:
        for place in range(wanted, min(tick + pool.slots, len(order.tiles))):
            pool.want(order.tiles[place])
            wanted = place + 1
        for place in range(tick, order.newest(tick) + 1):
            if place not in shuffled:
                shuffled[place] = order.shuffled(place, pool.codes(order.tiles[place]))
        came = int(order.ends[tick - 1]) if tick else 0
        yield order.tick(tick, shuffled)[max(0, first - came) : stop - came]
        del shuffled[tick]
        pool.release(order.tiles[tick])
        tick += 1
