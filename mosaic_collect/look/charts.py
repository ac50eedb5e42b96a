"""Pictures over trajectories and over time: lengths, rate and stalls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import is_whole, whole
from mosaic_collect.look.canvas import (
    LIGHT,
    Palette,
    dress,
    legend,
    new_figure,
    percent,
    whole_numbers,
)
from mosaic_collect.look.statistics import FAR, StoreStatistics, far_environments
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.trajectories import OVER, Trajectories
from mosaic_collect.store.robot import Robot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

#: The ends of trajectories in words.
END_WORDS = {
    "terminated": "terminated",
    "truncated": "truncated: time-out or the motion's end",
    "failed": "failed",
    "ended": "ended, how is not recorded",
    "interrupted": "without an end",
    "open": "going on",
}

_BINS = 48
_WIDE = 100  # greatest by least length from which the axis is logarithmic
#: Ends from the bottom of a bar to its top: the colour's name, the hatch.
_ENDS = (
    ("failed", "failed", None),
    ("interrupted", "interrupted", "//////"),
    ("open", "open", None),
    ("truncated", "ended", None),
    ("terminated", "ended", "......"),
    ("ended", "ended2", None),
)


def step_words(robot: Robot, word: str = "step") -> str:
    """The name of an axis of steps, with their duration where it is known."""
    return f"{word} of {robot.control_dt:g} s" if robot.control_dt else word


def lengths_figure(table: Trajectories, robot: Robot, palette: Palette = LIGHT) -> Figure:
    """A histogram of lengths in steps; trajectories without a valid row are left out."""
    idle = len(table) - len(table := table.where(min_valid=1))
    figure = new_figure(10, 3.2, palette)
    axes = figure.add_subplot()
    left_out = f" ({idle:,} without a valid row are left out)" if idle else ""
    dress(axes, palette, f"lengths of {len(table):,} trajectories{left_out}")
    lengths, ends = table.columns["num_steps"], table.columns["end"]
    edges, wide = _edges(lengths)
    below = np.zeros(len(edges) - 1)
    for end, colour, hatch in _ENDS:
        chosen = lengths[ends == end]
        if not len(chosen):
            continue
        counts = np.histogram(chosen, edges)[0]
        top, median = below + counts, np.median(chosen)
        label = f"{END_WORDS[end]}: {len(chosen):,}, median {median:,.0f} steps"
        bars = axes.stairs(top, edges, baseline=below, fill=True, label=label, hatch=hatch)
        bars.set(facecolor=getattr(palette, colour), edgecolor=palette.paper, linewidth=0)
        below = below + counts
    whole_numbers(axes.yaxis)
    if wide:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
    else:
        whole_numbers(axes.xaxis)
    axes.set_xlabel(step_words(robot, "steps"))
    axes.set_ylabel("trajectories")
    if len(table):
        legend(figure, palette, loc="outside lower left", ncols=3)
    return figure


def _edges(lengths: NDArray[np.int64]) -> tuple[NDArray[np.float64], bool]:
    """Bin edges half way between whole lengths, and whether they are logarithmic."""
    if not len(lengths):
        return np.array([0.5, 1.5]), False
    least, most = int(lengths.min()), int(lengths.max())
    if most / least >= _WIDE:
        found = np.geomspace(least - 0.5, most + 0.5, _BINS + 1)
        return np.unique(np.floor(found - 0.5) + 0.5), True
    width = max(1, -(-(most - least + 1) // _BINS))
    return np.arange(least - 0.5, most + 0.5 + width, width), False


PACE = "pace"  # the metadata entry of a collection
_PARTS = 4  # run, UTC seconds, steps, seconds stalled in the run


@dataclass(frozen=True, kw_only=True, eq=False)
class PaceSpans:
    """Spans between two entries of one run, all ``(spans,)``."""

    begin: Floats  # seconds since the first entry of all
    end: Floats
    steps: Floats
    stalled: Floats  # share of the span in which the writer waited for the disk
    run: NDArray[np.int64]  # number of the run, from 0
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
    told = metadata.get(PACE)
    if not isinstance(told, Mapping):
        return None
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
        max_steps=whole(most, "max_steps", 1) if is_whole(most, 1) else None,
    )


_UNITS = ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "hours"), (120, 60, "minutes"))


def pace_figure(dataset: TrajectoryDataset, palette: Palette = LIGHT) -> Figure:
    """Pairs per second above, the share of time stalled below; gaps are times without a run."""
    pace, num_envs = recorded_pace(dataset.metadata), dataset.num_envs
    assert pace is not None
    figure = new_figure(10, 3.6, palette)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    total = float(pace.end[-1]) if len(pace.end) else 1.0
    unit, name = next(((u, n) for least, u, n in _UNITS if total >= least), (1, "seconds"))
    dress(above, palette, f"pairs per second, {num_envs:,} environments")
    dress(below, palette, "share of time stalled, waiting for the disk")
    for axes, values, colour in (
        (above, pace.rates * num_envs, palette.ended),
        (below, pace.stalled, palette.failed),
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
    x = np.stack([pace.begin, pace.end], axis=1)
    y = np.stack([values, values], axis=1)
    breaks = np.flatnonzero(np.diff(pace.run)) + 1
    rows_x, rows_y = x.reshape(-1), y.reshape(-1)
    return np.insert(rows_x, breaks * 2, np.nan), np.insert(rows_y, breaks * 2, np.nan)


def environments_figure(
    dataset: TrajectoryDataset, statistics: StoreStatistics, palette: Palette = LIGHT
) -> Figure:
    """Environments against each other: valid pairs, failures, standing still, distance of means."""
    profile, columns = statistics.profile, dataset.trajectories.columns
    num_envs, env = dataset.num_envs, columns["env"]
    ended = np.bincount(env[np.isin(columns["end"], OVER)], minlength=num_envs)
    failed = np.bincount(env[columns["end"] == "failed"], minlength=num_envs)
    panels = [
        ("valid pairs", profile.valid.sum(axis=0) / np.maximum(profile.read.sum(axis=0), 1)),
        (
            "pairs that stand still",
            profile.same.sum(axis=0) / np.maximum(profile.compared.sum(axis=0), 1),
        ),
    ]
    if failed.any():
        panels.insert(1, ("failed trajectories", failed / np.maximum(ended, 1)))
    far = [
        np.nan_to_num(far_environments(statistics.fields[name], one)[0], posinf=0.0).max(axis=1)
        for name, one in profile.fields.items()
        if len(statistics.fields[name].sample) and one.env_means.shape[1]
    ]
    figure = new_figure(10, 0.9 + 1.15 * (len(panels) + bool(far)), palette)
    grid = figure.subplots(len(panels) + bool(far), 1, sharex=True, squeeze=False)[:, 0]
    edges = np.arange(num_envs + 1) - 0.5
    for axes, (title, share) in zip(grid, panels, strict=False):
        dress(axes, palette, title)
        axes.stairs(
            share, edges, fill=True, color=palette.failed if "failed" in title else palette.ended
        )
        axes.set_ylim(0, 1.02)
        axes.set_yticks([0, 0.5, 1])
        percent(axes.yaxis)
    if far:
        title = "distance of means from the median environment (1: span of the middle half)"
        dress(grid[-1], palette, title)
        furthest = np.max(far, axis=0)
        grid[-1].stairs(furthest, edges, fill=True, color=palette.ended)
        if (furthest > FAR).any():
            odd, label = np.where(furthest > FAR, furthest, 0), f"above {FAR}: far"
            grid[-1].stairs(odd, edges, fill=True, color=palette.failed, label=label)
        legend(grid[-1], palette, loc="upper right")
        grid[-1].set_ylim(0, max(1.2 * FAR, min(float(furthest.max()) * 1.1, 100.0)))
    grid[-1].set_xlabel("environment")
    grid[-1].set_xlim(-0.5, num_envs - 0.5)
    whole_numbers(grid[-1].xaxis)
    return figure
