"""Colours and figures: drawn and saved without matplotlib's global state.

The colours are told apart by the blind to red and green, and differ in lightness for print: Okabe
and Ito's hues. Failed is the darkest on paper and the brightest on a dark screen; interrupted
trajectories are hatched besides.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import needed, output_path
from mosaic_collect.errors import InputError
from mosaic_collect.store.files import write_target

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_ROUND = (1, 2, 5, 10)
#: Options of a legend above the right end of its axes.
ABOVE = {"loc": "lower right", "bbox_to_anchor": (1.0, 0.98), "borderaxespad": 0.2}
_DIGITS = re.compile(r"\d+\.\d{3,}")


@dataclass(frozen=True)
class Palette:
    """Colors by their meaning, no two alike; by default those for paper."""

    paper: str = "#ffffff"
    ink: str = "#1c1d21"
    faint: str = "#d9dade"  # lines of the grid
    ended: str = "#2f77b4"  # in turn with the next, for neighbours
    ended2: str = "#8bbce0"
    failed: str = "#99103b"  # and all that is wrong
    interrupted: str = "#e69a0c"
    open: str = "#0d8f68"
    invalid: str = "#e9e9ec"
    line2: str = "#c2570c"  # curves, behind ``ended``
    line3: str = "#0f8a6c"
    line4: str = "#a6548b"
    line5: str = "#8a6d00"
    line6: str = "#5b5e66"

    @property
    def lines(self) -> tuple[str, ...]:
        """Six colors of curves."""
        return (self.ended, self.line2, self.line3, self.line4, self.line5, self.line6)

    def css(self) -> str:
        """Declarations of CSS variables, ``--c-`` and the name."""
        return ";".join(f"--c-{name}:{color}" for name, color in vars(self).items())

    def to_css(self, svg: str) -> str:
        """Replace the colors of an SVG by the CSS variables."""
        names = {color: f"var(--c-{name})" for name, color in vars(self).items()}
        return re.sub(r"#[0-9a-f]{6}\b", lambda m: names.get(m[0], m[0]), svg)


LIGHT = Palette()
DARK = Palette(
    *("#16181d", "#e7e8ea", "#3d4048", "#58a6e8", "#2f6ba3", "#ff7d95", "#f7cf63", "#3ccb9b"),
    *("#2b2e35", "#f0915a", "#4fd0ae", "#d99cc5", "#d9c04a", "#b3b6be"),
)
THEMES = {"light": LIGHT, "dark": DARK}


@contextmanager
def default_style(palette: Palette = LIGHT) -> Iterator[None]:
    """Draw and save in matplotlib's defaults and a palette, whatever ``matplotlibrc`` sets.

    Long curves lose points, but no peak and no gap: they stay within half a pixel.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        InputError: matplotlib refuses its configuration, such as an unknown ``MPLBACKEND``.
    """
    try:
        with needed("a plot needs matplotlib: pip install 'mosaic-collect[plot]'"):
            from matplotlib import style
    except ValueError as error:
        raise InputError(f"matplotlib refuses its configuration: {error}") from error
    sheet = {
        "path.simplify_threshold": 0.5,
        **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor"), palette.ink),
        "figure.facecolor": palette.paper,
        "axes.facecolor": "none",
        "grid.color": palette.faint,
        **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
        **dict.fromkeys(("axes.labelsize", "axes.titlesize"), 9),
        "axes.titlelocation": "left",
        "legend.fontsize": 8,
        "legend.handlelength": 1.4,
    }
    with style.context(["default", sheet]):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure, in inches, to be drawn and saved within ``default_style``."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # Some room at the sides, for browsers set text in fonts of their own.
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1))


def new_grid(
    count: int, columns: int, head: float, height: float, **shared: Any
) -> tuple[Figure, list[Axes]]:
    """Make a figure with rows of ``columns`` axes, of which the first ``count`` are to be drawn.

    A row is ``height`` inches high, and there are ``head`` inches beside the rows.
    """
    rows = max(1, -(-count // columns))
    figure = new_figure(10, head + height * rows)
    grid = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for axes in grid[count:]:
        axes.set_axis_off()
    return figure, grid


def dress(axes: Axes, title: str = "") -> None:
    """Give axes a faint grid, ticks at round numbers, and a title."""
    from matplotlib import rcParams
    from matplotlib.ticker import MaxNLocator

    axes.tick_params(colors=rcParams["text.color"], labelsize=8)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(7, steps=_ROUND, min_n_ticks=2))
    axes.grid(axis="y", color=rcParams["grid.color"], linewidth=0.6)
    axes.set_axisbelow(True)
    if title:
        axes.set_title(title, parse_math=False)  # a dollar in a name begins no formula


def whole_numbers(axis: Axis) -> None:
    """Ticks of an axis at round whole numbers, with thousands apart."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(9, integer=True, steps=_ROUND, min_n_ticks=1))
    axis.set_major_formatter("{x:,.0f}")


def percent(axis: Axis, *ticks: float) -> None:
    """Ticks of an axis in per cent, at some places if any are named."""
    if ticks:
        axis.set_ticks(ticks)
    axis.set_major_formatter(lambda share, _at: f"{100 * share:g} %")


def name_ticks(axis: Axis, names: Sequence[str], places: Any = None) -> None:
    """A tick per name, as it stands: no formulas, and no more than 28 letters."""
    short = [name if len(name) <= 28 else f"{name[:25]}..." for name in names]
    axis.set_ticks(np.arange(len(short)) if places is None else places, short)
    for label in axis.get_ticklabels():
        label.set_parse_math(False)


def legend(figure: Figure | Axes, *only: Axes, **options: Any) -> None:
    """A legend of these axes, or of all, if anything has a label."""
    every = figure.axes if isinstance(figure.axes, list) else [figure]
    keys = [axes.get_legend_handles_labels() for axes in only or every]
    handles, labels = ([one for key in keys for one in key[part]] for part in (0, 1))
    if labels:
        for text in figure.legend(handles=handles, labels=labels, **options).get_texts():
            text.set_parse_math(False)


def stack_histograms(
    axes: Axes, edges: NDArray[Any], groups: Iterable[tuple[NDArray[Any], str, str, str | None]]
) -> None:
    """Draw histograms one upon the other: values, label, color and hatch of each."""
    below = np.zeros(len(edges) - 1)
    for values, label, color, hatch in groups:
        top = below + np.histogram(values, edges)[0]
        bars = axes.stairs(top, edges, baseline=below, fill=True, label=label, hatch=hatch)
        bars.set(facecolor=color, edgecolor=axes.figure.get_facecolor(), linewidth=0)
        below = top


def fill_cells(
    axes: Axes, where: NDArray[np.bool_], edges: NDArray[Any], color: str, label: str, **style: Any
) -> None:
    """Fill the true cells of a table, a row per line, from edge to edge."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    changes = np.diff(np.pad(where, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (row, start), (_, stop) = np.nonzero(changes == 1), np.nonzero(changes == -1)
    if not len(row):
        return
    x = [edges[start], edges[stop], edges[stop], edges[start]]
    y = [row + 0.06, row + 0.06, row + 0.94, row + 0.94]
    path = Path.make_compound_path_from_polys(np.stack([x, y]).transpose(2, 1, 0))
    look = {"facecolor": color, "edgecolor": "none", "linewidth": 0, "label": label, **style}
    axes.add_patch(PathPatch(path, **look))


def check_picture(path: str | os.PathLike[str]) -> str:
    """Find out before the work whether the picture could be saved; return its path as text.

    Raises:
        InputError: No picture format has that ending, or there is no such folder.
        MissingDependencyError: matplotlib is not installed.
    """
    path = output_path(path, "plot")
    with default_style():
        kinds = new_figure(1, 1).canvas.get_supported_filetypes()
    if os.path.splitext(path)[1].lower().lstrip(".") not in kinds:
        raise InputError(f"plot: expected an ending of {', '.join(sorted(kinds))}, got {path}")
    return path


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Save a picture, whole or not at all; its ending says the format.

    Raises:
        InputError: ``check_picture`` refuses the path.
        OSError: The file could not be written.
    """
    path, picture = check_picture(path), io.BytesIO()
    kind = os.path.splitext(path)[1].lstrip(".")
    with default_style():
        figure.savefig(picture, format=kind, dpi=150, facecolor=figure.get_facecolor())
    write_target(path, picture.getvalue())


def inline_svg(figure: Figure, title: str, name: str) -> str:
    """Render a figure as an ``<svg>`` whose colors are the page's; ids begin with the name."""
    text = io.StringIO()
    with default_style():
        from matplotlib import rcParams

        # Text stays text: it can be searched, copied and read aloud.
        rcParams.update({"svg.fonttype": "none", "svg.hashsalt": name, "svg.id": name})
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    # A hundredth of a point is seen by nobody, and half of the page; what is to be read stays.
    svg = re.sub(r"<[^>]*>", lambda tag: _DIGITS.sub(lambda m: f"{float(m[0]):.2f}", tag[0]), svg)
    head = f'<svg role="img" aria-label="{escape(title)}" '
    return LIGHT.to_css(head + svg.removeprefix("<svg "))
