"""The order of one epoch: which pairs come when, before any of them is decoded.

Tiles come in a random order. Each one's pairs are shuffled and spread evenly over the tick at which
it comes and those behind it, as many ticks as tiles lie in the pool; at each tick the pairs of all
these tiles are shuffled together:

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
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.sampling.chance import MIX, PAIRS, TILES, chance

Codes = NDArray[np.int64]


class EpochOrder:
    """Of the pairs ``lo..hi`` in an epoch's row of tiles.

    Args:
        counts: Pairs of each tile.
        seed: Of the sampler.
        epoch: Which.
        lo: The first pair.
        hi: The one behind the last.
        active: Tiles in the pool at a time.

    Attributes:
        tiles: In the order in which they come.
        active: At most as many as there are tiles.
        ends: After each tick, pairs that have come.
    """

    def __init__(
        self, counts: NDArray[np.int64], seed: int, epoch: int, lo: int, hi: int, active: int
    ) -> None:
        self._key = (seed, epoch, lo)
        row = chance(seed, TILES, epoch).permutation(len(counts))
        stops = np.cumsum(counts[row])
        starts = stops - counts[row]
        mine = (stops > lo) & (starts < hi)
        self.tiles: list[int] = row[mine].tolist()
        self._first = np.maximum(lo - starts[mine], 0)
        self._sizes = np.minimum(hi, stops[mine]) - np.maximum(lo, starts[mine])
        self.active = max(1, min(active, len(self.tiles)))
        self.ends: NDArray[np.int64] = np.cumsum(self._tick_sizes())

    @property
    def num_ticks(self) -> int:
        """Ticks."""
        return len(self.ends)

    def tick_at(self, pairs: int) -> int:
        """The tick that the next pair is of when so many have come."""
        return int(np.searchsorted(self.ends, pairs, side="right"))

    def newest(self, tick: int) -> int:
        """The last of ``tiles`` that a tick wants, by place; the first is the tick's own number."""
        return tick + self.active - 1

    def shuffled(self, place: int, codes: Any) -> Codes:
        """A tile's pairs in the order in which they come, those of other ranks left out."""
        seed, epoch, _ = self._key
        order = chance(seed, PAIRS, epoch, self.tiles[place]).permutation(codes)
        first = int(self._first[place])
        mine: Codes = order[first : first + int(self._sizes[place])]
        return mine

    def tick(self, tick: int, shuffled: dict[int, Codes]) -> Codes:
        """All pairs of a tick, mixed; ``shuffled`` holds the tiles from oldest to newest."""
        places = np.arange(tick, self.newest(tick) + 1)
        firsts, stops = self._edges(tick, places)
        parts = zip(places.tolist(), firsts.tolist(), stops.tolist(), strict=True)
        mixed = np.concatenate([shuffled[place][first:stop] for place, first, stop in parts])
        seed, epoch, lo = self._key
        chance(seed, MIX, epoch, lo, tick).shuffle(mixed)
        return mixed

    def _edges(self, tick: Any, place: Any) -> tuple[Any, Any]:
        """Which of a tile's shuffled pairs come at a tick: from, and up to."""
        age, last = tick + self.active - 1 - place, len(self.tiles) - self.active
        shares = np.where(tick == 0, 0, age), np.where(tick == last, self.active, age + 1)
        first, stop = (self._sizes[place] * share // self.active for share in shares)
        return first, stop

    def _tick_sizes(self) -> NDArray[np.int64]:
        ticks = np.arange(len(self.tiles) - self.active + 1)
        sizes = np.zeros(len(ticks), np.int64)
        for age in range(self.active):
            first, stop = self._edges(ticks, ticks + self.active - 1 - age)
            sizes += stop - first
        return sizes
