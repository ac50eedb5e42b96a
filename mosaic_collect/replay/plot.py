"""The picture of a replay: how far off which steps are."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.look.canvas import LIGHT, default_style, new_figure, save
from mosaic_collect.replay.report import Differences

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MEAN, _SIGMA, _OFF, _LIMIT = "#0072b2", "#e69f00", "#d62728", "#444444"
_FEW = 120  # steps up to which each gets a dot of its own
_MOST_TICKS = 9


def plot_replay(
    differences: Differences, tolerance: float, title: str, path: str | os.PathLike[str]
) -> None:
    """Save the picture that ``replay_figure`` draws.

    Args:
        differences: Differences of a replay.
        tolerance: Drawn as a line.
        title: Over the picture.
        path: Path of the picture; its ending names the format, such as ``.png`` or ``.svg``.

    Raises:
        InputError: No picture format has that ending, or there is no such folder.
        MissingDependencyError: matplotlib is not installed.
    """
    with default_style():
        save(replay_figure(differences, tolerance, title), path)


def replay_figure(differences: Differences, tolerance: float, title: str) -> Figure:
    """Draw the largest difference of mean and of sigma over the steps, on a logarithmic axis.

    Steps without any difference stand on the line at the bottom, those whose difference is not
    finite on the line at the top. A red stem and triangle mark steps with rows that are off.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    figure = new_figure(10, 4.5, LIGHT)
    axes = figure.add_subplot()
    scale = _Scale(differences, tolerance)
    _curves(axes, differences, scale)
    limit, label = float(scale.place(tolerance)), f"tolerance {tolerance:g}"
    axes.axhline(limit, color=_LIMIT, linestyle="--", linewidth=1, label=label)
    _mark_off(axes, differences, scale)
    _dress(axes, differences, scale)
    colour = _OFF if differences.rows_off.any() else "black"
    # A dollar in a file's name begins no formula.
    axes.set_title(title, fontsize=10, loc="left", color=colour, parse_math=False)
    figure.legend(loc="outside lower left", ncols=4, frameon=False, fontsize=9)
    return figure


class _Scale:
    """A logarithmic axis with a line for zero below its decades and one for infinity above."""

    def __init__(self, differences: Differences, tolerance: float) -> None:
        values = np.concatenate([differences.mean, differences.sigma, [tolerance]])
        shown = values[np.isfinite(values) & (values > 0)]
        shown = shown if shown.size else np.array([1.0])
        self.first = int(np.floor(np.log10(shown.min())))
        self.last = max(int(np.ceil(np.log10(shown.max()))), self.first + 1)
        self.infinite = bool(np.isinf(values).any())
        self.zero, self.infinity = 10.0 ** (self.first - 1), 10.0 ** (self.last + 1)

    def place(self, values: Any) -> NDArray[np.float64]:
        """Where these differences stand on the axis; NaN stays NaN."""
        values = np.asarray(values, np.float64)
        return np.where(np.isinf(values), self.infinity, np.where(values == 0, self.zero, values))

    def ticks(self) -> tuple[list[float], list[str]]:
        """Every decade or every few, and the two lines."""
        stride = -(-(self.last - self.first) // _MOST_TICKS)
        decades = range(self.first, self.last + 1, stride)
        places = [self.zero, *(10.0**d for d in decades)]
        labels = ["equal", *(f"1e{d:+03d}" for d in decades)]
        if self.infinite:
            return [*places, self.infinity], [*labels, "not finite"]
        return places, labels


def _curves(axes: Axes, differences: Differences, scale: _Scale) -> None:
    x = _middles(differences)
    marker = "o" if len(x) <= _FEW else ""
    # Sigma below and wider, so that both are seen where they agree.
    for name, values, colour, width in (
        ("sigma", differences.sigma, _SIGMA, 2.4),
        ("mean", differences.mean, _MEAN, 0.9),
    ):
        (line,) = axes.step(x, scale.place(values), where="mid", color=colour, linewidth=width)
        line.set(marker=marker, markersize=2 + width, label=f"largest difference of {name}")


def _mark_off(axes: Axes, differences: Differences, scale: _Scale) -> None:
    off = differences.rows_off > 0
    if not off.any():
        return
    x, worst = _middles(differences)[off], np.fmax(differences.mean, differences.sigma)[off]
    axes.vlines(x, scale.zero, scale.place(worst), color=_OFF, alpha=0.25, linewidth=1.2)
    count = int(np.count_nonzero(off))
    what = "steps" if differences.bin_steps == 1 else f"bins of {differences.bin_steps} steps"
    label = f"{what} with rows off: {count:,}"
    axes.plot(x, scale.place(worst), "v", color=_OFF, markersize=5, label=label, clip_on=False)


def _dress(axes: Axes, differences: Differences, scale: _Scale) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axes.set_yscale("log")
    axes.minorticks_off()
    axes.set_yticks(*scale.ticks())
    top = scale.infinity if scale.infinite else 10.0**scale.last
    axes.set_ylim(scale.zero / 2, top * 2)
    axes.set_xlim(-0.5, max(differences.num_steps, 1) - 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    steps = differences.bin_steps
    axes.set_xlabel("step" if steps == 1 else f"step (the largest of each {steps:,} steps)")
    axes.set_ylabel("absolute difference, in units of the actions")


def _middles(differences: Differences) -> NDArray[np.float64]:
    """Of each bin's steps; of the last bin, too, as if it were full."""
    return np.asarray(differences.first_steps + (differences.bin_steps - 1) / 2)
