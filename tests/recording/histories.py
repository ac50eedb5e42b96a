"""Rows that repeat the row before, as observations with a history do."""

from __future__ import annotations

import numpy as np

FRAMES = 5


def history(
    envs: int,
    steps: int,
    terms: tuple[int, ...],
    resets: tuple[tuple[int, int], ...] = (),
    seed: int = 0,
) -> np.ndarray:
    """``(envs, steps, FRAMES * sum(terms))`` of noise, term by term, the oldest frame first.

    Args:
        envs: Environments.
        steps: Of each.
        terms: Widths.
        resets: (env, step) at which a trajectory begins, besides step 0: its frame fills all.
        seed: Of the noise.
    """
    new = np.random.default_rng(seed).standard_normal((envs, steps, sum(terms)), np.float32)
    begins = np.zeros((envs, steps), int)
    for env, step in resets:
        begins[env, step] = step
    begins = np.maximum.accumulate(begins, axis=1)
    ages = np.arange(FRAMES)[::-1]
    frames = np.maximum(np.arange(steps)[None, :, None] - ages, begins[..., None])
    seen = np.take_along_axis(new[:, :, None, :], frames.reshape(envs, -1, 1, 1), axis=1)
    seen = seen.reshape(envs, steps, FRAMES, -1)
    parts = np.split(seen, np.cumsum(terms)[:-1], axis=3)
    return np.concatenate([p.reshape(envs, steps, -1) for p in parts], axis=2)
