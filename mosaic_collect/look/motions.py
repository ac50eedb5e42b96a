"""Motions of a store: how often each was recorded, how often it fails, and at which frame."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.look.canvas import (
    ABOVE,
    dress,
    fill_cells,
    legend,
    name_ticks,
    new_grid,
    percent,
    stack_histograms,
    whole_numbers,
)
from mosaic_collect.look.charts import (
    count_before,
    count_ends,
    coverage,
    evenly_spaced,
    whole_edges,
)
from mosaic_collect.look.statistics import FieldStatistics
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.moments import Floats, Ints
from mosaic_collect.reading.numbering import MOTION_ID, motion_names
from mosaic_collect.text import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mosaic_collect.look.pictures import Pictures

MOTION_HEAD = (
    *("motion", "trajectories", "ended", "failed", "failed of ended", "median steps"),
    "valid pairs",
)
FRAME = "motion_frame"
_MOST_BARS, _MOST_APART, _BINS = 16, 4, 60
_MOST_ROWS, _CELLS, _MOST_FRAMES = 24, 200, 10_000_000


@dataclass(frozen=True, eq=False)
class MotionCounts:
    """Numbers of trajectories of each motion; of no motion if a store does not record them."""

    ids: Ints  # ascending: of motions with trajectories, and of those that metadata name
    total: Ints
    ended: Ints
    failed: Ints

    @classmethod
    def of(cls, dataset: TrajectoryDataset) -> MotionCounts:
        """Count."""
        columns, names = dataset.trajectories.columns, motion_names(dataset.metadata)
        if "motion" not in columns:
            return cls(*np.zeros((4, 0), np.int64))
        ids = np.union1d(columns["motion"], np.arange(len(names)))
        places = np.searchsorted(ids, columns["motion"])
        return cls(ids, *count_ends(places, columns["end"], len(ids)))

    @property
    def rate(self) -> Floats:
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
    counts, columns, rows = MotionCounts.of(dataset), dataset.trajectories.columns, []
    for at in counts.worst_first:
        motion = int(counts.ids[at])
        where = columns["motion"] == motion
        numbers = [f"{n[at]:,}" for n in (counts.total, counts.ended, counts.failed)]
        rate = f"{counts.rate[at]:.0%}" if counts.ended[at] else "-"
        steps = f"{np.median(columns['num_steps'][where]):,.0f}" if where.any() else "-"
        valid = f"{columns['num_valid'][where].sum():,}"
        rows.append([motion_name(dataset, motion), *numbers, rate, steps, valid])
    return rows


def worst_trajectories(dataset: TrajectoryDataset, count: int) -> list[int]:
    """Ids of failed trajectories, one motion after the other, those that fail most often first.

    Within a motion the shortest comes first, of those that are at least ten rows long.
    """
    columns, counts = dataset.trajectories.columns, MotionCounts.of(dataset)
    found = np.flatnonzero((columns["end"] == "failed") & (columns["num_steps"] >= _LEAST_ROWS))
    found = found[np.argsort(columns["num_steps"][found], kind="stable")]
    turn, rank = np.zeros(len(found), np.int64), np.zeros(len(found))
    if len(counts.ids):
        motions = columns["motion"][found]
        rank = -counts.rate[np.searchsorted(counts.ids, motions)]
        turn = count_before(motions)
    return list(map(int, columns["id"][found[np.lexsort((rank, turn))][:count]]))


def failure_frames(dataset: TrajectoryDataset) -> Ints:
    """Frame of its motion at the last row of each trajectory that failed, in the table's order.

    Without the field ``motion_frame`` it is the trajectory's length.
    """
    columns = dataset.trajectories.columns
    failed = columns["end"] == "failed"
    if FRAME not in dataset:
        return np.asarray(columns["num_steps"][failed], np.int64)
    return _frames_at(dataset, columns["last_step"][failed], columns["env"][failed])


def _frames_at(dataset: TrajectoryDataset, steps: Ints, envs: Ints) -> Ints:
    """Frames of motions at some pairs; a block is read once."""
    table, state, frames = dataset.view, dataset.state, np.zeros(len(steps), np.int64)
    blocks = np.array([state.block_of(int(step)) for step in steps], np.int64)
    for block in np.unique(blocks).tolist():
        here = blocks == block
        rows = table.read_cell(FRAME, table.whole_block(block))
        frames[here] = rows[steps[here] - state.steps_of(block).start, envs[here]]
    return frames


def frame_counts(dataset: TrajectoryDataset, motions: Sequence[int]) -> dict[int, Ints]:
    """How many trajectories contain each frame of some motions."""
    table = dataset.where(min_valid=1).columns
    first = np.maximum(_frames_at(dataset, table["first_step"], table["env"]), 0)
    behind, found = first + table["num_steps"], {}
    for motion in motions:
        of = table["motion"] == motion
        length = max(int(behind[of].max(initial=0)), _num_frames(dataset, motion))
        found[motion] = coverage(first[of], behind[of], length)
    return found


def _num_frames(dataset: TrajectoryDataset, motion: int) -> int:
    """Number of frames of a motion's file, where the metadata contain it."""
    entries = dataset.metadata.get("motions")
    entry = entries[motion] if isinstance(entries, list) and 0 <= motion < len(entries) else None
    frames = entry.get("frames") if isinstance(entry, dict) else None
    return frames if isinstance(frames, int) and 0 < frames < _MOST_FRAMES else 0


#: Terms or fields of the reference's joints, and of the robot's: the first that there are.
_REFERENCES = ("command", "motion_command", "ref_joint_pos", "joint_pos_ref", "reference", "motion")
_ROBOTS = ("joint_pos", "joint_pos_rel", "dof_pos")
_LEAST_ROWS = 10


@dataclass(frozen=True, eq=False)
class TrackingErrors:
    """Distances of the robot's joints from the reference's, per motion."""

    ids: Ints  # ascending: of motions of which enough pairs were drawn
    errors: Floats  # median over the pairs of the root mean square over the joints
    robot: str  # name of the term or field
    reference: str


def reference_and_robot(named: Mapping[str, NDArray[Any]]) -> tuple[str, str]:
    """Names of the reference's and the robot's joints, both empty if there are no two that fit."""
    pairs = ((r, j) for r in _REFERENCES for j in _ROBOTS if r in named and j in named)
    for reference, joints in pairs:
        width = named[joints].shape[-1]
        if named[reference].ndim > 1 and named[reference].shape[-1] in (width, 2 * width):
            return reference, joints
    return "", ""


def tracking_errors(fields: Mapping[str, FieldStatistics]) -> TrackingErrors | None:
    """Tracking errors in the sample; None without motions, a reference and a robot's joints.

    A joint's median distance is no error: joints may be measured from their default positions.
    """
    named = {name: field.sample for name, field in fields.items()}
    for field in reversed(list(fields.values())):
        named |= {term.name: field.sample[:, term.newest] for term in field.terms}
    reference, robot = reference_and_robot(named)
    if not (robot and MOTION_ID in fields and len(named[robot])):
        return None
    joints, motion = named[robot].astype(np.float64), fields[MOTION_ID].sample[:, 0]
    apart = joints - named[reference][:, : joints.shape[1]]
    known = np.isfinite(apart).all(axis=1)
    apart, motion = apart[known], motion[known]
    middle = np.median(apart, axis=0) if len(apart) else 0
    error = np.sqrt(np.mean((apart - middle) ** 2, axis=1))
    ids, counts = np.unique(motion, return_counts=True)
    ids = ids[counts >= _LEAST_ROWS].astype(np.int64)
    medians = np.array([np.median(error[motion == number]) for number in ids])
    return TrackingErrors(ids, medians, robot, reference)


def motions_figure(pictures: Pictures) -> Figure:
    """Failures and tracking errors of motions, the frames of the failures, the frames recorded."""
    counts = MotionCounts.of(pictures.dataset)
    tracking = tracking_errors(pictures.statistics.fields)
    panels: list[tuple[Callable[..., None], Any]] = [(_rates, counts)]
    if tracking is not None and len(tracking.ids):
        panels.append((_tracking, tracking))
    if counts.failed.any():
        panels.append((_frames, counts))
    if FRAME in pictures.dataset:
        panels.append((_coverage, counts))
    height = max(2.4, 1.0 + 0.2 * min(len(counts.ids), _MOST_BARS))
    figure, grid = new_grid(len(panels), 2, 0.5, height)
    for axes, (draw, measured) in zip(grid, panels, strict=False):
        draw(axes, pictures, measured)
    return figure


def _bars(
    axes: Axes, names: Sequence[str], values: Floats, words: Sequence[str], color: str
) -> None:
    """Named bars from the top down, with words at their ends."""
    axes.grid(visible=False)
    axes.barh(np.arange(len(names)), values, color=color, height=0.7)
    name_ticks(axes.yaxis, names)
    room = 0.015 * max(float(values.max(initial=0)), 1e-9)
    for place, (value, text) in enumerate(zip(values, words, strict=True)):
        axes.text(float(value) + room, place, text, va="center", fontsize=7.5)
    axes.set_ylim(max(len(names), 4) - 0.5, -0.5)


def _some_of(which: str, drawn: Sized, motions: Sized) -> str:
    """The end of a title: how many motions are drawn, if these are not all."""
    few = len(drawn) < len(motions)
    return f": {which}{len(drawn)} of {len(motions):,} motions" if few else ""


def _names(pictures: Pictures, motions: Iterable[int]) -> list[str]:
    return [motion_name(pictures.dataset, int(m)).removesuffix(".npz") for m in motions]


def _rates(axes: Axes, pictures: Pictures, counts: MotionCounts) -> None:
    at = counts.worst_first[:_MOST_BARS]
    dress(axes, f"failed trajectories{_some_of('the worst ', at, counts.ids)}")
    words = [f"{counts.rate[i]:.0%} of {counts.ended[i]:,}" for i in at]
    _bars(axes, _names(pictures, counts.ids[at]), counts.rate[at], words, pictures.palette.failed)
    axes.set_xlim(0, 1.25)
    percent(axes.xaxis, 0, 0.5, 1)


def _tracking(axes: Axes, pictures: Pictures, tracking: TrackingErrors) -> None:
    """Motions that are tracked worst, and the median motion."""
    order, palette = np.argsort(-tracking.errors, kind="stable")[:_MOST_BARS], pictures.palette
    unit = pictures.unit_of(tracking.robot, tracking.reference)
    dress(axes, f"tracking error{_some_of('the worst ', order, tracking.ids)}")
    errors = tracking.errors[order]
    words = [f"{value:.2g} {unit}".rstrip() for value in errors]
    _bars(axes, _names(pictures, tracking.ids[order]), errors, words, palette.ended)
    if len(order) > 1:
        usual = float(np.median(tracking.errors))
        axes.axvline(usual, color=palette.ink, linewidth=1, linestyle=":", label="median motion")
    axes.set_xlim(0, 1.2 * max(float(errors.max(initial=0)), 1e-9))
    axes.set_xlabel(f"{tracking.robot} from {tracking.reference}, root mean square of the joints")
    legend(axes, loc="lower right")


def _frames(axes: Axes, pictures: Pictures, counts: MotionCounts) -> None:
    """A histogram of the frames of all failures, the motions with most of them apart."""
    dataset, palette = pictures.dataset, pictures.palette
    where = "frame of the motion" if FRAME in dataset else "steps since the trajectory began"
    dress(axes, "failures by frame" if FRAME in dataset else "failures by steps")
    columns, frames = dataset.trajectories.columns, failure_frames(dataset)
    motions, last = columns["motion"][columns["end"] == "failed"], int(frames.max(initial=0))
    apart = counts.ids[np.argsort(-counts.failed, kind="stable")[:_MOST_APART]]
    edges = whole_edges(0, last, _BINS)
    chosen = [*(motions == motion for motion in apart), ~np.isin(motions, apart)]
    named = zip([*_names(pictures, apart), "other motions"], chosen, palette.lines, strict=False)
    stack_histograms(axes, edges, ((frames[w], n, color, None) for n, w, color in named if w.any()))
    axes.set_xlabel(where)
    axes.set_ylabel("trajectories")
    whole_numbers(axes.xaxis)
    whole_numbers(axes.yaxis)
    legend(axes, loc="upper right", fontsize=7)


def _coverage(axes: Axes, pictures: Pictures, counts: MotionCounts) -> None:
    """Frames that trajectories contain, often or seldom, motion by motion."""
    motions = counts.ids[evenly_spaced(len(counts.ids), _MOST_ROWS)]
    found = frame_counts(pictures.dataset, list(map(int, motions)))
    longest = max((len(c) for c in found.values()), default=0)
    width = max(1, -(-longest // _CELLS))
    edges = np.arange(0, longest + width, width)
    cells = np.full((len(motions), max(len(edges) - 1, 1)), np.nan)
    for row, frames in zip(cells, found.values(), strict=True):
        starts = np.arange(0, len(frames), width)
        row[: len(starts)] = np.minimum.reduceat(frames, starts) if len(frames) else 0
    usual = np.array([np.median(c[c > 0]) if (c > 0).any() else 0 for c in found.values()])
    dress(axes, f"recorded frames{_some_of('', motions, counts.ids)}")
    axes.grid(visible=False)
    seldom, palette = (cells > 0) & (cells < usual[:, None] / 4), pictures.palette
    for where, color, label in (
        ((cells > 0) & ~seldom, palette.ended2, "recorded"),
        (seldom, palette.interrupted, "seldom (below a quarter of the median)"),
        (cells == 0, palette.failed, "never"),
    ):
        fill_cells(axes, where, edges, color, label)
    axes.set_xlim(0, max(longest, 1))
    axes.set_ylim(len(motions), 0)
    name_ticks(axes.yaxis, _names(pictures, motions), np.arange(len(motions)) + 0.5)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlabel("frame of the motion")
    whole_numbers(axes.xaxis)
    legend(axes, **ABOVE, ncols=3, fontsize=7, columnspacing=0.9)
