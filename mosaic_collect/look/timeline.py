"""The picture of what each environment did, step by step: bounded in cells, whatever the size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.look.canvas import (
    LIGHT,
    Palette,
    dress,
    fill_cells,
    legend,
    new_figure,
    percent,
    whole_numbers,
)
from mosaic_collect.look.charts import step_words
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.trajectories import ENDS, End, Trajectories
from mosaic_collect.store.robot import Robot
from mosaic_collect.store.schema import VALID_MASK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: What a cell shows, the later the stronger where several meet in one.
INVALID, ENDED, ENDED2, OPEN, INTERRUPTED, FAILED = range(6)
MOST_ENVS, MOST_BINS = 64, 600
_SHOWN_AS = {"open": OPEN, "interrupted": INTERRUPTED, "failed": FAILED}

_ENDLESS: tuple[End, ...] = ("interrupted", "open")

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Timeline:
    """Environments over bins of steps."""

    num_steps: int
    num_envs: int
    edges: NDArray[np.int64]  # steps at which bins begin, and T, ``(bins + 1,)``
    envs: NDArray[np.int64]  # the environments that are shown, evenly spaced, ``(rows,)``
    cells: NDArray[np.int8]  # state of each environment over time, ``(rows, bins)``
    valid: Floats  # share of each bin's pairs that are valid, ``(bins,)``
    failed: Floats  # share of pairs that belong to trajectories that failed
    endless: Floats  # share of pairs of trajectories without an end, idle ones left out
    runs: tuple[int, ...]  # first steps of all runs but the first

    @classmethod
    def of(
        cls, dataset: TrajectoryDataset, most_envs: int = MOST_ENVS, most_bins: int = MOST_BINS
    ) -> Timeline:
        """Measure in one pass over the mask, and one over ids and ends for the trajectories."""
        steps, num_envs = dataset.num_steps, dataset.num_envs
        width = max(1, -(-steps // most_bins))
        edges = np.append(np.arange(0, steps, width), steps)
        rows = min(num_envs, most_envs)
        envs = np.unique(np.linspace(0, num_envs - 1, rows).round().astype(np.int64))
        valid, seen = _valid(dataset, envs, width, len(edges) - 1)
        pairs = np.maximum(_pairs(dataset, edges), 1)
        table = dataset.trajectories
        return cls(
            num_steps=steps,
            num_envs=num_envs,
            edges=edges,
            envs=envs,
            cells=np.where(seen, _cells(table, envs, width, seen.shape), INVALID).astype(np.int8),
            valid=valid / pairs,
            failed=_covered(table.where(end="failed"), edges) / pairs,
            endless=_covered(table.where(end=_ENDLESS, min_valid=1), edges) / pairs,
            runs=tuple(run.first_step for run in dataset.state.runs if run.first_step),
        )


def _pairs(dataset: TrajectoryDataset, edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs per bin: stores that are read as one may differ in their number of environments."""
    pairs, first = np.zeros(len(edges) - 1, np.int64), 0
    for part in dataset.parts:
        inside = np.clip(edges, first, first + part.num_steps)
        pairs += np.diff(inside) * part.num_envs
        first += part.num_steps
    return pairs


def _valid(
    dataset: TrajectoryDataset, envs: NDArray[np.int64], width: int, bins: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Valid pairs of each bin, and whether the shown environments have any there."""
    count, seen = np.zeros(bins, np.int64), np.zeros((len(envs), bins), np.bool_)
    table, state = dataset.view, dataset.state
    for block in range(state.num_blocks):
        cell, steps = table.whole_block(block), state.steps_of(block)
        mask, there = table.read_cell(VALID_MASK, cell), envs < cell.envs.stop
        places = np.arange(steps.start, steps.stop) // width
        np.add.at(count, places, mask.sum(axis=1))
        first, at = np.unique(places, return_index=True)
        some = np.logical_or.reduceat(mask[:, envs[there]], at, axis=0).T
        seen[np.ix_(there, first)] |= some
    return count, seen


def _cells(
    table: Trajectories, envs: NDArray[np.int64], width: int, shape: tuple[int, ...]
) -> NDArray[np.int8]:
    """The strongest of the trajectories that touch a cell, whose neighbours differ in shade."""
    columns, cells = table.columns, np.full(shape, ENDED, np.int8)
    row = np.searchsorted(envs, columns["env"])
    shown = envs[np.minimum(row, len(envs) - 1)] == columns["env"]
    row, end = row[shown], columns["end"][shown]
    first, last = columns["first_step"][shown] // width, columns["last_step"][shown] // width
    kind = np.select([end == name for name in ENDS], [_SHOWN_AS.get(n, ENDED) for n in ENDS], ENDED)
    kind = np.where((kind == ENDED) & (_turn(row) % 2 == 1), ENDED2, kind)
    length = last - first + 1
    # Cells of all trajectories one behind the other.
    offset = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    at = (np.repeat(row, length), np.repeat(first, length) + offset)
    np.maximum.at(cells, at, np.repeat(kind, length).astype(np.int8))
    return cells


def _turn(row: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of the same row came before, for each; ids of an environment ascend in time."""
    order = np.argsort(row, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(row[order]) != 0)) if len(row) else order
    turn = np.empty(len(row), np.int64)
    turn[order] = np.arange(len(row)) - np.repeat(starts, np.diff(np.append(starts, len(row))))
    return turn


def _covered(table: Trajectories, edges: NDArray[np.int64]) -> Floats:
    """Pairs of these trajectories in each bin."""
    first, behind = table.columns["first_step"], table.columns["last_step"] + 1
    return np.diff(_past(first, edges) - _past(behind, edges)).astype(np.float64)


def _past(steps: NDArray[np.int64], edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each edge, by how much it is past those steps that it is past, in sum."""
    ordered = np.sort(steps)
    count = np.searchsorted(ordered, edges)
    return np.asarray(count * edges - np.append(0, np.cumsum(ordered))[count])


#: What is drawn, its colour's name, its hatch, and what the legend says.
_KINDS = (
    (ENDED, "ended", None, "ended"),
    (ENDED2, "ended2", None, "ended, the next one"),
    (OPEN, "open", None, "going on"),
    (INTERRUPTED, "interrupted", "//////", "without an end"),
    (FAILED, "failed", None, "failed"),
    (INVALID, "invalid", None, "not valid"),
)
_MOST_RUNS = 20


def timeline_figure(timeline: Timeline, robot: Robot, palette: Palette = LIGHT) -> Figure:
    """Shares of all environments above, some environments one by one below."""
    rows = max(len(timeline.envs), 1)
    height = min(1.2 + 0.22 * rows, 5.2)
    figure = new_figure(10, 1.6 + height, palette)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.1, height])
    _shares(above, timeline, palette)
    _rows(below, timeline, palette)
    width, words = int(np.diff(timeline.edges[:2]).sum()), step_words(robot)
    below.set_xlabel(words if width <= 1 else f"{words}; a cell is the worst of {width:,} steps")
    for axes in (above, below):
        for step in timeline.runs[:_MOST_RUNS]:
            axes.axvline(step, color=palette.ink, linewidth=1, linestyle=":")
    if timeline.runs:
        below.plot([], [], ":", color=palette.ink, linewidth=1, label="another run begins")
    legend(figure, palette, below, loc="outside lower left", ncols=6)
    return figure


def _shares(axes: Axes, timeline: Timeline, palette: Palette) -> None:
    dress(axes, palette, f"share of {timeline.num_envs:,} environments")
    line: dict[str, Any] = {"baseline": None, "linewidth": 1.4}
    edges = timeline.edges
    axes.stairs(timeline.valid, edges, fill=True, color=palette.ended2, label="valid")
    endless = {"label": "without an end", "color": palette.interrupted, **line}
    axes.stairs(timeline.endless, edges, **endless)
    axes.stairs(timeline.failed, edges, fill=True, color=palette.failed, label="failed")
    legend(axes, palette, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.5, 1])
    percent(axes.yaxis)


def _rows(axes: Axes, timeline: Timeline, palette: Palette) -> None:
    shown, num_envs = len(timeline.envs), timeline.num_envs
    which = "each environment" if shown == num_envs else f"{shown} of them, evenly spaced"
    dress(axes, palette, which)
    axes.grid(visible=False)
    for kind, colour, hatch, label in _KINDS:
        style = {} if hatch is None else {"hatch": hatch, "edgecolor": palette.paper}
        where = timeline.cells == kind
        fill_cells(axes, where, timeline.edges, getattr(palette, colour), label, **style)
    axes.set_xlim(0, max(timeline.num_steps, 1))
    axes.set_ylim(shown, 0)
    ticks = np.arange(0, num_envs, _round_step(num_envs))
    axes.set_yticks(np.searchsorted(timeline.envs, ticks) + 0.5, [f"{env:,}" for env in ticks])
    axes.set_ylabel("environment")
    whole_numbers(axes.xaxis)


def _round_step(count: int) -> int:
    """A distance of ticks: 1, 2 or 5 times a power of ten, so that there are at most 12."""
    steps = (factor * 10**power for power in range(9) for factor in (1, 2, 5))
    return int(next(step for step in steps if count <= 12 * step))
