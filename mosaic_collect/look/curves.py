"""The picture of one trajectory: commands and joints, observations by terms, and actions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.look.canvas import (
    LIGHT,
    Palette,
    dress,
    legend,
    new_figure,
    whole_numbers,
)
from mosaic_collect.look.charts import END_WORDS
from mosaic_collect.look.motions import reference_and_robot
from mosaic_collect.look.statistics import short_labels
from mosaic_collect.look.values import ACTIONS, MEAN, SIGMA, unit_of
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.moments import Moments
from mosaic_collect.reading.terms import column_names, usable_terms
from mosaic_collect.reading.trajectories import Trajectory
from mosaic_collect.store.robot import Robot
from mosaic_collect.store.schema import VALID_MASK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEACHER, STUDENT = "observations", "student_observations"
_MOST_PANELS = 12
_MOST_LINES = 3
_SOLID: tuple[Any, float] = ("-", 1.3)
_DASHED: tuple[Any, float] = ((0, (4, 2)), 1.0)


class _Panel(NamedTuple):
    """Columns to draw, their names, and columns to draw dashed over them with their meaning."""

    title: str
    values: NDArray[Any]
    labels: list[str]
    dashed: NDArray[Any] | None = None
    meaning: str = ""


def curves_figure(
    dataset: TrajectoryDataset, trajectory: Trajectory, robot: Robot, palette: Palette = LIGHT
) -> Figure:
    """Draw those few features of each term that vary most.

    Actions are drawn with their means; joints with the command where there is one, so that the
    tracking error shows; other observations with the student's.
    """
    panels = _panels(dataset, trajectory, robot)[:_MOST_PANELS]
    rows = max(1, -(-len(panels) // 2))
    figure = new_figure(10, 0.8 + 1.8 * rows, palette)
    grid = figure.subplots(rows, 2, squeeze=False, sharex=True)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    wrong = ~trajectory[VALID_MASK][...]
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw(axes, panel, wrong, robot, palette)
    for axes in grid.flat[max(len(panels) - 2, 0) : len(panels)]:
        axes.set_xlabel("seconds" if robot.control_dt else "step of the trajectory")
        axes.tick_params(labelbottom=True)
    if wrong.any():
        grid.flat[0].fill_between([], [], color=palette.invalid, label="not valid")
        legend(figure, palette, grid.flat[0], loc="outside lower left")
    motion = "" if trajectory.motion is None else f", motion {trajectory.motion}"
    where = f"environment {trajectory.env}, from step {trajectory.first_step:,}"
    how = f"{trajectory.num_steps:,} steps, {END_WORDS[trajectory.end]}{motion}"
    title = f"trajectory {trajectory.id}: {where}, {how}"
    figure.suptitle(title, fontsize=10, x=0.01, ha="left", color=palette.ink)
    return figure


def _panels(dataset: TrajectoryDataset, trajectory: Trajectory, robot: Robot) -> list[_Panel]:
    """Actions, joints beside the command, other terms beside the student's, other fields."""
    named, students = (
        _by_terms(dataset, trajectory, TEACHER),
        _by_terms(dataset, trajectory, STUDENT),
    )
    others = (field for field in trajectory.schema.fields if field.is_float and not field.has_axes)
    fields = [field.name for field in others if field.name not in (TEACHER, STUDENT)]
    named |= {
        name: (trajectory[name][...], short_labels(column_names(dataset, name))) for name in fields
    }
    mean, panels = named.pop(MEAN, (None, []))[0], []
    named.pop(SIGMA, None)
    reference, joints = reference_and_robot({name: values for name, (values, _) in named.items()})
    for name in sorted(named, key=lambda name: (name not in ACTIONS, name != joints)):
        values, labels = named[name]
        other, meaning = students.pop(name, (None, []))[0], "student's newest frame"
        if name in fields and name in ACTIONS:
            other, meaning = mean, "mean"
        elif name == joints:
            other, meaning = _beside(reference, named[reference][0], values, robot)
        if other is not None and other.shape != values.shape:
            other = None
        if other is not None and np.array_equal(other, values, equal_nan=True):
            meaning = f"{meaning}, equal"
        panels.append(_Panel(name, values, labels, other, meaning))
    panels += [_Panel(f"student: {name}", *found) for name, found in students.items()]
    return panels


def _beside(
    name: str, reference: NDArray[Any], joints: NDArray[Any], robot: Robot
) -> tuple[NDArray[Any], str]:
    """The reference's joints, from the default pose if the robot's are measured from there."""
    beside = reference[:, : joints.shape[1]]
    if len(robot.default_joint_pos) != joints.shape[1]:
        return beside, f"{name}, default pose not known"
    relative = beside - np.array(robot.default_joint_pos)
    far, further = (np.nansum(np.abs(joints - one)) for one in (relative, beside))
    return (relative, f"{name}, from the default pose") if far < further else (beside, name)


def _by_terms(
    dataset: TrajectoryDataset, trajectory: Trajectory, field: str
) -> dict[str, tuple[NDArray[Any], list[str]]]:
    """The newest frames of a field's terms, and the names of their columns."""
    if field not in trajectory:
        return {}
    rows, labels = trajectory[field][...], short_labels(column_names(dataset, field))
    terms = usable_terms(dataset.schema, dataset.metadata).get(field)
    if terms is None:
        return {field: (rows, labels)}
    return {term.name: (rows[:, term.newest], labels[term.newest]) for term in terms}


def _draw(axes: Axes, panel: _Panel, wrong: NDArray[Any], robot: Robot, palette: Palette) -> None:
    values = panel.values.reshape(len(panel.values), -1)
    apart = values if panel.dashed is None else values - panel.dashed.reshape(values.shape)
    spread = Moments.of(apart).var
    spread = spread if spread.any() else Moments.of(values).var
    features = np.sort(np.argsort(-spread, kind="stable")[:_MOST_LINES])
    dress(axes, palette, panel.title)
    axes.set_ylabel(unit_of(robot, panel.title))
    scale = robot.control_dt or 1.0
    for feature, color in zip(features, palette.lines, strict=False):
        for rows, (style, width) in ((values, _SOLID), (panel.dashed, _DASHED)):
            if rows is not None:
                curve = rows.reshape(len(rows), -1)[:, feature]
                label = panel.labels[feature] if rows is values else None
                look = {"linestyle": style, "color": color, "linewidth": width}
                axes.plot(np.arange(len(rows)) * scale, curve, label=label, **look)
    if panel.dashed is not None:
        style, width = _DASHED
        axes.plot([], [], linestyle=style, color=palette.ink, linewidth=width, label=panel.meaning)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], wrong, [False]]).astype(np.int8)))
    for start, stop in (edges.reshape(-1, 2) - 0.5) * scale:
        axes.axvspan(start, stop, color=palette.invalid, zorder=0)
    axes.set_xlim(-0.5 * scale, (len(values) - 0.5) * scale)
    place = {"loc": "lower right", "bbox_to_anchor": (1.0, 0.98), "borderaxespad": 0.2}
    legend(axes, palette, **place, ncols=4, fontsize=7, columnspacing=0.8, handletextpad=0.3)
    if robot.control_dt is None:
        whole_numbers(axes.xaxis)
