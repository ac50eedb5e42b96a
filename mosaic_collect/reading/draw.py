"""A uniform random subset of pairs, without an index array.

Every candidate pair gets a random 64-bit key from ``(seed, block)``; the ``k`` smallest keys win.
That is exactly uniform without replacement, needs memory for one block and one histogram only, and
draws are nested: with one seed, a larger ``k`` contains the smaller one's pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_BITS = 16

Mask = NDArray[np.bool_]


class Draw:
    """``k`` of all candidate pairs.

    Args:
        counts: Per block, how many pairs may be drawn.
        k: How many; at most as many as there are.
        seed: Of the keys.
    """

    def __init__(self, counts: Sequence[int], k: int, seed: int) -> None:
        self._seed = seed
        cut, before = self._cut_bin(counts, k)
        self._threshold, self._ties = self._cut(counts, cut, k - before)

    def drawn(self, block: int, candidates: Mask) -> Mask:
        """The drawn ones among a block's candidates, same shape."""
        keys = self._keys(block, int(np.count_nonzero(candidates)))
        chosen = keys < self._threshold
        # Equal keys are all but impossible; if they happen, the earlier pair wins.
        ties = np.flatnonzero(keys == self._threshold)[: self._ties.get(block, 0)]
        chosen[ties] = True
        out = np.zeros_like(candidates)
        out[candidates] = chosen
        return out

    def _keys(self, block: int, count: int) -> NDArray[np.uint64]:
        generator = np.random.Generator(np.random.PCG64([self._seed, block]))
        return generator.integers(0, 2**64, size=count, dtype=np.uint64)

    def _cut_bin(self, counts: Sequence[int], k: int) -> tuple[int, int]:
        """The bin of leading bits in which the k-th smallest key lies, and the keys before it."""
        histogram = np.zeros(1 << _BITS, np.int64)
        for block, count in enumerate(counts):
            leading = (self._keys(block, count) >> np.uint64(64 - _BITS)).astype(np.int64)
            histogram += np.bincount(leading, minlength=1 << _BITS)
        cut = int(np.searchsorted(np.cumsum(histogram), k))
        return cut, int(histogram[:cut].sum())

    def _cut(self, counts: Sequence[int], cut: int, rest: int) -> tuple[np.uint64, dict[int, int]]:
        """The k-th smallest key, and per block how many pairs of just that key are in."""
        found, blocks = [], []
        for block, count in enumerate(counts):
            keys = self._keys(block, count)
            keys = keys[keys >> np.uint64(64 - _BITS) == np.uint64(cut)]
            found.append(keys)
            blocks.append(np.full(len(keys), block))
        keys, owners = np.concatenate(found), np.concatenate(blocks)
        order = np.argsort(keys, kind="stable")[:rest]
        threshold = keys[order[-1]]
        tied = owners[order[keys[order] == threshold]]
        return threshold, dict(Counter(tied.tolist()))
