"""The picture of the timeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.look.canvas import dress, legend, new_figure, whole_numbers
from mosaic_collect.look.palette import LIGHT, Palette
from mosaic_collect.look.timeline import (
    ENDED,
    ENDED2,
    FAILED,
    INVALID,
    OPEN,
    TRUNCATED,
    Timeline,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: What is drawn, its colour's name, its hatch, and what the legend says.
_KINDS = (
    (ENDED, "ended", None, "trajectory"),
    (ENDED2, "ended2", None, "the next trajectory"),
    (OPEN, "open", None, "going on"),
    (TRUNCATED, "truncated", "//////", "without an end"),
    (FAILED, "failed", None, "failed"),
    (INVALID, "invalid", None, "not valid"),
)
_MOST_RUNS = 20


def timeline_figure(timeline: Timeline, palette: Palette = LIGHT) -> Figure:
    """Shares of all environments above, some environments one by one below.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    rows = max(len(timeline.envs), 1)
    height = min(1.2 + 0.22 * rows, 5.2)
    figure = new_figure(10, 1.6 + height, palette)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.1, height])
    _shares(above, timeline, palette)
    _rows(below, timeline, palette)
    for axes in (above, below):
        for step in timeline.runs[:_MOST_RUNS]:
            axes.axvline(step, color=palette.ink, linewidth=1, linestyle=":")
    if timeline.runs:
        above.plot([], [], ":", color=palette.ink, linewidth=1, label="another run begins")
    legend(figure, palette, loc="outside lower left", ncols=4)
    return figure


def _shares(axes: Axes, timeline: Timeline, palette: Palette) -> None:
    what = "all: valid; the lower part: of failed trajectories; the line: without an end"
    dress(axes, palette, f"shares of {timeline.num_envs:,} environments ({what})")
    line: dict[str, Any] = {"baseline": None, "linewidth": 1.4}
    edges = timeline.edges
    axes.stairs(timeline.valid, edges, fill=True, color=palette.ended2)
    axes.stairs(timeline.endless, edges, color=palette.truncated, **line)
    axes.stairs(timeline.failed, edges, fill=True, color=palette.failed)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])


def _rows(axes: Axes, timeline: Timeline, palette: Palette) -> None:
    shown, num_envs = len(timeline.envs), timeline.num_envs
    which = "each environment" if shown == num_envs else f"{shown} of them, evenly spaced"
    dress(axes, palette, which)
    axes.grid(visible=False)
    from matplotlib.patches import PathPatch

    for kind, colour, hatch, label in _KINDS:
        path = _rectangles(timeline.cells == kind, timeline.edges)
        if path is None:
            continue
        face = getattr(palette, colour)
        patch = PathPatch(path, facecolor=face, edgecolor="none", linewidth=0, label=label)
        if hatch is not None:
            patch.set(hatch=hatch, edgecolor=palette.paper)
        axes.add_patch(patch)
    axes.set_xlim(0, max(timeline.num_steps, 1))
    axes.set_ylim(shown, 0)
    ticks = np.arange(0, shown, max(1, -(-shown // 12)))
    axes.set_yticks(ticks + 0.5, [f"{timeline.envs[i]:,}" for i in ticks] if shown else [])
    axes.set_ylabel("environment")
    axes.set_xlabel(_step_label(timeline))
    whole_numbers(axes.xaxis)


def _rectangles(where: NDArray[np.bool_], edges: NDArray[np.int64]) -> Any:
    """One path of a rectangle for each run of cells in a row; None of none."""
    from matplotlib.path import Path

    padded = np.pad(where, ((0, 0), (1, 1))).astype(np.int8)
    row, start = np.nonzero(np.diff(padded, axis=1) == 1)
    _, stop = np.nonzero(np.diff(padded, axis=1) == -1)
    if not len(row):
        return None
    left, right = edges[start], edges[stop]
    top, bottom = row + 0.06, row + 0.94
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    vertices = np.stack([np.stack(c, axis=1) for c in corners], axis=1).reshape(-1, 2)
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    return Path(vertices, np.tile(codes, len(row)))


def _step_label(timeline: Timeline) -> str:
    width = int(timeline.edges[1] - timeline.edges[0]) if len(timeline.edges) > 1 else 1
    return "step" if width == 1 else f"step (cells of {width:,} steps show the worst of them)"
