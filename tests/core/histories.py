"""Rows that repeat the row before, as observations with a history do."""

from __future__ import annotations

import numpy as np

TERMS = (20, 3, 7)
FRAMES = 5


def history(
    envs: int,
    steps: int,
    terms: tuple[int, ...] = TERMS,
    frames: int = FRAMES,
    newest_first: bool = False,
    resets: tuple[tuple[int, int], ...] = (),
    dtype: str = "float32",
    seed: int = 0,
) -> np.ndarray:
    """``(envs, steps, frames * sum(terms))``, term by term; at a reset the first frame fills all.

    Args:
        resets: (env, step) at which a trajectory begins, besides step 0.
    """
    chance = np.random.default_rng(seed)
    new = chance.standard_normal((envs, steps, sum(terms))).astype(dtype)
    out = np.empty((envs, steps, frames * sum(terms)), dtype)
    for env in range(envs):
        begin = 0
        for step in range(steps):
            if (env, step) in resets:
                begin = step
            ages = [min(age, step - begin) for age in range(frames)]
            if not newest_first:
                ages = ages[::-1]
            at = 0
            for start, width in zip(np.cumsum((0, *terms)), terms, strict=False):
                for age in ages:
                    out[env, step, at : at + width] = new[env, step - age, start : start + width]
                    at += width
    return out
