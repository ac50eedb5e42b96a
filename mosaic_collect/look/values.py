"""Pictures of the values that fields take: bands per feature, and actions beside their means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mosaic_collect.look.canvas import LIGHT, Palette, dress, legend, new_figure, whole_numbers
from mosaic_collect.look.statistics import FieldStatistics
from mosaic_collect.reading.terms import Term

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 64  # features of a panel where no terms are known
_MOST_PANELS = 30
_COLUMNS = 3
_AT = (0.01, 0.25, 0.5, 0.75, 0.99)


def bands_figure(field: FieldStatistics, palette: Palette = LIGHT) -> Figure:
    """Per feature: least and greatest, 1 to 99 %, 25 to 75 %, the median; of histories the newest.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    terms = _panels(field)
    shown = terms[:_MOST_PANELS]
    rows = -(-max(len(shown), 1) // _COLUMNS)
    figure = new_figure(10, 0.6 + 1.75 * rows, palette)
    grid = figure.subplots(rows, _COLUMNS, squeeze=False)
    quantiles = field.quantiles(_AT)
    for axes in grid.flat[len(shown) :]:
        axes.set_axis_off()
    for axes, term in zip(grid.flat, shown, strict=False):
        _panel(axes, field, quantiles, term, palette)
    more = f" (the first {_MOST_PANELS} of {len(terms)} panels)" if len(terms) > len(shown) else ""
    _key(figure, palette, f"{field.name}, by feature{more}")
    return figure


def _panels(field: FieldStatistics) -> list[Term]:
    """The terms, or else columns as they lie."""
    if field.terms:
        return list(field.terms)
    dim = len(field.mean)
    cuts = [(start, min(start + _WIDTH, dim)) for start in range(0, dim, _WIDTH)]
    return [Term(name=f"[{a}:{b}]", dim=b - a, start=a) for a, b in cuts]


def _panel(
    axes: Axes, field: FieldStatistics, quantiles: np.ndarray, term: Term, palette: Palette
) -> None:
    columns = term.newest
    newest = f", newest of {term.frames} frames" if term.frames > 1 else ""
    dress(axes, palette, f"{term.name} ({term.dim}{newest})")
    x, m = np.arange(term.dim), field.moments
    some = m.count[columns] > 0
    low, q1, q25, q50, q75, q99, high = (
        np.where(some, v[columns], np.nan) for v in (m.low, *quantiles, m.high)
    )
    axes.vlines(x, low, high, color=palette.line6, linewidth=0.8)
    width = min(6.0, 120 / max(term.dim, 1))
    axes.vlines(x, q1, q99, color=palette.ended2, linewidth=width)
    axes.vlines(x, q25, q75, color=palette.ended, linewidth=width)
    axes.plot(x, q50, "_", color=palette.ink, markersize=max(width, 3), markeredgewidth=1.2)
    for where, mark, colour in (
        (field.dead[columns], "x", palette.failed),
        (field.constant[columns] & ~field.dead[columns], "D", palette.truncated),
        ((m.nan + m.inf)[columns] > 0, "^", palette.failed),
    ):
        places = x[where]
        heights = np.where(some, q50, 0)[where]
        axes.plot(places, heights, mark, color=colour, markersize=6, markeredgewidth=1.8)
    axes.set_xlim(-0.8, term.dim - 0.2)
    whole_numbers(axes.xaxis)


def _key(figure: Figure, palette: Palette, title: str) -> None:
    """One legend for all panels, and the title beside it."""
    axes = figure.axes[0]
    for label, style in (
        ("least to greatest", {"color": palette.line6, "linewidth": 0.8}),
        ("1 to 99 %", {"color": palette.ended2, "linewidth": 6}),
        ("25 to 75 %", {"color": palette.ended, "linewidth": 6}),
        ("median", {"color": palette.ink, "marker": "_", "linestyle": ""}),
        ("always 0", {"color": palette.failed, "marker": "x", "linestyle": ""}),
        ("constant", {"color": palette.truncated, "marker": "D", "linestyle": ""}),
        ("has NaN or infinity", {"color": palette.failed, "marker": "^", "linestyle": ""}),
    ):
        axes.plot([], [], label=label, **style)
    legend(figure, palette, loc="outside lower left", ncols=7)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left", color=palette.ink, parse_math=False)


ACTIONS = ("actions", "action_mean", "action_sigma")
_WIDE = 30  # greatest by least sigma from which their axis is logarithmic


def actions_figure(fields: Mapping[str, FieldStatistics], palette: Palette = LIGHT) -> Figure:
    """Bands of actions beside their means', and of sigmas below.

    Args:
        fields: Statistics of ``ACTIONS``; of those that are not there nothing is drawn.
        palette: To draw in.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    figure = new_figure(10, 5, palette)
    above, below = figure.subplots(2, 1, sharex=True)
    dress(above, palette, "actions and means: 1 to 99 % (thin), 25 to 75 % (thick), median")
    dress(below, palette, "sigma")
    for name, shift, colour in (("actions", -0.17, "ended"), ("action_mean", 0.17, "line2")):
        if name in fields:
            _action_bands(above, fields[name], shift, getattr(palette, colour), palette)
    if "action_sigma" in fields:
        sigma = fields["action_sigma"]
        _action_bands(below, sigma, 0.0, palette.line3, palette)
        if 0 < sigma.moments.low.min() < sigma.moments.high.max() / _WIDE < np.inf:
            below.set_yscale("log")
        elif sigma.moments.low.min() >= 0 and np.isfinite(sigma.moments.high).all():
            below.set_ylim(0, max(float(sigma.moments.high.max()) * 1.1, 1e-9))
    below.set_xlabel("action dimension")
    whole_numbers(below.xaxis)
    legend(figure, palette, loc="outside lower left", ncols=3)
    return figure


def _action_bands(
    axes: Axes, field: FieldStatistics, shift: float, colour: str, palette: Palette
) -> None:
    q1, q25, q50, q75, q99 = field.quantiles(_AT)
    x = np.arange(len(q50)) + shift
    width = min(6.0, 160 / max(len(x), 1))
    axes.vlines(x, q1, q99, color=colour, linewidth=max(width / 4, 0.8))
    axes.vlines(x, q25, q75, color=colour, linewidth=width, label=field.name)
    axes.plot(x, q50, "_", color=palette.ink, markersize=max(width, 4), markeredgewidth=1.2)
