"""What a replay check found."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import InputError

MOST_BINS = 2000
TOLERANCE = 1e-5  # absolute, in units of the actions


def check_tolerance(tolerance: float) -> None:
    """Refuse one that nothing would exceed.

    Raises:
        InputError: Not finite, or below 0.
    """
    if not 0 <= tolerance < np.inf:
        raise InputError(f"tolerance: expected a finite number from 0 on, got {tolerance}")


class Step(NamedTuple):
    """The valid rows of one step.

    Attributes:
        number: Number of the step.
        rows: How many.
        rows_off: Number of rows beyond the tolerance.
        mean: Largest difference of a row's mean; infinite where either side is not finite.
        sigma: Largest difference of a row's sigma.
    """

    number: int
    rows: int
    rows_off: int
    mean: float
    sigma: float


class Differences:
    """The largest difference of mean and of sigma in each bin of steps, and the rows that are off.

    Attributes:
        num_steps: T.
        bin_steps: Steps of a bin; the last may have fewer.
        mean: Largest absolute difference of the mean over valid rows, ``(bins,)`` float64;
            infinite where either side is not finite, NaN where no row was valid.
        sigma: Differences of sigma.
        rows: Valid rows, ``(bins,)`` int64.
        rows_off: Number of rows beyond the tolerance.

    Args:
        num_steps: T.
        most_bins: Bound of the number of bins.
    """

    def __init__(self, num_steps: int, most_bins: int = MOST_BINS) -> None:
        self.num_steps = num_steps
        self.bin_steps = max(1, math.ceil(num_steps / most_bins))
        bins = math.ceil(num_steps / self.bin_steps)
        self.mean = np.full(bins, np.nan)
        self.sigma = np.full(bins, np.nan)
        self.rows = np.zeros(bins, np.int64)
        self.rows_off = np.zeros(bins, np.int64)

    def add(self, step: Step) -> None:
        """Take a step's valid rows."""
        if not step.rows:
            return
        place = step.number // self.bin_steps
        # fmax, not max: a bin starts as NaN.
        self.mean[place] = np.fmax(self.mean[place], step.mean)
        self.sigma[place] = np.fmax(self.sigma[place], step.sigma)
        self.rows[place] += step.rows
        self.rows_off[place] += step.rows_off

    @property
    def first_steps(self) -> NDArray[np.int64]:
        """The first step of each bin, ``(bins,)``."""
        return np.arange(len(self.rows), dtype=np.int64) * self.bin_steps


@dataclass(frozen=True)
class ReplayReport:
    """What the check found, over valid rows.

    Attributes:
        rows: Checked.
        rows_off: Number of rows whose mean or sigma differs by more than the tolerance.
        largest_mean: Largest absolute difference of the mean.
        largest_sigma: Largest difference of sigma.
        relative_mean: Largest difference of a row's mean as a share of that row's largest recorded
            value.
        relative_sigma: Largest relative difference of sigma.
        tolerance: Allowed absolute difference.
        first_off: (step, env) of the first row that is off; None if none is.
        differences: Over the steps, for a plot.
    """

    rows: int
    rows_off: int
    largest_mean: float
    largest_sigma: float
    relative_mean: float
    relative_sigma: float
    tolerance: float
    first_off: tuple[int, int] | None
    differences: Differences

    @property
    def ok(self) -> bool:
        """Whether rows were checked and none is off."""
        return self.rows > 0 and not self.rows_off

    @property
    def verdict(self) -> str:
        """In words, with counts."""
        if self.ok:
            return f"ok, {self.rows:,} valid rows"
        if not self.rows:
            return "NO VALID ROWS, so nothing is proven"
        step, env = self.first_off or (0, 0)
        return (
            f"{self.rows_off:,} OF {self.rows:,} valid ROWS OFF, the first at step {step:,}, "
            f"env {env:,}"
        )

    @property
    def figures(self) -> str:
        """The largest differences in words."""
        return (
            f"largest difference of mean {self.largest_mean:.1e} (relative "
            f"{self.relative_mean:.1e}), of sigma {self.largest_sigma:.1e} (relative "
            f"{self.relative_sigma:.1e})"
        )
