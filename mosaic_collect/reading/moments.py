"""Mean, variance and extremes per feature, over rows that are added in parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.store.counts import all_finite

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


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
        zero = np.zeros(dim, np.int64)
        return cls(
            count=zero,
            nan=zero,
            inf=zero,
            mean=np.zeros(dim),
            m2=np.zeros(dim),
            low=np.full(dim, np.inf),
            high=np.full(dim, -np.inf),
        )

    @classmethod
    def of(cls, rows: NDArray[Any]) -> Moments:
        """Moments of rows ``(M, D)``."""
        if not len(rows):
            return cls.nothing(rows.shape[1])
        values = rows.astype(np.float64)
        if all_finite(values):
            return cls._of_finite(values)
        return cls._of_some(values)

    @classmethod
    def _of_finite(cls, values: Floats) -> Moments:
        zero = np.zeros(values.shape[1], np.int64)
        low, high, mean = values.min(axis=0), values.max(axis=0), values.mean(axis=0)
        values -= mean
        with np.errstate(over="ignore"):
            m2 = np.einsum("ij,ij->j", values, values)
        count = zero + len(values)
        return cls(count=count, nan=zero, inf=zero, mean=mean, m2=m2, low=low, high=high)

    @classmethod
    def _of_some(cls, values: Floats) -> Moments:
        """Moments of the finite values; the others are counted."""
        finite, nan = np.isfinite(values), np.isnan(values)
        count = finite.sum(axis=0)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = np.where(finite, values, 0).sum(axis=0) / np.maximum(count, 1)
            apart = np.where(finite, values - mean, 0)
            m2 = np.einsum("ij,ij->j", apart, apart)
        return cls(
            count=count,
            nan=nan.sum(axis=0),
            inf=len(values) - count - nan.sum(axis=0),
            mean=mean,
            m2=m2,
            low=np.where(finite, values, np.inf).min(axis=0),
            high=np.where(finite, values, -np.inf).max(axis=0),
        )

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
