"""What a replay check found."""

from __future__ import annotations

from dataclasses import dataclass

from mosaic_collect.replay.differences import Differences


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
