"""Pictures over trajectories and time: each environment's steps, lengths, rate and stalls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import is_whole
from mosaic_collect.look.canvas import (
    Palette,
    dress,
    fill_cells,
    legend,
    new_figure,
    new_grid,
    percent,
    stack_histograms,
    whole_numbers,
)
from mosaic_collect.look.statistics import FAR
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.moments import Floats, Ints
from mosaic_collect.reading.trajectories import ENDS, OVER, End, Trajectories
from mosaic_collect.store.parsing import object_in
from mosaic_collect.store.schema import VALID_MASK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mosaic_collect.look.pictures import Pictures

#: Ends of trajectories from the bottom of a bar to its top: in words, the color's name, the hatch.
_ENDS = {
    "failed": ("failed", "failed", None),
    "interrupted": ("without an end", "interrupted", "//////"),
    "open": ("going on", "open", None),
    "truncated": ("truncated: time-out or the motion's end", "ended", None),
    "terminated": ("terminated", "ended", "......"),
    "ended": ("ended, how is not recorded", "ended2", None),
}
END_WORDS = {end: words for end, (words, _, _) in _ENDS.items()}

_BINS = 48
_WIDE = 100  # greatest by least length from which the axis is logarithmic


def lengths_figure(pictures: Pictures) -> Figure:
    """A histogram of lengths in steps; trajectories without a valid row are left out."""
    every, palette = pictures.dataset.trajectories, pictures.palette
    table = every.where(min_valid=1)
    idle = len(every) - len(table)
    figure = new_figure(10, 3.2)
    axes = figure.add_subplot()
    left_out = f" ({idle:,} without a valid row are left out)" if idle else ""
    dress(axes, f"lengths of {len(table):,} trajectories{left_out}")
    edges, wide = _edges(table.columns["num_steps"])
    stack_histograms(axes, edges, _by_end(table, palette))
    whole_numbers(axes.yaxis)
    if wide:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
    else:
        whole_numbers(axes.xaxis)
    axes.set_xlabel(pictures.step_words("steps"))
    axes.set_ylabel("trajectories")
    if len(table):
        legend(figure, loc="outside lower left", ncols=3)
    return figure


def _by_end(table: Trajectories, palette: Palette) -> Iterator[tuple[Ints, str, str, str | None]]:
    """Lengths of trajectories by their ends, with label, color and hatch."""
    for end, (words, colour, hatch) in _ENDS.items():
        lengths = table.columns["num_steps"][table.columns["end"] == end]
        if len(lengths):
            median = f"median {np.median(lengths):,.0f} steps"
            label = f"{words}: {len(lengths):,}, {median}"
            yield lengths, label, getattr(palette, colour), hatch


def _edges(lengths: Ints) -> tuple[Floats, bool]:
    """Bin edges half way between whole lengths, and whether they are logarithmic."""
    if not len(lengths):
        return np.array([0.5, 1.5]), False
    least, most = int(lengths.min()), int(lengths.max())
    if most / least >= _WIDE:
        found = np.geomspace(least - 0.5, most + 0.5, _BINS + 1)
        return np.unique(np.floor(found - 0.5) + 0.5), True
    return whole_edges(least, most, _BINS), False


def whole_edges(least: int, most: int, bins: int) -> Floats:
    """Edges of at most so many bins of equal width, half way between whole numbers."""
    width = max(1, -(-(most - least + 1) // bins))
    return np.arange(least - 0.5, most + 0.5 + width, width)


PACE = "pace"  # the metadata entry of a collection
_PARTS = 4  # run, UTC seconds, steps, seconds stalled in the run


@dataclass(frozen=True, kw_only=True, eq=False)
class PaceSpans:
    """Spans between two entries of one run, all ``(spans,)``."""

    begin: Floats  # seconds since the first entry of all
    end: Floats
    steps: Floats
    stalled: Floats  # share of the span in which the writer waited for the disk
    run: Ints  # number of the run, from 0
    max_steps: int | None  # steps that the store is to have; None: not recorded, or without end

    @property
    def rates(self) -> Floats:
        """Steps a second."""
        return self.steps / np.maximum(self.end - self.begin, 1e-9)

    @property
    def stalled_share(self) -> float:
        """Of the whole time that is told of."""
        seconds = self.end - self.begin
        return float((self.stalled * seconds).sum() / max(seconds.sum(), 1e-9))


def recorded_pace(metadata: Mapping[str, Any]) -> PaceSpans | None:
    """What a store tells of its pace; None if nothing, or nothing that makes sense."""
    told = object_in(metadata, PACE)
    try:
        rows = np.array(told.get("entries"), np.float64)
    except (TypeError, ValueError):
        return None
    if rows.ndim != 2 or rows.shape[1] != _PARTS or len(rows) < 2:
        return None
    most = told.get("max_steps")
    before, after = rows[:-1], rows[1:]
    one = (before[:, 0] == after[:, 0]) & (after[:, 1] > before[:, 1])
    before, after = before[one], after[one]
    seconds = after[:, 1] - before[:, 1]
    return PaceSpans(
        begin=before[:, 1] - rows[0, 1],
        end=after[:, 1] - rows[0, 1],
        steps=after[:, 2] - before[:, 2],
        stalled=np.clip((after[:, 3] - before[:, 3]) / seconds, 0, 1),
        run=after[:, 0].astype(np.int64),
        max_steps=most if is_whole(most, 1) else None,
    )


_UNITS = ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "hours"), (120, 60, "minutes"))


def pace_figure(pictures: Pictures) -> Figure:
    """Pairs per second above, the share of time stalled below; gaps are times without a run."""
    pace, num_envs = recorded_pace(pictures.dataset.metadata), pictures.dataset.num_envs
    assert pace is not None
    figure = new_figure(10, 3.6)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    total = float(pace.end[-1]) if len(pace.end) else 1.0
    unit, name = next(((u, n) for least, u, n in _UNITS if total >= least), (1, "seconds"))
    dress(above, f"pairs per second, {num_envs:,} environments")
    dress(below, "share of time stalled, waiting for the disk")
    for axes, values, colour in (
        (above, pace.rates * num_envs, pictures.palette.ended),
        (below, pace.stalled, pictures.palette.failed),
    ):
        x, y = _staircase(pace, values)
        axes.plot(x / unit, y, color=colour, linewidth=1.3)
        axes.fill_between(x / unit, y, color=colour, alpha=0.25, linewidth=0)
        axes.set_ylim(bottom=0)
    above.yaxis.set_major_formatter("{x:,.0f}")
    most = max(0.1, float(pace.stalled.max(initial=0)) * 1.15)
    below.set_ylim(0, min(most, 1.0))
    percent(below.yaxis)
    below.set_xlabel(f"{name} since the recording began")
    return figure


def _staircase(pace: PaceSpans, values: Floats) -> tuple[Floats, Floats]:
    """A staircase, broken where one run ends and the next begins."""
    breaks = 2 * np.flatnonzero(np.diff(pace.run)) + 2
    x = np.stack([pace.begin, pace.end], axis=1).reshape(-1)
    return np.insert(x, breaks, np.nan), np.insert(np.repeat(values, 2), breaks, np.nan)


def environments_figure(pictures: Pictures) -> Figure:
    """Environments against each other: valid pairs, failures, standing still, distance of means."""
    dataset, statistics, palette = pictures.dataset, pictures.statistics, pictures.palette
    columns, num_envs = dataset.trajectories.columns, dataset.num_envs
    _, ended, failed = count_ends(columns["env"], columns["end"], num_envs)
    panels = {
        "valid pairs": (statistics.valid.sum(axis=0), statistics.read.sum(axis=0)),
        **({"failed trajectories": (failed, ended)} if failed.any() else {}),
        "pairs that stand still": (statistics.same.sum(axis=0), statistics.compared.sum(axis=0)),
    }
    far = [
        np.nan_to_num(field.far_environments()[0], posinf=0.0).max(axis=1)
        for field in statistics.fields.values()
        if field.stride and len(field.sample) and field.env_means.shape[1]
    ]
    figure, grid = new_grid(len(panels) + bool(far), 1, 0.9, 1.15, sharex=True)
    edges = np.arange(num_envs + 1) - 0.5
    for axes, (title, (some, every)) in zip(grid, panels.items(), strict=False):
        dress(axes, title)
        color = palette.failed if "failed" in title else palette.ended
        axes.stairs(some / np.maximum(every, 1), edges, fill=True, color=color)
        axes.set_ylim(0, 1.02)
        percent(axes.yaxis, 0, 0.5, 1)
    last = grid[-1]
    if far:
        dress(last, "distance of means from the median environment (1: span of the middle half)")
        furthest = np.max(far, axis=0)
        last.stairs(furthest, edges, fill=True, color=palette.ended)
        if (furthest > FAR).any():
            odd, label = np.where(furthest > FAR, furthest, 0), f"above {FAR}: far"
            last.stairs(odd, edges, fill=True, color=palette.failed, label=label)
        legend(last, loc="upper right")
        last.set_ylim(0, max(1.2 * FAR, min(float(furthest.max()) * 1.1, 100.0)))
    last.set_xlabel("environment")
    last.set_xlim(-0.5, num_envs - 0.5)
    whole_numbers(last.xaxis)
    return figure


def count_ends(groups: Ints, ends: NDArray[Any], size: int) -> tuple[Ints, Ints, Ints]:
    """Trajectories, those that ended and those that failed, in each of ``size`` groups."""
    every, ended, failed = (
        np.bincount(groups[which], minlength=size)
        for which in (slice(None), np.isin(ends, OVER), ends == "failed")
    )
    return every, ended, failed


#: What a cell shows, the later the stronger where several meet in one.
INVALID, ENDED, ENDED2, OPEN, INTERRUPTED, FAILED = range(6)
MOST_ENVS, MOST_BINS = 64, 600
_SHOWN_AS = {"open": OPEN, "interrupted": INTERRUPTED, "failed": FAILED}

_ENDLESS: tuple[End, ...] = ("interrupted", "open")


@dataclass(frozen=True, kw_only=True, eq=False)
class Timeline:
    """Environments over bins of steps."""

    edges: Ints  # steps at which bins begin, and T, ``(bins + 1,)``
    envs: Ints  # the environments that are shown, evenly spaced, ``(rows,)``
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
        steps, envs = dataset.num_steps, evenly_spaced(dataset.num_envs, most_envs)
        width = max(1, -(-steps // most_bins))
        edges = np.append(np.arange(0, steps, width), steps)
        valid, pairs, seen = _valid(dataset, envs, width, len(edges) - 1)
        pairs = np.maximum(pairs, 1)
        table = dataset.trajectories
        return cls(
            edges=edges,
            envs=envs,
            cells=np.where(seen, _cells(table, envs, width, seen.shape), INVALID).astype(np.int8),
            valid=valid / pairs,
            failed=_covered(table.where(end="failed"), edges) / pairs,
            endless=_covered(table.where(end=_ENDLESS, min_valid=1), edges) / pairs,
            runs=tuple(run.first_step for run in dataset.state.runs if run.first_step),
        )


def evenly_spaced(count: int, most: int) -> Ints:
    """At most so many of the numbers below ``count``, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def _valid(
    dataset: TrajectoryDataset, envs: Ints, width: int, bins: int
) -> tuple[Ints, Ints, NDArray[np.bool_]]:
    """Valid pairs and all pairs per bin, and whether the shown environments have valid ones."""
    count, pairs, seen = *np.zeros((2, bins), np.int64), np.zeros((len(envs), bins), np.bool_)
    table, state = dataset.view, dataset.state
    for block in range(state.num_blocks):
        cell, steps = table.whole_block(block), state.steps_of(block)
        mask, there = table.read_cell(VALID_MASK, cell), envs < cell.envs.stop
        places = np.arange(steps.start, steps.stop) // width
        np.add.at(count, places, mask.sum(axis=1))
        np.add.at(pairs, places, mask.shape[1])
        first, at = np.unique(places, return_index=True)
        some = np.logical_or.reduceat(mask[:, envs[there]], at, axis=0).T
        seen[np.ix_(there, first)] |= some
    return count, pairs, seen


def _cells(table: Trajectories, envs: Ints, width: int, shape: tuple[int, ...]) -> NDArray[np.int8]:
    """The strongest of the trajectories that touch a cell, whose neighbours differ in shade."""
    columns, cells = table.columns, np.full(shape, ENDED, np.int8)
    row = np.searchsorted(envs, columns["env"])
    shown = envs[np.minimum(row, len(envs) - 1)] == columns["env"]
    row, end = row[shown], columns["end"][shown]
    first, last = columns["first_step"][shown] // width, columns["last_step"][shown] // width
    kind = np.select([end == name for name in ENDS], [_SHOWN_AS.get(n, ENDED) for n in ENDS], ENDED)
    kind = np.where((kind == ENDED) & (count_before(row) % 2 == 1), ENDED2, kind)
    length = last - first + 1
    # Cells of all trajectories one behind the other.
    offset = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    at = (np.repeat(row, length), np.repeat(first, length) + offset)
    np.maximum.at(cells, at, np.repeat(kind, length).astype(np.int8))
    return cells


def count_before(numbers: Ints) -> Ints:
    """How many of the same number come before each."""
    order, found = np.argsort(numbers, kind="stable"), np.empty(len(numbers), np.int64)
    _, starts, counts = np.unique(numbers[order], return_index=True, return_counts=True)
    found[order] = np.arange(len(numbers)) - np.repeat(starts, counts)
    return found


def _covered(table: Trajectories, edges: Ints) -> Ints:
    """Pairs of these trajectories in each bin."""
    first, behind = table.columns["first_step"], table.columns["last_step"] + 1
    return np.add.reduceat(coverage(first, behind, int(edges[-1])), edges[:-1])


def coverage(first: Ints, behind: Ints, size: int) -> Ints:
    """How many spans, from ``first`` until before ``behind``, contain each of ``size`` places."""
    starts, ends = (np.bincount(places, minlength=size + 1) for places in (first, behind))
    return np.cumsum(starts - ends)[:size]


#: What a cell shows in words, its color's name and its hatch, as ends of their own have them.
_KINDS = {
    ENDED: ("ended", "ended", None),
    ENDED2: ("ended, the next one", "ended2", None),
    **{kind: _ENDS[end] for end, kind in _SHOWN_AS.items()},
    INVALID: ("not valid", "invalid", None),
}
_MOST_RUNS = 20


def timeline_figure(pictures: Pictures) -> Figure:
    """Shares of all environments above, some environments one by one below."""
    timeline, palette = Timeline.of(pictures.dataset), pictures.palette
    height = min(1.2 + 0.22 * max(len(timeline.envs), 1), 5.2)
    figure = new_figure(10, 1.6 + height)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.1, height])
    _shares(above, timeline, pictures)
    _rows(below, timeline, pictures)
    width, words = int(np.diff(timeline.edges[:2]).sum()), pictures.step_words()
    below.set_xlabel(words if width <= 1 else f"{words}; a cell is the worst of {width:,} steps")
    for axes in (above, below):
        for step in timeline.runs[:_MOST_RUNS]:
            axes.axvline(step, color=palette.ink, linewidth=1, linestyle=":")
    if timeline.runs:
        below.plot([], [], ":", color=palette.ink, linewidth=1, label="another run begins")
    legend(figure, below, loc="outside lower left", ncols=6)
    return figure


def _shares(axes: Axes, timeline: Timeline, pictures: Pictures) -> None:
    dress(axes, f"share of {pictures.dataset.num_envs:,} environments")
    palette, edges = pictures.palette, timeline.edges
    line: dict[str, Any] = {"baseline": None, "linewidth": 1.4, "color": palette.interrupted}
    axes.stairs(timeline.valid, edges, fill=True, color=palette.ended2, label="valid")
    axes.stairs(timeline.endless, edges, label="without an end", **line)
    axes.stairs(timeline.failed, edges, fill=True, color=palette.failed, label="failed")
    legend(axes, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.set_ylim(0, 1)
    percent(axes.yaxis, 0, 0.5, 1)


def _rows(axes: Axes, timeline: Timeline, pictures: Pictures) -> None:
    shown, num_envs, palette = len(timeline.envs), pictures.dataset.num_envs, pictures.palette
    dress(axes, "each environment" if shown == num_envs else f"{shown} of them, evenly spaced")
    axes.grid(visible=False)
    for kind, (label, colour, hatch) in _KINDS.items():
        style = {} if hatch is None else {"hatch": hatch, "edgecolor": palette.paper}
        where = timeline.cells == kind
        fill_cells(axes, where, timeline.edges, getattr(palette, colour), label, **style)
    axes.set_xlim(0, max(timeline.edges[-1], 1))
    axes.set_ylim(shown, 0)
    ticks = np.arange(0, num_envs, _round_step(num_envs))
    axes.set_yticks(np.searchsorted(timeline.envs, ticks) + 0.5, [f"{env:,}" for env in ticks])
    axes.set_ylabel("environment")
    whole_numbers(axes.xaxis)


def _round_step(count: int) -> int:
    """A distance of ticks: 1, 2 or 5 times a power of ten, so that there are at most 12."""
    steps = (factor * 10**power for power in range(9) for factor in (1, 2, 5))
    return int(next(step for step in steps if count <= 12 * step))
