"""Random numbers that depend on what they are for, and on nothing that happened before."""

from __future__ import annotations

import numpy as np

#: What a generator is for; a purpose never shares numbers with another.
TILES, PAIRS, MIX, PASS, DRAW = range(5)


def chance(seed: int, purpose: int, *place: int) -> np.random.Generator:
    """The generator of one purpose and place: an epoch and a tile, say."""
    return np.random.Generator(np.random.PCG64([seed, purpose, *place]))
