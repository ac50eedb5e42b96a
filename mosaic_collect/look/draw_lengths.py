"""The picture of how long trajectories are, by how they ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.look.canvas import dress, legend, new_figure, whole_numbers
from mosaic_collect.look.palette import LIGHT, Palette
from mosaic_collect.look.tables import END_WORDS
from mosaic_collect.reading.table import Trajectories

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BINS = 48
_WIDE = 100  # greatest by least length from which the axis is logarithmic
#: Ends from the bottom of a bar to its top: the colour's name, the hatch.
_ENDS = (
    ("failed", "failed", None),
    ("truncated", "truncated", "//////"),
    ("open", "open", None),
    ("ended", "ended", None),
    ("unsaid", "ended2", None),
)


def lengths_figure(table: Trajectories, palette: Palette = LIGHT) -> Figure:
    """A histogram of lengths in steps; trajectories without a valid row are left out.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    table = table.where(min_valid=1)
    figure = new_figure(10, 3.2, palette)
    axes = figure.add_subplot()
    dress(axes, palette, f"lengths of {len(table):,} trajectories")
    lengths, ends = table.columns["num_steps"], table.columns["end"]
    edges, wide = _edges(lengths)
    below = np.zeros(len(edges) - 1)
    for end, colour, hatch in _ENDS:
        chosen = lengths[ends == end]
        if not len(chosen):
            continue
        counts = np.histogram(chosen, edges)[0]
        top, label = below + counts, _label(END_WORDS[end], chosen)
        bars = axes.stairs(top, edges, baseline=below, fill=True, label=label, hatch=hatch)
        bars.set(facecolor=getattr(palette, colour), edgecolor=palette.paper, linewidth=0)
        below = below + counts
    whole_numbers(axes.yaxis)
    if wide:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
    else:
        whole_numbers(axes.xaxis)
    axes.set_xlabel("steps")
    axes.set_ylabel("trajectories")
    if len(table):
        legend(figure, palette, loc="outside lower left", ncols=3)
    return figure


def _label(words: str, lengths: NDArray[np.int64]) -> str:
    return f"{words}: {len(lengths):,}, median {np.median(lengths):,.0f} steps"


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
