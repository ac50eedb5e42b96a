"""Pictures of the values that fields take: bands per feature, actions, and images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.look.canvas import LIGHT, Palette, dress, legend, new_figure, whole_numbers
from mosaic_collect.look.statistics import FieldStatistics
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.terms import Term
from mosaic_collect.store.schema import Field

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 64  # features of a panel where no terms are known
_MOST_PANELS = 30
_COLUMNS = 3
_IMAGES = 12
_AT = (0.01, 0.25, 0.5, 0.75, 0.99)


def bands_figure(field: FieldStatistics, palette: Palette = LIGHT) -> Figure:
    """Per feature: least and greatest, 1 to 99 %, 25 to 75 %, the median; of histories the newest.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    terms = _panels(field)
    shown = terms[:_MOST_PANELS]
    columns = min(_COLUMNS, max(len(shown), 1))
    rows = -(-max(len(shown), 1) // columns)
    figure = new_figure(10, 0.6 + 1.75 * rows, palette)
    grid = figure.subplots(rows, columns, squeeze=False)
    quantiles = field.quantiles(_AT)
    for axes in grid.flat[len(shown) :]:
        axes.set_axis_off()
    for axes, term in zip(grid.flat, shown, strict=False):
        _panel(axes, field, quantiles, term, palette)
    more = f" (the first {_MOST_PANELS} of {len(terms)} panels)" if len(terms) > len(shown) else ""
    _key(figure, palette, f"{field.name}, by feature{more}", field)
    return figure


def _panels(field: FieldStatistics) -> list[Term]:
    """The terms, or else columns as they lie."""
    if field.terms:
        return list(field.terms)
    dim = len(field.mean)
    cuts = [(start, min(start + _WIDTH, dim)) for start in range(0, dim, _WIDTH)]
    names = [f"[{a}:{b}]" for a, b in cuts] if len(cuts) > 1 else [field.name]
    return [Term(name=n, dim=b - a, start=a) for n, (a, b) in zip(names, cuts, strict=True)]


def _panel(
    axes: Axes, field: FieldStatistics, quantiles: np.ndarray, term: Term, palette: Palette
) -> None:
    columns = term.newest
    newest = f", newest of {term.frames} frames" if term.frames > 1 else ""
    dress(axes, palette, f"{term.name} ({term.dim}{newest})")
    x, m = np.arange(term.dim), field.moments
    some = m.count[columns] > 0
    low, q1, q25, q50, q75, q99, high = (
        np.where(some, v[columns], np.nan) for v in (m.low, *quantiles, m.high)
    )
    axes.vlines(x, low, high, color=palette.line6, linewidth=0.8)
    width = min(6.0, 120 / max(term.dim, 1))
    axes.vlines(x, q1, q99, color=palette.ended2, linewidth=width)
    axes.vlines(x, q25, q75, color=palette.ended, linewidth=width)
    axes.plot(x, q50, "_", color=palette.ink, markersize=max(width, 3), markeredgewidth=1.2)
    for where, mark, colour in (
        (field.dead[columns], "x", palette.failed),
        (field.constant[columns] & ~field.dead[columns], "D", palette.interrupted),
        ((m.nan + m.inf)[columns] > 0, "^", palette.failed),
    ):
        places = x[where]
        heights = np.where(some, q50, 0)[where]
        axes.plot(places, heights, mark, color=colour, markersize=6, markeredgewidth=1.8)
    axes.set_xlim(-0.8, term.dim - 0.2)
    whole_numbers(axes.xaxis)


def _key(figure: Figure, palette: Palette, title: str, field: FieldStatistics) -> None:
    """One legend for all panels, and the title beside it."""
    axes, odd = figure.axes[0], field.moments.nan + field.moments.inf
    marks = {"always 0": field.dead, "constant": field.constant & ~field.dead}
    marks["has NaN or infinity"] = odd > 0
    for label, style in (
        ("least to greatest", {"color": palette.line6, "linewidth": 0.8}),
        ("1 to 99 %", {"color": palette.ended2, "linewidth": 6}),
        ("25 to 75 %", {"color": palette.ended, "linewidth": 6}),
        ("median", {"color": palette.ink, "marker": "_", "linestyle": ""}),
        ("always 0", {"color": palette.failed, "marker": "x", "linestyle": ""}),
        ("constant", {"color": palette.interrupted, "marker": "D", "linestyle": ""}),
        ("has NaN or infinity", {"color": palette.failed, "marker": "^", "linestyle": ""}),
    ):
        if label not in marks or marks[label].any():
            axes.plot([], [], label=label, **style)
    legend(figure, palette, loc="outside lower left", ncols=7)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left", color=palette.ink, parse_math=False)


ACTIONS = ("actions", "action_mean", "action_sigma")
_WIDE = 30  # greatest by least sigma from which their axis is logarithmic


def actions_figure(fields: Mapping[str, FieldStatistics], palette: Palette = LIGHT) -> Figure:
    """Bands of actions beside their means', and of sigmas below.

    Args:
        fields: Statistics of ``ACTIONS``; of those that are not there nothing is drawn.
        palette: To draw in.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    figure = new_figure(10, 5, palette)
    above, below = figure.subplots(2, 1, sharex=True)
    dress(above, palette, "actions and means: 1 to 99 % (thin), 25 to 75 % (thick), median")
    dress(below, palette, "sigma")
    for name, shift, colour in (("actions", -0.17, "ended"), ("action_mean", 0.17, "line2")):
        if name in fields:
            _action_bands(above, fields[name], shift, getattr(palette, colour), palette)
    if "action_sigma" in fields:
        sigma = fields["action_sigma"]
        _action_bands(below, sigma, 0.0, palette.line3, palette)
        if 0 < sigma.moments.low.min() < sigma.moments.high.max() / _WIDE < np.inf:
            below.set_yscale("log")
        elif sigma.moments.low.min() >= 0 and np.isfinite(sigma.moments.high).all():
            below.set_ylim(0, max(float(sigma.moments.high.max()) * 1.1, 1e-9))
    below.set_xlabel("action dimension")
    whole_numbers(below.xaxis)
    legend(figure, palette, loc="outside lower left", ncols=3)
    return figure


def _action_bands(
    axes: Axes, field: FieldStatistics, shift: float, colour: str, palette: Palette
) -> None:
    q1, q25, q50, q75, q99 = field.quantiles(_AT)
    x = np.arange(len(q50)) + shift
    width = min(6.0, 160 / max(len(x), 1))
    axes.vlines(x, q1, q99, color=colour, linewidth=max(width / 4, 0.8))
    axes.vlines(x, q25, q75, color=colour, linewidth=width, label=field.name)
    axes.plot(x, q50, "_", color=palette.ink, markersize=max(width, 4), markeredgewidth=1.2)


def is_image(field: Field) -> bool:
    """Whether a row of a field can be shown as an image: one channel, or colors."""
    shape = field.row_shape
    return min(shape[:2], default=0) > 3 and (len(shape) == 2 or shape[2:] in ((1,), (3,), (4,)))


def images_figure(dataset: TrajectoryDataset, name: str, palette: Palette = LIGHT) -> Figure:
    """A contact sheet: images of a field, spread evenly over the recording and its environments.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        CorruptStoreError: A damaged chunk.
    """
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
        title = f"step {step:,}, env {env:,}"
        axes.set_title(title, fontsize=7, color=palette.ink, parse_math=False)
    return figure


def _displayed(image: NDArray[Any]) -> NDArray[np.float64]:
    """Values of an image between 0 and 1; depths and other numbers by their own range."""
    values = np.nan_to_num(image.astype(np.float64))
    low, high = (0, 255) if image.dtype == np.uint8 else (values.min(), values.max())
    scaled = (values - low) / max(high - low, 1e-12)
    return scaled[..., 0] if scaled.shape[2:] == (1,) else scaled
