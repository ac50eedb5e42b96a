"""Pictures of the values that fields take: bands per feature, histograms, sigma, and images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.look.canvas import (
    LIGHT,
    Palette,
    dress,
    legend,
    name_ticks,
    new_figure,
    whole_numbers,
)
from mosaic_collect.look.statistics import FieldProfile, FieldStatistics, StoreStatistics
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.terms import Term
from mosaic_collect.store.robot import Robot
from mosaic_collect.store.schema import Field

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACTIONS = ("actions", "action")
MEAN, SIGMA = "action_mean", "action_sigma"
_WIDTH = 64  # features of a panel where no terms are known
_MOST_PANELS, _MOST_HISTOGRAMS, _MOST_NAMED = 30, 36, 40
_IMAGES = 12
_AT = (0.01, 0.25, 0.5, 0.75, 0.99)
_BEYOND = 1.0  # spans of 98 % of the values that a panel shows above and below them
_WIDE = 30  # greatest by least sigma from which their axis is logarithmic


def unit_of(robot: Robot, *names: str) -> str:
    """Unit of the first of some terms and fields that has one, or an empty text."""
    return next((robot.units[name] for name in names if name in robot.units), "")


def bands_figure(field: FieldStatistics, robot: Robot, palette: Palette = LIGHT) -> Figure:
    """Per feature: least and greatest, 1 to 99 %, 25 to 75 %, median; the newest frame alone."""
    terms = _panels(field)
    shown = terms[:_MOST_PANELS]
    named = any(_is_named(field.labels(term.newest)) for term in shown)
    columns = min(2 if named else 3, max(len(shown), 1))
    rows = -(-max(len(shown), 1) // columns)
    figure = new_figure(10, 0.6 + (2.4 if named else 1.75) * rows, palette)
    grid = figure.subplots(rows, columns, squeeze=False)
    quantiles = field.quantiles(_AT)
    for axes in grid.flat[len(shown) :]:
        axes.set_axis_off()
    found: set[str] = set()
    for axes, term in zip(grid.flat, shown, strict=False):
        unit = unit_of(robot, term.name, field.name)
        dress(axes, palette, f"{term.label}, {unit}" if unit else term.label)
        found |= _panel(axes, field, quantiles, term, palette)
    for label, style in _marks(palette):
        if label in found:
            grid.flat[0].plot([], [], label=label, **style)
    legend(figure, palette, loc="outside lower left", ncols=8)
    more = f" (the first {_MOST_PANELS} of {len(terms)} panels)" if len(terms) > len(shown) else ""
    title = f"{field.name}, by feature{more}"
    figure.suptitle(title, fontsize=10, x=0.01, ha="left", color=palette.ink, parse_math=False)
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


def _marks(palette: Palette) -> list[tuple[str, dict[str, Any]]]:
    """Everything that a panel of bands may show, and how."""
    point = {"linestyle": "", "markersize": 6, "markeredgewidth": 1.6}
    return [
        ("least to greatest", {"color": palette.line6, "linewidth": 0.8}),
        ("1 to 99 %", {"color": palette.ended2, "linewidth": 6}),
        ("25 to 75 %", {"color": palette.ended, "linewidth": 6}),
        ("median", {"color": palette.ink, "marker": "_", "linestyle": ""}),
        ("always 0", {"color": palette.failed, "marker": "x", **point}),
        ("constant", {"color": palette.interrupted, "marker": "D", **point}),
        ("NaN or infinity", {"color": palette.failed, "marker": "^", **point}),
        ("beyond this picture", {"color": palette.failed, "marker": "*", **point}),
    ]


def _panel(
    axes: Axes, field: FieldStatistics, quantiles: np.ndarray, term: Term, palette: Palette
) -> set[str]:
    """Draw the bands of a term; returns the labels of what is in the picture."""
    columns, styles = term.newest, dict(_marks(palette))
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


def actions_figure(statistics: StoreStatistics, palette: Palette = LIGHT) -> Figure:
    """A histogram per action, the most saturated first where there are too many."""
    actions = next(statistics.fields[name] for name in ACTIONS if name in statistics.fields)
    mean, count = statistics.fields.get(MEAN), len(actions.mean)
    order = np.argsort(-actions.saturation, kind="stable")[:_MOST_HISTOGRAMS]
    chosen = np.arange(count) if count <= _MOST_HISTOGRAMS else np.sort(order)
    columns = min(6, max(count, 1))
    rows = -(-len(chosen) // columns)
    figure = new_figure(10, 0.7 + 1.2 * rows, palette)
    grid, labels = figure.subplots(rows, columns, squeeze=False), actions.labels()
    for axes in grid.flat[len(chosen) :]:
        axes.set_axis_off()
    outer = actions.quantiles((0.001, 0.999))
    differs = mean is not None and not np.array_equal(mean.sample, actions.sample, equal_nan=True)
    for axes, column in zip(grid.flat, chosen, strict=False):
        share = float(actions.saturation[column])
        at_limit = f", {share:.0%} at a limit" if share > 0.01 else ""
        name = labels[column] if not labels[column].isdigit() else f"action {column}"
        dress(axes, palette, f"{name}{at_limit}")
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
        colour = palette.failed if share > 0.05 or actions.dead[column] else palette.ended
        values = actions.sample[:, column]
        axes.stairs(np.histogram(values, edges)[0], edges, fill=True, color=colour)
        if mean is not None and differs:
            counts = np.histogram(mean.sample[:, column], edges)[0]
            axes.stairs(counts, edges, color=palette.line2, linewidth=1)
    for label, style in (
        ("actions", {"color": palette.ended}),
        ("more than 5 % at a limit, or always 0", {"color": palette.failed}),
    ):
        if label == "actions" or (actions.dead | (actions.saturation > 0.05)).any():
            grid.flat[0].fill_between([], [], label=label, **style)
    if differs:
        grid.flat[0].plot([], [], color=palette.line2, linewidth=1, label="their means")
    legend(figure, palette, loc="outside lower left", ncols=4)
    return figure


def sigma_figure(statistics: StoreStatistics, palette: Palette = LIGHT) -> Figure:
    """Sigma of each action on the left; on the right over time, the odd ones by name."""
    field, profile = statistics.fields[SIGMA], statistics.profile
    figure = new_figure(10, 3.4, palette)
    left, right = figure.subplots(1, 2, sharey=True)
    dress(left, palette, "sigma per action: 1 to 99 % and median")
    q1, q50, q99 = field.quantiles((0.01, 0.5, 0.99))
    x = np.arange(len(q50))
    left.vlines(x, q1, q99, color=palette.ended, linewidth=4)
    left.plot(x, q50, "_", color=palette.ink, markersize=6, markeredgewidth=1.2)
    _name_features(left, field.labels())
    dress(right, palette, "mean sigma over time")
    _over_time(right, field, profile.fields[SIGMA], profile.edges, palette)
    low, high = float(field.moments.low.min()), float(field.moments.high.max())
    if 0 < low < high / _WIDE < np.inf:
        left.set_yscale("log")
    elif low >= 0 and np.isfinite(high):
        left.set_ylim(0, max(high * 1.1, 1e-9))
    right.set_xlabel("step")
    legend(figure, palette, loc="outside lower left", ncols=6)
    return figure


def _over_time(
    axes: Axes, field: FieldStatistics, profile: FieldProfile, edges: Any, palette: Palette
) -> None:
    """Each action, the median one, and by name those that are far from it."""
    there = (profile.counts > 0).any(axis=1)
    means, at = profile.means[there], ((edges[1:] + edges[:-1]) / 2)[there]
    whole_numbers(axes.xaxis)
    if not len(at):
        return
    median = np.nanmedian(means, axis=1)
    lines = axes.plot(at, means[:, :_WIDTH], color=palette.ended2, linewidth=0.8)
    lines[0].set_label("an action")
    axes.plot(at, median, color=palette.ink, linewidth=1.4, label="median action")
    away = np.abs(np.log(np.maximum(means, 1e-30) / np.maximum(median[:, None], 1e-30))).max(axis=0)
    odd = [i for i in np.argsort(-away, kind="stable")[:3] if away[i] > np.log(2)]
    for i, colour in zip(odd, palette.lines[1:], strict=False):
        axes.plot(at, means[:, i], color=colour, linewidth=1.6, label=field.labels()[i])


def is_image(field: Field) -> bool:
    """Whether a row of a field can be shown as an image: one channel, or colors."""
    shape = field.row_shape
    return min(shape[:2], default=0) > 3 and (len(shape) == 2 or shape[2:] in ((1,), (3,), (4,)))


def images_figure(dataset: TrajectoryDataset, name: str, palette: Palette = LIGHT) -> Figure:
    """A contact sheet: images of a field, spread evenly over the recording and its environments."""
    figure = new_figure(10, 3.6, palette)
    grid = figure.subplots(2, _IMAGES // 2, squeeze=False)
    table, last = dataset.view, max(dataset.num_steps - 1, 0)
    for at, axes in enumerate(grid.flat):
        axes.set_axis_off()
        if not dataset.num_steps:
            continue
        step = at * last // (_IMAGES - 1)
        num_envs = table.shape(dataset.state.block_of(step))[1]
        env = at * (num_envs - 1) // (_IMAGES - 1)
        image = table.read(name, range(step, step + 1), range(env, env + 1))[0, 0]
        axes.imshow(_displayed(image), cmap="gray")
        title = f"step {step:,}, environment {env:,}"
        axes.set_title(title, fontsize=7, color=palette.ink, parse_math=False)
    return figure


def _displayed(image: NDArray[Any]) -> NDArray[np.float64]:
    """Values of an image between 0 and 1; depths and other numbers by their own range."""
    values = np.nan_to_num(image.astype(np.float64))
    low, high = (0, 255) if image.dtype == np.uint8 else (values.min(), values.max())
    scaled = (values - low) / max(high - low, 1e-12)
    return scaled[..., 0] if scaled.shape[2:] == (1,) else scaled
