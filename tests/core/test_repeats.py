"""What repeats from row to row is found, however it is laid out, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from mosaic_collect.repeats import Copy, RowPattern, find_pattern
from tests.core.histories import FRAMES, TERMS, history


def rows(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, values.shape[-1]).view(f"u{values.itemsize}")


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_oldest_first(dtype: str) -> None:
    item = np.dtype(dtype).itemsize
    pattern = find_pattern(rows(history(4, 30, dtype=dtype)))
    starts = np.cumsum((0, *TERMS)) * FRAMES * item
    wanted = [
        Copy(int(s), int(s + (FRAMES - 1) * width * item), width * item)
        for s, width in zip(starts, TERMS, strict=False)
    ]
    assert pattern == RowPattern(FRAMES * sum(TERMS) * item, tuple(wanted))
    assert pattern.new_nbytes == sum(TERMS) * item


def test_newest_first() -> None:
    pattern = find_pattern(rows(history(4, 30, newest_first=True)))
    assert pattern is not None
    assert pattern.new_nbytes == 4 * sum(TERMS)
    assert [c.shift for c in pattern.copies] == [-4 * width for width in TERMS]
    assert pattern.new[0] == (0, 4 * TERMS[0])


def test_resets_do_not_hide_it() -> None:
    resets = tuple((env, step) for env in range(4) for step in (7, 19))
    assert find_pattern(rows(history(4, 30, resets=resets))) == find_pattern(rows(history(4, 30)))


def test_beside_what_does_not_repeat_and_what_never_changes() -> None:
    values = history(4, 30, terms=(6,))
    chance = np.random.default_rng(1)
    noise = chance.standard_normal((4, 30, 9)).astype(np.float32)
    still = np.broadcast_to(np.arange(4, dtype=np.float32) + 0.5, (4, 30, 4))
    pattern = find_pattern(rows(np.concatenate([noise, values, still], axis=2)))
    assert pattern is not None
    assert pattern.copies == (Copy(36, 36 + 96, 24), Copy(36 + 120, 36 + 136, 0))
    assert pattern.new == ((0, 36), (36 + 96, 36 + 120))


def test_noise_has_none() -> None:
    chance = np.random.default_rng(2)
    assert find_pattern(rows(chance.standard_normal((4, 30, 50)).astype(np.float32))) is None


@pytest.mark.parametrize("shape", [(1, 2, 40), (1, 1, 40), (3, 30, 1)])
def test_too_little_to_see_one(shape: tuple[int, ...]) -> None:
    assert find_pattern(rows(np.zeros(shape, np.float32))) is None
