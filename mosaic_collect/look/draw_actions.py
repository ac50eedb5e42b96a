"""The picture of actions, their means and their sigmas, an action dimension a place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mosaic_collect.look.canvas import dress, legend, new_figure, whole_numbers
from mosaic_collect.look.palette import LIGHT, Palette
from mosaic_collect.stats.measures import FieldStatistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACTIONS = ("actions", "action_mean", "action_sigma")
_WIDE = 30  # greatest by least sigma from which their axis is logarithmic
_AT = (0.01, 0.25, 0.5, 0.75, 0.99)


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
            _bands(above, fields[name], shift, getattr(palette, colour), palette)
    if "action_sigma" in fields:
        sigma = fields["action_sigma"]
        _bands(below, sigma, 0.0, palette.line3, palette)
        if 0 < sigma.moments.low.min() < sigma.moments.high.max() / _WIDE < np.inf:
            below.set_yscale("log")
        elif sigma.moments.low.min() >= 0 and np.isfinite(sigma.moments.high).all():
            below.set_ylim(0, max(float(sigma.moments.high.max()) * 1.1, 1e-9))
    below.set_xlabel("action dimension")
    whole_numbers(below.xaxis)
    legend(figure, palette, loc="outside lower left", ncols=3)
    return figure


def _bands(axes: Axes, field: FieldStatistics, shift: float, colour: str, palette: Palette) -> None:
    q1, q25, q50, q75, q99 = field.quantiles(_AT)
    x = np.arange(len(q50)) + shift
    width = min(6.0, 160 / max(len(x), 1))
    axes.vlines(x, q1, q99, color=colour, linewidth=max(width / 4, 0.8))
    axes.vlines(x, q25, q75, color=colour, linewidth=width, label=field.name)
    axes.plot(x, q50, "_", color=palette.ink, markersize=max(width, 4), markeredgewidth=1.2)
