"""Statistics as text for a terminal: a line a field, or a term, and what is odd about features."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.reading.terms import Term
from mosaic_collect.stats.measures import FieldStatistics, StoreStatistics
from mosaic_collect.store.schema import FLOATS
from mosaic_collect.text import table

_MOST_NAMES, _MOST_RANGES = 8, 16
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
    varies = field.shape != () or field.dtype in FLOATS  # one whole number may well stay as it is
    constant = varies & field.constant & ~field.dead
    for what, where in (
        ("always 0", varies & field.dead),
        ("constant", constant),
        ("hold NaN", m.nan > 0),
        ("hold infinity", m.inf > 0),
    ):
        if where.all() and len(where) > 1:
            yield f"{field.name}: all {len(where)} features {what}"
        elif where.any():
            names = list(_names(field, where)) if field.shape else []
            more = len(names) - _MOST_NAMES
            told = ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
            yield f"{field.name}: {what}" + (f": {told}" if told else "")


def _names(field: FieldStatistics, where: NDArray[np.bool_]) -> Iterator[str]:
    """Of chosen columns: ``joint_pos[3, 5-8]``, where the term is known, once if in all frames."""
    if not field.terms:
        yield f"[{_ranges(where)}]"
    for term in field.terms:
        chosen = where[term.columns].reshape(term.frames, term.dim)
        whole = np.logical_and.reduce(chosen, axis=0)
        if whole.any():
            many = " in all frames" if term.frames > 1 else ""
            yield f"{term.name}[{_ranges(whole)}]{many}"
        for frame, rest in enumerate(chosen & ~whole):
            if rest.any():
                yield f"{term.name}[{_ranges(rest)}] in frame {frame + 1 - term.frames}"


def _ranges(where: NDArray[np.bool_]) -> str:
    """Such as ``3, 5-8``: at most so many, from the first on."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], where, [False]]).astype(np.int8)))
    spans = [(int(a), int(b) - 1) for a, b in edges.reshape(-1, 2)]
    parts = [f"{a}" if a == b else f"{a}-{b}" for a, b in spans[:_MOST_RANGES]]
    more = sum(b - a + 1 for a, b in spans[_MOST_RANGES:])
    return ", ".join(parts) + (f" and {more} more" if more else "")


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
