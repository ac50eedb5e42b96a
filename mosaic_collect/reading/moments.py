"""Mean, variance and extremes per feature, over rows that are added in parts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.passes.engine import Engine
from mosaic_collect.reading.selection import Selection
from mosaic_collect.reading.table import Cell, Table

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_PART_NBYTES = 4 << 20  # of rows as float64
_WIDE = 512  # numbers of a row from which NumPy's sums over rows are fast


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """Moments of rows, one number per feature, all ``(D,)``. Integers beyond 2^53 are rounded.

    Attributes:
        count: Number of finite values.
        nan: Number of NaN values.
        inf: Number of infinite values.
        mean: Mean of the finite values; 0 without any.
        m2: Sum of squared distances of the finite values from their mean.
        low: Least finite value; inf without any.
        high: Greatest finite value; -inf without any.
    """

    count: Ints
    nan: Ints
    inf: Ints
    mean: Floats
    m2: Floats
    low: Floats
    high: Floats

    @classmethod
    def nothing(cls, dim: int) -> Moments:
        """Moments of no rows."""
        zero, nowhere = np.zeros(dim, np.int64), np.full(dim, np.inf)
        floats = {"mean": np.zeros(dim), "m2": np.zeros(dim), "low": nowhere, "high": -nowhere}
        return cls(count=zero, nan=zero, inf=zero, **floats)

    @classmethod
    def of(cls, rows: NDArray[Any], chosen: NDArray[np.bool_] | None = None) -> Moments:
        """Moments of rows, in bounded memory beside them.

        Args:
            rows: Shape ``(..., D)``.
            chosen: Mask of the rows that count, of shape ``(...)``; None: all.
        """
        dim = rows.shape[-1]
        rows = rows.reshape(-1, dim) if chosen is None or chosen.all() else rows[chosen]
        size = max(1, _PART_NBYTES // (8 * max(dim, 1)))
        size -= size % _WIDE if size > _WIDE else 0
        parts = (cls._of_part(rows[at : at + size]) for at in range(0, len(rows), size))
        return reduce(cls.__add__, parts) if len(rows) else cls.nothing(dim)

    @classmethod
    def _of_part(cls, rows: NDArray[Any]) -> Moments:
        """Moments of at least one row; narrow rows are taken several at a time."""
        count, dim = rows.shape
        times = math.gcd(count, 1 << max(0, (_WIDE // max(dim, 1)).bit_length() - 1))
        values = rows.reshape(count // times, times * dim)
        with np.errstate(invalid="ignore"):
            low, high = (
                edge(edge(values, axis=0).reshape(times, dim).astype(np.float64), axis=0)
                for edge in (np.min, np.max)
            )
        if not (np.isfinite(low).all() and np.isfinite(high).all()):  # NaN hides the others
            return cls._of_some(rows.astype(np.float64))
        values = values.astype(np.float64)
        mean = np.einsum("ij->j", values).reshape(times, dim).sum(axis=0) / count
        values -= np.tile(mean, times)
        with np.errstate(over="ignore"):
            m2 = np.einsum("ij,ij->j", values, values).reshape(times, dim).sum(axis=0)
        zero = np.zeros(dim, np.int64)
        return cls(count=zero + count, nan=zero, inf=zero, mean=mean, m2=m2, low=low, high=high)

    @classmethod
    def _of_some(cls, values: Floats) -> Moments:
        """Moments of the finite values; the others are counted."""
        finite, nan = np.isfinite(values), np.isnan(values).sum(axis=0)
        count = finite.sum(axis=0)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = np.where(finite, values, 0).sum(axis=0) / np.maximum(count, 1)
            apart = np.where(finite, values - mean, 0)
            m2 = np.einsum("ij,ij->j", apart, apart)
        low = np.where(finite, values, np.inf).min(axis=0)
        high = np.where(finite, values, -np.inf).max(axis=0)
        inf = len(values) - count - nan
        return cls(count=count, nan=nan, inf=inf, mean=mean, m2=m2, low=low, high=high)

    def __add__(self, other: Moments) -> Moments:
        """Moments of the rows of both (Chan, Golub and LeVeque 1979)."""
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        with np.errstate(over="ignore", invalid="ignore"):
            apart = other.mean - self.mean
            m2 = self.m2 + other.m2 + apart**2 * self.count * share
            mean = self.mean + apart * share
        return Moments(
            count=count,
            nan=self.nan + other.nan,
            inf=self.inf + other.inf,
            mean=mean,
            m2=m2,
            low=np.minimum(self.low, other.low),
            high=np.maximum(self.high, other.high),
        )

    @property
    def var(self) -> Floats:
        """Variance of the finite values, divided by their number, as in rsl_rl's normaliser."""
        return np.asarray(self.m2 / np.maximum(self.count, 1))


def chosen_moments(
    table: Table, selection: Selection, names: list[str], threads: int | None = None
) -> dict[str, Moments]:
    """Moments of fields over the chosen pairs of stores: each chunk with such a pair is read once.

    Raises:
        CorruptStoreError: A damaged chunk that holds a chosen pair.
    """
    found = {name: Moments.nothing(table.state.schema[name].width) for name in names}
    blocks = range(table.state.num_blocks)
    for name in names:
        cells = [cell for block in blocks for cell in selection.cells_of(block, name)]
        for part in Engine(threads).map(partial(_of_cell, table, selection, name), cells):
            found[name] += part
    return found


def _of_cell(table: Table, selection: Selection, name: str, cell: Cell) -> Moments:
    mask, width = selection.mask(cell), table.state.schema[name].width
    if not mask.any():
        return Moments.nothing(width)
    return Moments.of(table.read_cell(name, cell).reshape(*cell.shape, width), mask)
