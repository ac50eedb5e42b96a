"""Pictures of the values that fields take: by feature, as histograms, as images, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.look.canvas import (
    ABOVE,
    Palette,
    dress,
    legend,
    name_ticks,
    new_figure,
    new_grid,
    whole_numbers,
)
from mosaic_collect.look.charts import END_WORDS
from mosaic_collect.look.motions import reference_and_robot
from mosaic_collect.look.statistics import (
    ACTIONS,
    MEAN,
    SIGMA,
    FieldStatistics,
    short_labels,
)
from mosaic_collect.reading.moments import Floats, Moments
from mosaic_collect.reading.terms import Term, column_names, usable_terms
from mosaic_collect.reading.trajectories import Trajectory
from mosaic_collect.store.robot import Robot
from mosaic_collect.store.schema import VALID_MASK, Field

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mosaic_collect.look.pictures import Pictures

TEACHER, STUDENT = "observations", "student_observations"
_WIDTH = 64  # features of a panel where no terms are known
_MOST_PANELS, _MOST_HISTOGRAMS, _MOST_NAMED, _MOST_CURVES, _MOST_LINES = 30, 36, 40, 12, 3
_IMAGES = 12
_AT = (0.01, 0.25, 0.5, 0.75, 0.99)
_BEYOND = 1.0  # spans of 98 % of the values that a panel shows above and below them
_WIDE = 30  # greatest by least sigma from which their axis is logarithmic


def bands_figure(pictures: Pictures, name: str) -> Figure:
    """Per feature: least and greatest, 1 to 99 %, 25 to 75 %, median; the newest frame alone."""
    field, palette = pictures.statistics.fields[name], pictures.palette
    terms = _panels(field)
    shown = terms[:_MOST_PANELS]
    named = any(_is_named(field.labels(term.newest)) for term in shown)
    columns, height = min(2 if named else 3, max(len(shown), 1)), 2.4 if named else 1.75
    figure, grid = new_grid(len(shown), columns, 0.6, height)
    quantiles = field.quantiles(_AT)
    found: set[str] = set()
    for axes, term in zip(grid, shown, strict=False):
        unit = pictures.unit_of(term.name, field.name)
        dress(axes, f"{term.label}, {unit}" if unit else term.label)
        found |= _panel(axes, field, quantiles, term, palette)
    for label, style in _marks(palette).items():
        if label in found:
            grid[0].plot([], [], label=label, **style)
    legend(figure, loc="outside lower left", ncols=8)
    more = f" (the first {_MOST_PANELS} of {len(terms)} panels)" if len(terms) > len(shown) else ""
    figure.suptitle(f"{name}, by feature{more}", fontsize=10, x=0.01, ha="left", parse_math=False)
    return figure


def _is_named(labels: Sequence[str]) -> bool:
    return len(labels) <= _MOST_NAMED and not all(label.isdigit() for label in labels)


def _panels(field: FieldStatistics) -> list[Term]:
    """The terms, or else columns as they lie."""
    if field.terms:
        return list(field.terms)
    dim = len(field.mean)
    cuts = [(start, min(start + _WIDTH, dim)) for start in range(0, dim, _WIDTH)]
    names = [f"[{a}:{b}]" for a, b in cuts] if len(cuts) > 1 else [field.name]
    return [Term(name=n, dim=b - a, start=a) for n, (a, b) in zip(names, cuts, strict=True)]


def _marks(palette: Palette) -> dict[str, dict[str, Any]]:
    """Everything that a panel of bands may show, and how."""
    point = {"linestyle": "", "markersize": 6, "markeredgewidth": 1.6}
    return {
        "least to greatest": {"color": palette.line6, "linewidth": 0.8},
        "1 to 99 %": {"color": palette.ended2, "linewidth": 6},
        "25 to 75 %": {"color": palette.ended, "linewidth": 6},
        "median": {"color": palette.ink, "marker": "_", "linestyle": ""},
        "always 0": {"color": palette.failed, "marker": "x", **point},
        "constant": {"color": palette.interrupted, "marker": "D", **point},
        "NaN or infinity": {"color": palette.failed, "marker": "^", **point},
        "beyond this picture": {"color": palette.failed, "marker": "*", **point},
    }


def _panel(
    axes: Axes, field: FieldStatistics, quantiles: np.ndarray, term: Term, palette: Palette
) -> set[str]:
    """Draw the bands of a term; returns the labels of what is in the picture."""
    columns, styles = term.newest, _marks(palette)
    x, m = np.arange(term.dim), field.moments
    some = m.count[columns] > 0
    low, q1, q25, q50, q75, q99, high = (
        np.where(some, v[columns], np.nan) for v in (m.low, *quantiles, m.high)
    )
    constant, dead = field.constant[columns], field.dead[columns]
    found: set[str] = set()
    if (some & ~constant).any():
        found |= {"least to greatest", "1 to 99 %", "25 to 75 %", "median"}
        bottom, top = np.nanmin(q1), np.nanmax(q99)
        span = max(top - bottom, 1e-12) * _BEYOND
        bottom, top = max(bottom - span, np.nanmin(low)), min(top + span, np.nanmax(high))
        room = 0.05 * max(top - bottom, 1e-12)
        axes.set_ylim(bottom - room, top + room)
        far = (low < bottom) | (high > top)
    else:
        far, bottom, top = np.zeros(term.dim, np.bool_), 0.0, 0.0
    width = min(6.0, 120 / max(term.dim, 1))
    axes.vlines(x, low, high, **styles["least to greatest"])
    axes.vlines(x, q1, q99, color=palette.ended2, linewidth=width)
    axes.vlines(x, q25, q75, color=palette.ended, linewidth=width)
    axes.plot(x, q50, "_", color=palette.ink, markersize=max(width, 3), markeredgewidth=1.2)
    for label, where, heights in (
        ("always 0", dead, q50),
        ("constant", field.fixed[columns], q50),
        ("NaN or infinity", (m.nan + m.inf)[columns] > 0, q50),
        ("beyond this picture", far, np.where(high > top, top, bottom)),
    ):
        if where.any():
            found.add(label)
            axes.plot(x[where], np.where(some, heights, 0)[where], **styles[label], clip_on=False)
    axes.set_xlim(-0.8, term.dim - 0.2)
    _name_features(axes, field.labels(columns))
    return found


def _name_features(axes: Axes, labels: Sequence[str]) -> None:
    """Names of joints below, or numbers."""
    if not _is_named(labels):
        whole_numbers(axes.xaxis)
        return
    name_ticks(axes.xaxis, labels)
    axes.tick_params(axis="x", labelrotation=90, labelsize=6)


def actions_figure(pictures: Pictures) -> Figure:
    """A histogram per action, the most saturated first where there are too many."""
    fields, palette = pictures.statistics.fields, pictures.palette
    actions, mean = next(fields[name] for name in ACTIONS if name in fields), fields.get(MEAN)
    labels, count = actions.labels(), len(actions.mean)
    most = np.argsort(-actions.saturation, kind="stable")[:_MOST_HISTOGRAMS]
    chosen = np.sort(most).tolist()
    figure, grid = new_grid(len(chosen), min(6, max(count, 1)), 0.7, 1.2)
    outer = actions.quantiles((0.001, 0.999))
    differs = mean is not None and not np.array_equal(mean.sample, actions.sample, equal_nan=True)
    is_red = actions.dead | (actions.saturation > 0.05)
    for axes, column in zip(grid, chosen, strict=False):
        share = float(actions.saturation[column])
        at_limit = f", {share:.0%} at a limit" if share > 0.01 else ""
        name = f"action {column}" if labels[column].isdigit() else labels[column]
        dress(axes, f"{name}{at_limit}")
        axes.title.set_fontsize(7)
        axes.set_yticks([])
        axes.tick_params(labelsize=7)
        axes.xaxis.get_offset_text().set_fontsize(6)
        axes.locator_params(axis="x", nbins=4)
        axes.grid(visible=False)
        low, high = outer[:, column]
        if not np.isfinite(low):
            continue
        span = high - low or 1.0
        edges = np.linspace(low - 0.04 * span, high + 0.04 * span, 41)
        color = palette.failed if is_red[column] else palette.ended
        counts = np.histogram(actions.sample[:, column], edges)[0]
        axes.stairs(counts, edges, fill=True, color=color)
        if mean is not None and differs:
            counts = np.histogram(mean.sample[:, column], edges)[0]
            axes.stairs(counts, edges, color=palette.line2, linewidth=1)
    grid[0].fill_between([], [], label="actions", color=palette.ended)
    if is_red.any():
        label = "more than 5 % at a limit, or always 0"
        grid[0].fill_between([], [], label=label, color=palette.failed)
    if differs:
        grid[0].plot([], [], color=palette.line2, linewidth=1, label="their means")
    legend(figure, loc="outside lower left", ncols=4)
    return figure


def sigma_figure(pictures: Pictures) -> Figure:
    """Sigma of each action on the left; on the right over time, the odd ones by name."""
    field, palette = pictures.statistics.fields[SIGMA], pictures.palette
    figure = new_figure(10, 3.4)
    left, right = figure.subplots(1, 2, sharey=True)
    dress(left, "sigma per action: 1 to 99 % and median")
    q1, q50, q99 = field.quantiles((0.01, 0.5, 0.99))
    x = np.arange(len(q50))
    left.vlines(x, q1, q99, color=palette.ended, linewidth=4)
    left.plot(x, q50, "_", color=palette.ink, markersize=6, markeredgewidth=1.2)
    _name_features(left, field.labels())
    dress(right, "mean sigma over time")
    whole_numbers(right.xaxis)
    _over_time(right, pictures, field)
    low, high = float(field.moments.low.min()), float(field.moments.high.max())
    if 0 < low < high / _WIDE < np.inf:
        left.set_yscale("log")
    elif low >= 0 and np.isfinite(high):
        left.set_ylim(0, max(high * 1.1, 1e-9))
    right.set_xlabel("step")
    legend(figure, loc="outside lower left", ncols=6)
    return figure


def _over_time(axes: Axes, pictures: Pictures, field: FieldStatistics) -> None:
    """Each action, the median one, and by name those that are far from it."""
    edges, palette = pictures.statistics.edges, pictures.palette
    there = (field.bin_counts > 0).any(axis=1) if field.stride else np.zeros(0, np.bool_)
    if not there.any():
        return
    means, at = field.bin_means[there], ((edges[1:] + edges[:-1]) / 2)[there]
    median = np.nanmedian(means, axis=1)
    lines = axes.plot(at, means[:, :_WIDTH], color=palette.ended2, linewidth=0.8)
    lines[0].set_label("an action")
    axes.plot(at, median, color=palette.ink, linewidth=1.4, label="median action")
    away = np.abs(np.log(np.maximum(means, 1e-30) / np.maximum(median[:, None], 1e-30))).max(axis=0)
    odd = [i for i in np.argsort(-away, kind="stable")[:3] if away[i] > np.log(2)]
    for i, color in zip(odd, palette.lines[1:], strict=False):
        axes.plot(at, means[:, i], color=color, linewidth=1.6, label=field.labels()[i])


def is_image(field: Field) -> bool:
    """Whether a row of a field can be shown as an image: one channel, or colors."""
    shape = field.row_shape
    return min(shape[:2], default=0) > 3 and (len(shape) == 2 or shape[2:] in ((1,), (3,), (4,)))


def images_figure(pictures: Pictures, name: str) -> Figure:
    """A contact sheet: images of a field, spread evenly over the recording and its environments."""
    dataset = pictures.dataset
    figure, grid = new_grid(_IMAGES, _IMAGES // 2, 0, 1.8)
    table, last = dataset.view, dataset.num_steps - 1
    for at, axes in enumerate(grid):
        axes.set_axis_off()
        if last < 0:
            continue
        step = at * last // (_IMAGES - 1)
        num_envs = table.shape(dataset.state.block_of(step))[1]
        env = at * (num_envs - 1) // (_IMAGES - 1)
        image = table.read(name, range(step, step + 1), range(env, env + 1))[0, 0]
        axes.imshow(_displayed(image), cmap="gray")
        title = f"step {step:,}, environment {env:,}"
        axes.set_title(title, loc="center", fontsize=7, parse_math=False)
    return figure


def _displayed(image: NDArray[Any]) -> Floats:
    """Values of an image between 0 and 1; depths and other numbers by their own range."""
    values = np.nan_to_num(image.astype(np.float64))
    low, high = (0, 255) if image.dtype == np.uint8 else (values.min(), values.max())
    scaled = (values - low) / max(high - low, 1e-12)
    return scaled[..., 0] if scaled.shape[2:] == (1,) else scaled


_SOLID: dict[str, Any] = {"linestyle": "-", "linewidth": 1.3}
_DASHED: dict[str, Any] = {"linestyle": (0, (4, 2)), "linewidth": 1.0}


class _Panel(NamedTuple):
    """Columns to draw, their names, and columns to draw dashed over them with their meaning."""

    title: str
    values: NDArray[Any]
    labels: list[str]
    dashed: NDArray[Any] | None = None
    meaning: str = ""


def curves_figure(pictures: Pictures, trajectory: Trajectory) -> Figure:
    """Draw those few features of each term that vary most.

    Actions are drawn with their means; joints with the command where there is one, so that the
    tracking error shows; other observations with the student's.
    """
    panels, robot, palette = _curves(pictures, trajectory), pictures.robot, pictures.palette
    figure, grid = new_grid(len(panels), 2, 0.8, 1.8, sharex=True)
    wrong = ~trajectory[VALID_MASK][...]
    for axes, panel in zip(grid, panels, strict=False):
        _draw(axes, panel, wrong, pictures)
    for axes in grid[max(len(panels) - 2, 0) : len(panels)]:
        axes.set_xlabel("seconds" if robot.control_dt else "step of the trajectory")
        axes.tick_params(labelbottom=True)
    if wrong.any():
        grid[0].fill_between([], [], color=palette.invalid, label="not valid")
        legend(figure, grid[0], loc="outside lower left")
    motion = "" if trajectory.motion is None else f", motion {trajectory.motion}"
    where = f"environment {trajectory.env}, from step {trajectory.first_step:,}"
    how = f"{trajectory.num_steps:,} steps, {END_WORDS[trajectory.end]}{motion}"
    figure.suptitle(f"trajectory {trajectory.id}: {where}, {how}", fontsize=10, x=0.01, ha="left")
    return figure


def _curves(pictures: Pictures, trajectory: Trajectory) -> list[_Panel]:
    """Actions, joints beside the command, other terms beside the student's, other fields."""
    named, students = (_by_terms(pictures, trajectory, field) for field in (TEACHER, STUDENT))
    others = (field for field in trajectory.schema.fields if field.is_float and not field.has_axes)
    fields = [field.name for field in others if field.name not in (TEACHER, STUDENT)]
    labels_of = {name: short_labels(column_names(pictures.dataset, name)) for name in fields}
    named |= {name: (trajectory[name][...], labels) for name, labels in labels_of.items()}
    mean, panels = named.pop(MEAN, (None, []))[0], []
    named.pop(SIGMA, None)
    reference, joints = reference_and_robot({name: values for name, (values, _) in named.items()})
    for name in sorted(named, key=lambda name: (name not in ACTIONS, name != joints)):
        values, labels = named[name]
        other, meaning = students.pop(name, (None, []))[0], "student's newest frame"
        if name in fields and name in ACTIONS:
            other, meaning = mean, "mean"
        elif name == joints:
            other, meaning = _beside(reference, named[reference][0], values, pictures.robot)
        if other is not None and other.shape != values.shape:
            other = None
        if other is not None and np.array_equal(other, values, equal_nan=True):
            meaning = f"{meaning}, equal"
        panels.append(_Panel(name, values, labels, other, meaning))
    panels += [_Panel(f"student: {name}", *found) for name, found in students.items()]
    return panels[:_MOST_CURVES]


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
    pictures: Pictures, trajectory: Trajectory, field: str
) -> dict[str, tuple[NDArray[Any], list[str]]]:
    """The newest frames of a field's terms, and the names of their columns."""
    dataset = pictures.dataset
    if field not in trajectory:
        return {}
    rows, labels = trajectory[field][...], short_labels(column_names(dataset, field))
    terms = usable_terms(dataset.schema, dataset.metadata).get(field)
    if terms is None:
        return {field: (rows, labels)}
    return {term.name: (rows[:, term.newest], labels[term.newest]) for term in terms}


def _draw(axes: Axes, panel: _Panel, wrong: NDArray[Any], pictures: Pictures) -> None:
    palette, scale = pictures.palette, pictures.robot.control_dt or 1.0
    values = panel.values.reshape(len(panel.values), -1)
    dashed = None if panel.dashed is None else panel.dashed.reshape(values.shape)
    spread = Moments.of(values if dashed is None else values - dashed).var
    spread = spread if spread.any() else Moments.of(values).var
    features = np.sort(np.argsort(-spread, kind="stable")[:_MOST_LINES])
    dress(axes, panel.title)
    axes.set_ylabel(pictures.unit_of(panel.title))
    at = np.arange(len(values)) * scale
    for feature, color in zip(features, palette.lines, strict=False):
        axes.plot(at, values[:, feature], color=color, label=panel.labels[feature], **_SOLID)
        if dashed is not None:
            axes.plot(at, dashed[:, feature], color=color, **_DASHED)
    if dashed is not None:
        axes.plot([], [], color=palette.ink, label=panel.meaning, **_DASHED)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], wrong, [False]]).astype(np.int8)))
    for start, stop in (edges.reshape(-1, 2) - 0.5) * scale:
        axes.axvspan(start, stop, color=palette.invalid, zorder=0)
    axes.set_xlim(-0.5 * scale, (len(values) - 0.5) * scale)
    legend(axes, **ABOVE, ncols=4, fontsize=7, columnspacing=0.8, handletextpad=0.3)
    if pictures.robot.control_dt is None:
        whole_numbers(axes.xaxis)
