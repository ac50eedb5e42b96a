"""Differences over steps, in a bounded number of bins."""

from __future__ import annotations

import numpy as np
import pytest

from mosaic_collect.replay.report import MOST_BINS, Differences, Step


def fill(differences: Differences, values: list[float]) -> Differences:
    """A row a step; the mean is off where it is above 1."""
    for step, value in enumerate(values):
        differences.add(Step(step, 1, value > 1, value, value / 10))
    return differences


def test_a_bin_a_step() -> None:
    made = fill(Differences(3), [0.5, 0.0, 2.0])
    assert made.bin_steps == 1
    assert made.mean.tolist() == [0.5, 0.0, 2.0]
    assert made.sigma.tolist() == [0.05, 0.0, 0.2]
    assert made.rows.tolist() == [1, 1, 1]
    assert made.rows_off.tolist() == [0, 0, 1]


def test_a_bin_keeps_its_largest_and_all_counts() -> None:
    made = fill(Differences(8, most_bins=3), [1, 7, 2, 0, 0, 0, 3, 1])
    assert made.bin_steps == 3
    assert made.first_steps.tolist() == [0, 3, 6]
    assert made.mean.tolist() == [7.0, 0.0, 3.0]
    assert made.rows.tolist() == [3, 3, 2]
    assert made.rows_off.tolist() == [2, 0, 1]


def test_what_is_not_finite_stays_in_its_bin() -> None:
    made = fill(Differences(4, most_bins=2), [1, np.inf, 2, 3])
    assert made.mean.tolist() == [np.inf, 3.0]
    assert made.rows_off.tolist() == [1, 2]


def test_a_bin_without_valid_rows_has_no_value() -> None:
    made = Differences(2)
    made.add(Step(0, 0, 0, 0.0, 0.0))
    assert np.isnan(made.mean).all()
    assert made.rows.tolist() == [0, 0]


@pytest.mark.parametrize("steps", [0, 1, 1999, 2000, 2001, 4001, 10**9])
def test_memory_is_bounded_whatever_the_number_of_steps(steps: int) -> None:
    made = Differences(steps)
    assert len(made.mean) <= MOST_BINS
    assert len(made.mean) * made.bin_steps >= steps
    assert len(made.mean) >= min(steps, MOST_BINS // 2)
