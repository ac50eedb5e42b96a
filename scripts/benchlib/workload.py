"""The steps that are recorded: smooth joint signals with sensor noise, from memory.

A pool of distinct steps is made once and replayed, so that making them is not measured. The
signals close on themselves after the pool's length, histories included, so a replay has no seam.
A compressor never sees a repeat as long as the pool is longer than what it compresses at once;
``require_distinct`` holds recorders to that.

Student observations repeat the last ``HISTORY`` frames of each term, oldest first, term by term:

    | term 0: t-4 t-3 t-2 t-1 t | term 1: t-4 ... t | ...
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

HISTORY = 5
INVALID = 0.02
SIGMA = 0.1
_STEP_SECONDS = 0.02
_POOL_STEPS = 256
_POOL_NBYTES = 2_200_000_000  # a pool of huge steps is shorter, but never under 32 steps

#: Widths of the student's terms and of the action: Unitree G1 in MOSAIC, and a small robot.
DIMS = {"mosaic": ((58, 6, 3, 29, 29, 29), 29), "small": ((6, 3, 3), 4)}

Rows = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Workload:
    """A pool of steps.

    Attributes:
        pool: Per field, shape ``(pool_steps, num_envs[, dim])``.
        change: Applied to each step's rows before a recorder gets them; tests break data with it.
    """

    pool: Rows
    change: Callable[[int, Rows], Rows] | None = None

    @property
    def num_envs(self) -> int:
        """Environments, N."""
        return int(self.pool["valid_mask"].shape[1])

    @property
    def pool_steps(self) -> int:
        """Distinct steps."""
        return len(self.pool["valid_mask"])

    @property
    def step_nbytes(self) -> int:
        """Raw bytes of one step, all environments."""
        return sum(v[0].nbytes for v in self.pool.values())

    def step(self, index: int) -> Rows:
        """What a recorder is given at a step; the arrays are views of the pool."""
        rows = self.true_step(index)
        return rows if self.change is None else self.change(index, rows)

    def true_step(self, index: int) -> Rows:
        """What must be read back of a step."""
        return {name: values[index % self.pool_steps] for name, values in self.pool.items()}

    def require_distinct(self, steps: int) -> None:
        """Refuse to let ``steps`` steps be compressed at once if they would repeat."""
        assert steps <= self.pool_steps, f"a block of {steps} steps repeats the pool"


def make_workload(num_envs: int, dims: str = "mosaic", noise: float = 0.01) -> Workload:
    """A pool for ``num_envs`` environments; ``noise`` is the sensors' standard deviation."""
    terms, actions = DIMS[dims]
    width = sum(terms)
    pair_nbytes = 4 * ((1 + HISTORY) * width + 3 * actions) + 1
    steps = max(32, min(_POOL_STEPS, _POOL_NBYTES // (num_envs * pair_nbytes)))
    rng = np.random.default_rng(0)
    clean = _signals(rng, steps, num_envs, width)
    seen = _noisy(rng, clean, noise)
    chosen = _noisy(rng, clean[..., :actions], noise)
    pool = {
        "observations": _noisy(rng, clean, noise),
        "student_observations": _history(seen, terms),
        "actions": chosen,
        "action_mean": chosen.copy(),
        "action_sigma": np.full_like(chosen, SIGMA),
        "valid_mask": rng.random((steps, num_envs)) >= INVALID,
    }
    return Workload(pool)


def _signals(rng: Any, steps: int, num_envs: int, width: int) -> NDArray[np.float32]:
    """Sines of 0.2 to 2 Hz, each with whole periods in the pool, shape ``(steps, N, width)``."""
    seconds = steps * _STEP_SECONDS
    periods = np.maximum(1, np.rint(rng.uniform(0.2, 2.0, (num_envs, width)) * seconds))
    phase = rng.uniform(0, 2 * np.pi, (num_envs, width)).astype(np.float32)
    out = np.empty((steps, num_envs, width), np.float32)
    for t in range(steps):
        out[t] = np.sin(phase + (2 * np.pi * t / steps) * periods)
    return out


def _noisy(rng: Any, clean: NDArray[np.float32], noise: float) -> NDArray[np.float32]:
    out = clean.copy()
    if noise:
        for step in out:
            step += np.float32(noise) * rng.standard_normal(step.shape, dtype=np.float32)
    return out


def _history(frames: NDArray[np.float32], terms: tuple[int, ...]) -> NDArray[np.float32]:
    """Each step's last ``HISTORY`` frames, term by term, shape ``(steps, N, HISTORY * width)``."""
    steps, num_envs, width = frames.shape
    out = np.empty((steps, num_envs, HISTORY * width), np.float32)
    start = 0
    for term in terms:
        for age in range(HISTORY):
            column = HISTORY * start + (HISTORY - 1 - age) * term
            out[..., column : column + term] = np.roll(
                frames[..., start : start + term], age, axis=0
            )
        start += term
    return out
