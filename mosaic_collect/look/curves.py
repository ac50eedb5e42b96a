"""The picture of one trajectory: what teacher and student saw, and what was done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.look.canvas import (
    LIGHT,
    Palette,
    dress,
    legend,
    new_figure,
    thinned,
    whole_numbers,
)
from mosaic_collect.look.charts import END_WORDS
from mosaic_collect.reading.moments import Moments
from mosaic_collect.reading.terms import Term
from mosaic_collect.reading.trajectories import Trajectory
from mosaic_collect.store.schema import VALID_MASK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEACHER, STUDENT = "observations", "student_observations"
_SHOWN_ELSEWHERE = (TEACHER, STUDENT, "actions", "action_mean", "action_sigma")
_MOST_PANELS = 12
_MOST_LINES = 3
_TAKEN = "actions taken; dashed: their means"
_SOLID: tuple[Any, float] = ("-", 1.3)
_DASHED: tuple[Any, float] = ((0, (4, 2)), 1.0)


def curves_figure(
    trajectory: Trajectory, terms: Mapping[str, tuple[Term, ...]], palette: Palette = LIGHT
) -> Figure:
    """Its observations by terms, the student's newest frame dashed on them, and its actions.

    Of each term those few features that vary most.

    Args:
        trajectory: Trajectory to draw; all its rows are read.
        terms: Observation terms of the store's fields.
        palette: To draw in.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    panels = _panels(trajectory, terms)[:_MOST_PANELS]
    rows = max(1, -(-len(panels) // 2))
    figure = new_figure(10, 0.8 + 1.7 * rows, palette)
    grid = figure.subplots(rows, 2, squeeze=False, sharex=True)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, panel in zip(grid.flat, panels, strict=False):
        _panel(axes, trajectory, panel, palette)
    for axes in grid.flat[max(len(panels) - 2, 0) : len(panels)]:
        axes.set_xlabel("step")
        axes.tick_params(labelbottom=True)
    beside = any(dashed is not None for name, _, dashed in panels if name != _TAKEN)
    _key(figure, beside, not trajectory[VALID_MASK][...].all(), palette)
    motion = "" if trajectory.motion is None else f", motion {trajectory.motion}"
    title = (
        f"trajectory {trajectory.id}: environment {trajectory.env}, "
        f"{trajectory.num_steps:,} steps, {END_WORDS[trajectory.end]}{motion}"
    )
    figure.suptitle(title, fontsize=10, x=0.01, ha="left", color=palette.ink)
    return figure


#: What a panel shows: its title, columns to draw, and columns to draw dashed over them.
Panel = tuple[str, NDArray[Any], NDArray[Any] | None]


def _panels(trajectory: Trajectory, terms: Mapping[str, tuple[Term, ...]]) -> list[Panel]:
    seen = _by_terms(trajectory, terms, TEACHER)
    students = _by_terms(trajectory, terms, STUDENT)
    panels: list[Panel] = []
    for name, values in seen.items():
        other = students.pop(name, None)
        same = other is not None and other.shape == values.shape
        panels.append((name, values, other if same else None))
        if other is not None and not same:
            students[name] = other
    panels += [(f"student: {name}", values, None) for name, values in students.items()]
    panels += [
        (name, trajectory[name][...], None) for name in trajectory if _is_curve(trajectory, name)
    ]
    if "actions" in trajectory:
        mean = trajectory["action_mean"][...] if "action_mean" in trajectory else None
        panels.insert(0, (_TAKEN, trajectory["actions"][...], mean))
    return panels


def _is_curve(trajectory: Trajectory, name: str) -> bool:
    """Whether a field is drawn for itself: numbers over steps that no other panel contains."""
    field = trajectory.schema[name]
    return field.is_float and not field.has_axes and name not in _SHOWN_ELSEWHERE


def _by_terms(
    trajectory: Trajectory, terms: Mapping[str, tuple[Term, ...]], field: str
) -> dict[str, NDArray[Any]]:
    if field not in trajectory:
        return {}
    rows = trajectory[field][...]
    if field not in terms:
        return {field: rows}
    return {term.name: rows[:, term.newest] for term in terms[field]}


def _panel(axes: Axes, trajectory: Trajectory, panel: Panel, palette: Palette) -> None:
    title, values, dashed = panel
    values = values.reshape(len(values), -1)
    spread = Moments.of(values).var
    features = np.sort(np.argsort(-spread, kind="stable")[:_MOST_LINES])
    some = f", {len(features)} of {values.shape[1]}" if len(features) < values.shape[1] else ""
    dress(axes, palette, f"{title}{some}: {', '.join(map(str, features))}")
    for feature, colour in zip(features, palette.lines, strict=False):
        for rows, (style, width) in ((values, _SOLID), (dashed, _DASHED)):
            if rows is not None:
                places, curve = thinned(rows.reshape(len(rows), -1)[:, feature])
                at = places + trajectory.first_step
                axes.plot(at, curve, linestyle=style, color=colour, linewidth=width)
    _invalid(axes, trajectory, palette)
    axes.set_xlim(trajectory.first_step - 0.5, trajectory.last_step + 0.5)
    whole_numbers(axes.xaxis)


def _invalid(axes: Axes, trajectory: Trajectory, palette: Palette) -> None:
    """Shade the steps whose rows do not count."""
    wrong = ~trajectory[VALID_MASK][...]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], wrong, [False]]).astype(np.int8)))
    for start, stop in edges.reshape(-1, 2) + trajectory.first_step - 0.5:
        axes.axvspan(start, stop, color=palette.invalid, zorder=0)


def _key(figure: Figure, beside: bool, masked: bool, palette: Palette) -> None:
    """What is told of what is there: a student's frames beside the teacher's, rows not valid."""
    axes, ink = figure.axes[0], palette.ink
    if beside:
        axes.plot([], [], color=ink, linewidth=_SOLID[1], label="teacher's observation")
        style, width = _DASHED
        axes.plot([], [], linestyle=style, color=ink, linewidth=width, label="student's newest")
    if masked:
        axes.fill_between([], [], color=palette.invalid, label="not valid")
    legend(figure, palette, loc="outside lower left", ncols=3)
