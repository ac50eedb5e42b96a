"""Statistics as text for a terminal: a line a field, or a term, and what is odd about features."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.reading.terms import Term
from mosaic_collect.stats.measures import FieldStatistics, StoreStatistics
from mosaic_collect.text import table

_MOST_FEATURES = 8
HEAD = ("field or term", "dim", "mean", "std", "min", "1 %", "median", "99 %", "max", "NaN/inf")


def statistics_text(found: StoreStatistics) -> str:
    """All of it."""
    share = found.num_read / found.num_valid if found.num_valid else 1.0
    read = f"{found.num_read:,} valid pairs" + ("" if share == 1 else f" ({share:.1%} of all)")
    lines = [f"{found.path}: {read}, {found.seconds:.1f} s"]
    lines.append(table(HEAD, [row for f in found.fields.values() for row in term_rows(f)]))
    rows, off = found.sample_rows, found.rank_error
    exact = f"ranks within {off:.1%}" if off else "exact"
    lines.append(f"  quantiles: of {rows:,} pairs drawn uniformly, {exact}")
    lines += [f"  {words}" for f in found.fields.values() for words in oddities(f)]
    return "\n".join(lines)


def oddities(field: FieldStatistics) -> Iterator[str]:
    """In words: features that are dead or constant, and values that are not finite."""
    m = field.moments
    constant = field.constant & ~field.dead
    for what, where in (
        ("always 0", field.dead),
        ("constant", constant),
        ("hold NaN", m.nan > 0),
        ("hold infinity", m.inf > 0),
    ):
        columns = np.flatnonzero(where)
        if len(columns) == len(where) > 1:
            yield f"{field.name}: all {len(where)} features {what}"
        elif len(columns):
            found = list(_names(field, where))
            names = ", ".join(found[:_MOST_FEATURES])
            more = len(found) - _MOST_FEATURES
            yield f"{field.name}: {what}: {names}" + (f" and {more} more" if more > 0 else "")


def _names(field: FieldStatistics, where: NDArray[np.bool_]) -> Iterator[str]:
    """Of chosen columns: ``joint_pos[3]``, where the term is known, once if in all its frames."""
    if not field.terms:
        yield from (f"[{column}]" for column in np.flatnonzero(where))
    for term in field.terms:
        chosen = where[term.columns].reshape(term.frames, term.dim)
        whole = chosen.all(axis=0)
        many = " in all frames" if term.frames > 1 else ""
        yield from (f"{term.name}[{i}]{many}" for i in np.flatnonzero(whole))
        for frame, i in np.argwhere(chosen & ~whole):
            yield f"{term.name}[{i}] in frame {frame + 1 - term.frames}"


def term_rows(field: FieldStatistics) -> Iterator[list[str]]:
    """Cells under ``HEAD`` of the field, then of each of its terms, whose names are set in."""
    quantiles = field.quantiles((0.01, 0.5, 0.99))
    whole = slice(0, len(field.mean))
    yield [field.name, *_cells(field, quantiles, whole)]
    for term in field.terms:
        yield [f"  {_name(term)}", *_cells(field, quantiles, term.columns)]


def _name(term: Term) -> str:
    return term.name if term.frames == 1 else f"{term.name} x {term.frames} frames"


def _cells(field: FieldStatistics, quantiles: np.ndarray, columns: slice) -> list[str]:
    """Of several features: the mean mean, the root mean variance, and the outermost of the rest."""
    m, q = field.moments, quantiles[:, columns]
    some = m.count[columns] > 0
    bad = int((m.nan + m.inf)[columns].sum())
    dim = str(len(some))
    if not some.any():
        return [dim, *["-"] * 7, f"{bad:,}"]
    spread = np.sqrt(np.mean(m.var[columns][some]))
    numbers = [
        m.mean[columns][some].mean(),
        spread,
        m.low[columns][some].min(),
        np.nanmin(q[0]) if np.isfinite(q[0]).any() else np.nan,
        np.nanmedian(q[1]) if np.isfinite(q[1]).any() else np.nan,
        np.nanmax(q[2]) if np.isfinite(q[2]).any() else np.nan,
        m.high[columns][some].max(),
    ]
    return [dim, *(f"{v:.4g}" for v in numbers), f"{bad:,}" if bad else ""]
