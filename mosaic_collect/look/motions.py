"""Motions of a store: how often each was recorded, how often it fails, and at which frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.look.canvas import LIGHT, Palette, dress, legend, new_figure, whole_numbers
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.subset import motion_names
from mosaic_collect.reading.trajectories import OVER
from mosaic_collect.text import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOTION_HEAD = (
    *("motion", "trajectories", "ended", "failed", "failed of ended", "median steps"),
    "valid pairs",
)
FRAME = "motion_frame"
_MOST_BARS, _MOST_APART, _BINS = 16, 4, 60

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class MotionCounts:
    """Numbers of trajectories of each motion.

    Attributes:
        ids: Ids of motions, ascending: those with trajectories, and those that metadata name.
        total: Trajectories per motion.
        ended: Trajectories that ended.
        failed: Trajectories that failed.
    """

    ids: Ints
    total: Ints
    ended: Ints
    failed: Ints

    @classmethod
    def of(cls, dataset: TrajectoryDataset) -> MotionCounts | None:
        """Count; None if the store does not record motions."""
        columns, names = dataset.trajectories.columns, motion_names(dataset.metadata)
        if "motion" not in columns:
            return None
        ids = np.union1d(columns["motion"], np.arange(len(names)))
        places = np.searchsorted(ids, columns["motion"])
        over = np.isin(columns["end"], OVER)
        every = (np.ones(len(places), np.bool_), over, columns["end"] == "failed")
        return cls(ids, *(np.bincount(places[which], minlength=len(ids)) for which in every))

    @property
    def rate(self) -> NDArray[np.float64]:
        """Share of ended trajectories that failed."""
        return self.failed / np.maximum(self.ended, 1)

    @property
    def worst_first(self) -> list[int]:
        """Places of the motions, those with the greatest share of failures first."""
        return list(map(int, np.lexsort((self.ids, -self.rate))))


def motion_name(dataset: TrajectoryDataset, motion: int) -> str:
    """Number and name of a motion, such as ``13 walk.npz``."""
    names = motion_names(dataset.metadata)
    return f"{motion} {shown(names[motion]) if 0 <= motion < len(names) else ''}".strip()


def motion_rows(dataset: TrajectoryDataset) -> list[list[str]]:
    """Rows under ``MOTION_HEAD``, those with the greatest share of failures first."""
    counts, columns = MotionCounts.of(dataset), dataset.trajectories.columns
    rows = []
    for at in counts.worst_first if counts is not None else []:
        assert counts is not None
        motion = int(counts.ids[at])
        where = columns["motion"] == motion
        steps = f"{np.median(columns['num_steps'][where]):,.0f}" if where.any() else "-"
        rate = f"{counts.rate[at]:.0%}" if counts.ended[at] else "-"
        numbers = [f"{n[at]:,}" for n in (counts.total, counts.ended, counts.failed)]
        valid = f"{columns['num_valid'][where].sum():,}"
        rows.append([motion_name(dataset, motion), *numbers, rate, steps, valid])
    return rows


def failure_frames(dataset: TrajectoryDataset) -> Ints:
    """Frame of its motion at the last row of each trajectory that failed, in the table's order.

    Without the field ``motion_frame`` it is the trajectory's length.

    Raises:
        CorruptStoreError: A damaged chunk.
    """
    columns, state = dataset.trajectories.columns, dataset.state
    failed = np.flatnonzero(columns["end"] == "failed")
    frames = columns["num_steps"][failed].astype(np.int64)
    if FRAME not in dataset:
        return frames
    last, envs, table = columns["last_step"][failed], columns["env"][failed], dataset.view
    blocks = np.array([state.block_of(int(step)) for step in last], np.int64)
    for block in np.unique(blocks).tolist():
        here = blocks == block
        rows = table.read_cell(FRAME, table.whole_block(block))
        frames[here] = rows[last[here] - state.steps_of(block).start, envs[here]]
    return frames


def failures_figure(dataset: TrajectoryDataset, palette: Palette = LIGHT) -> Figure:
    """Share of failed trajectories per motion, and the frames of the motion where they fail.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        CorruptStoreError: A damaged chunk.
    """
    counts = MotionCounts.of(dataset)
    assert counts is not None
    shown_at = counts.worst_first[:_MOST_BARS]
    figure = new_figure(10, max(3.2, 1.2 + 0.24 * len(shown_at)), palette)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.2])
    _rates(left, dataset, counts, shown_at, palette)
    _frames(right, dataset, counts, palette)
    legend(figure, palette, loc="outside lower left", ncols=3)
    return figure


def _rates(
    axes: Axes, dataset: TrajectoryDataset, counts: MotionCounts, at: list[int], palette: Palette
) -> None:
    more = f": the worst {len(at)} of {len(counts.ids):,}" if len(at) < len(counts.ids) else ""
    dress(axes, palette, f"failed of the trajectories that ended{more}")
    axes.grid(visible=False)
    places, rate = np.arange(len(at)), counts.rate[at]
    axes.barh(places, rate, color=palette.failed, height=0.7)
    names = [motion_name(dataset, int(counts.ids[i])).removesuffix(".npz") for i in at]
    axes.set_yticks(places, [n if len(n) < 28 else f"{n[:25]}..." for n in names])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    for place, i in zip(places, at, strict=True):
        words = f"{counts.rate[i]:.0%} of {counts.ended[i]:,}"
        axes.text(
            float(rate[place]) + 0.02,
            float(place),
            words,
            va="center",
            fontsize=8,
            color=palette.ink,
        )
    axes.set_xlim(0, 1.3)
    axes.set_ylim(len(at) - 0.5, -0.5)
    axes.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])


def _frames(axes: Axes, dataset: TrajectoryDataset, counts: MotionCounts, palette: Palette) -> None:
    """A histogram of the frames of all failures, the motions with most of them apart."""
    where = "frame of the motion" if FRAME in dataset else "steps of the trajectory"
    dress(axes, palette, f"failures by {where}")
    columns = dataset.trajectories.columns
    motions = columns["motion"][columns["end"] == "failed"]
    frames = failure_frames(dataset)
    apart = counts.ids[np.argsort(-counts.failed, kind="stable")[:_MOST_APART]]
    width = max(1, -(-int(frames.max(initial=0) + 1) // _BINS))
    edges = np.arange(0, int(frames.max(initial=0)) + width + 1, width) - 0.5
    below = np.zeros(len(edges) - 1)
    groups = [(motion_name(dataset, int(m)), motions == m) for m in apart]
    groups.append(("other motions", ~np.isin(motions, apart)))
    for (name, chosen), colour in zip(groups, palette.lines, strict=False):
        if chosen.any():
            top = below + np.histogram(frames[chosen], edges)[0]
            bars = axes.stairs(top, edges, baseline=below, fill=True, label=name)
            bars.set(facecolor=colour, edgecolor=palette.paper, linewidth=0)
            below = top
    axes.set_xlabel(where)
    axes.set_ylabel("failed trajectories")
    whole_numbers(axes.xaxis)
    whole_numbers(axes.yaxis)
