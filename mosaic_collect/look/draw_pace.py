"""The picture of a collection's rate and of its stalls over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mosaic_collect.look.canvas import dress, new_figure
from mosaic_collect.look.pace import Floats, Told
from mosaic_collect.look.palette import LIGHT, Palette

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_UNITS = ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "hours"), (120, 60, "minutes"))


def pace_figure(pace: Told, num_envs: int, palette: Palette = LIGHT) -> Figure:
    """Pairs a second above, the share of time stalled below; gaps are times without a run.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    figure = new_figure(10, 3.6, palette)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    total = float(pace.end[-1]) if len(pace.end) else 1.0
    unit, name = next(((u, n) for least, u, n in _UNITS if total >= least), (1, "seconds"))
    dress(above, palette, f"pairs a second ({num_envs:,} environments)")
    dress(below, palette, "share of time stalled, waiting for the disk")
    for axes, values, colour in (
        (above, pace.rates * num_envs, palette.ended),
        (below, pace.stalled, palette.failed),
    ):
        x, y = _steps(pace, values)
        axes.plot(x / unit, y, color=colour, linewidth=1.3)
        axes.fill_between(x / unit, y, color=colour, alpha=0.25, linewidth=0)
        axes.set_ylim(bottom=0)
    above.yaxis.set_major_formatter("{x:,.0f}")
    most = max(0.1, float(pace.stalled.max(initial=0)) * 1.15)
    below.set_ylim(0, min(most, 1.0))
    below.yaxis.set_major_formatter(lambda share, _at: f"{share:.0%}")
    below.set_xlabel(f"{name} since the first entry")
    return figure


def _steps(pace: Told, values: Floats) -> tuple[Floats, Floats]:
    """A staircase, broken where one run ends and the next begins."""
    x = np.stack([pace.begin, pace.end], axis=1)
    y = np.stack([values, values], axis=1)
    breaks = np.flatnonzero(np.diff(pace.run)) + 1
    rows_x, rows_y = x.reshape(-1), y.reshape(-1)
    return np.insert(rows_x, breaks * 2, np.nan), np.insert(rows_y, breaks * 2, np.nan)
