"""The result of a replay check, and its picture."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import InputError
from mosaic_collect.look.canvas import (
    LIGHT,
    default_style,
    dress,
    legend,
    new_figure,
    save,
    whole_numbers,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TOLERANCE = 1e-5  # absolute, in units of the actions
_LARGEST = ("largest_mean", "largest_sigma", "relative_mean", "relative_sigma")
#: One step: valid rows, rows beyond the tolerance, the first environment of these (-1: none), and
#: the largest differences of a row, which are NaN without valid rows.
STEP = np.dtype(
    [
        *((name, np.int32) for name in ("rows", "rows_off", "first_off")),
        *((n, float) for n in _LARGEST),
    ]
)
_MOST_BINS = 2000  # more do not fit on a picture
_FEW = 120  # steps up to which each gets a dot of its own
_MOST_TICKS = 9


def check_tolerance(tolerance: float) -> None:
    """Refuse a tolerance that no difference would exceed."""
    if not 0 <= tolerance < np.inf:
        raise InputError(f"tolerance: expected a finite number from 0 on, got {tolerance}")


@dataclass(frozen=True)
class ReplayReport:
    """Differences between recomputed and recorded actions, over valid rows.

    A difference is infinite where either side is not finite.

    Attributes:
        rows: Number of rows that were checked.
        rows_off: Number of rows whose mean or sigma differs by more than the tolerance.
        largest_mean: Largest absolute difference of the mean.
        largest_sigma: Largest absolute difference of sigma.
        relative_mean: Largest difference of a row's mean, relative to that row's largest recorded
            value.
        relative_sigma: Largest relative difference of sigma.
        tolerance: Allowed absolute difference.
        first_off: (step, env) of the first row that is off; None if none is.
        steps: One ``STEP`` per step, ``(T,)``: the same figures, 44 bytes per step.
    """

    rows: int
    rows_off: int
    largest_mean: float
    largest_sigma: float
    relative_mean: float
    relative_sigma: float
    tolerance: float
    first_off: tuple[int, int] | None
    steps: NDArray[Any]

    @classmethod
    def of(cls, steps: NDArray[Any], tolerance: float) -> ReplayReport:
        """Sum up all steps."""
        off = np.flatnonzero(steps["rows_off"])
        return cls(
            rows=int(steps["rows"].sum()),
            rows_off=int(steps["rows_off"].sum()),
            tolerance=tolerance,
            first_off=(int(off[0]), int(steps["first_off"][off[0]])) if len(off) else None,
            steps=steps,
            # fmax passes over NaN.
            **{name: float(np.fmax.reduce(steps[name], initial=0.0)) for name in _LARGEST},
        )

    @property
    def ok(self) -> bool:
        """Whether rows were checked and none is off."""
        return self.rows > 0 and not self.rows_off

    @property
    def verdict(self) -> str:
        """Text of the verdict, with counts."""
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
        """Text of the largest differences."""
        return (
            f"largest difference of mean {self.largest_mean:.1e} (relative "
            f"{self.relative_mean:.1e}), of sigma {self.largest_sigma:.1e} (relative "
            f"{self.relative_sigma:.1e})"
        )


def plot_replay(report: ReplayReport, title: str, path: str | os.PathLike[str]) -> None:
    """Save the picture that ``replay_figure`` draws; errors are those of ``save``."""
    with default_style():
        save(replay_figure(report, title), path)


def replay_figure(report: ReplayReport, title: str) -> Figure:
    """Draw the largest difference of mean and of sigma over the steps, on a logarithmic axis.

    Steps without any difference stand on the line at the bottom, those whose difference is not
    finite on the line at the top. A red stem and triangle mark steps with rows that are off. Very
    many steps are drawn in bins, each by its largest difference.
    """
    steps = report.steps
    stride = max(1, -(-len(steps) // _MOST_BINS))
    first = np.arange(0, len(steps), stride)
    x = first + (stride - 1) / 2
    mean, sigma = (np.fmax.reduceat(steps[name], first) for name in _LARGEST[:2])
    off = np.add.reduceat(steps["rows_off"], first) > 0

    figure = new_figure(10, 4.5)
    axes = figure.add_subplot()
    dress(axes)
    # A dollar in a file's name begins no formula.
    color = LIGHT.failed if off.any() else LIGHT.ink
    axes.set_title(title, fontsize=10, loc="left", color=color, parse_math=False)
    bottom, top = _scale(axes, np.concatenate([mean, sigma, [report.tolerance]]))
    # Sigma below and wider, so that both are seen where they agree.
    for name, values, color, width in (
        ("sigma", sigma, LIGHT.interrupted, 2.4),
        ("mean", mean, LIGHT.ended, 0.9),
    ):
        shown = np.clip(values, bottom, top)
        (line,) = axes.step(x, shown, where="mid", color=color, linewidth=width)
        marker = "o" if len(x) <= _FEW else ""
        line.set(marker=marker, markersize=2 + width, label=f"largest difference of {name}")
    limit, label = max(report.tolerance, bottom), f"tolerance {report.tolerance:g}"
    axes.axhline(limit, color=LIGHT.line6, linestyle="--", linewidth=1, label=label)
    if off.any():
        worst = np.clip(np.fmax(mean, sigma)[off], bottom, top)
        axes.vlines(x[off], bottom, worst, color=LIGHT.failed, alpha=0.25, linewidth=1.2)
        unit = "steps" if stride == 1 else f"bins of {stride} steps"
        label = f"{unit} with rows off: {np.count_nonzero(off):,}"
        axes.plot(x[off], worst, "v", color=LIGHT.failed, markersize=5, label=label, clip_on=False)
    axes.set_xlim(-0.5, max(len(steps), 1) - 0.5)
    axes.set_xlabel("step" if stride == 1 else f"step (the largest of each {stride:,} steps)")
    axes.set_ylabel("absolute difference, in units of the actions")
    whole_numbers(axes.xaxis)
    legend(figure, loc="outside lower left", ncols=4)
    return figure


def _scale(axes: Axes, values: NDArray[np.float64]) -> tuple[float, float]:
    """Set up the axis; return the places of zero, below all decades, and of infinity, above."""
    shown = values[np.isfinite(values) & (values > 0)]
    shown = shown if shown.size else np.ones(1)
    first = int(np.floor(np.log10(shown.min())))
    last = max(int(np.ceil(np.log10(shown.max()))), first + 1)
    zero, infinity = 10.0 ** (first - 1), 10.0 ** (last + 1)
    ticks = {zero: "equal"}
    for decade in range(first, last + 1, -(-(last - first) // _MOST_TICKS)):
        ticks[10.0**decade] = f"1e{decade:+03d}"
    is_infinite = bool(np.isinf(values).any())
    if is_infinite:
        ticks[infinity] = "not finite"
    axes.set_yscale("log")
    axes.minorticks_off()
    axes.set_yticks([*ticks], [*ticks.values()])
    axes.set_ylim(zero / 2, 2 * (infinity if is_infinite else 10.0**last))
    return zero, infinity
