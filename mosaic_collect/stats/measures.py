"""What was measured of a store's fields, and its form for files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.reading.moments import Moments
from mosaic_collect.reading.terms import Term
from mosaic_collect.stats.sample import rank_error

QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)


@dataclass(frozen=True, kw_only=True, eq=False)
class FieldStatistics:
    """One field over the valid pairs that were read; D is 1 for a field without a width.

    Attributes:
        name: The field's.
        dtype: Of its values.
        shape: Of one row, ``(D,)`` or ``()``.
        terms: Its observation terms, where the store tells them.
        moments: A number a feature.
        sample: A uniform sample of rows, ``(at most 10,000, D)``, the same pairs of each field.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    terms: tuple[Term, ...]
    moments: Moments = field(repr=False)
    sample: NDArray[Any] = field(repr=False)

    @cached_property
    def mean(self) -> NDArray[np.float64]:
        """Of the finite values, ``(D,)``; NaN of none."""
        return np.where(self.moments.count > 0, self.moments.mean, np.nan)

    @cached_property
    def std(self) -> NDArray[np.float64]:
        """Of the finite values, ``(D,)``; NaN of none."""
        return np.where(self.moments.count > 0, np.sqrt(self.moments.var), np.nan)

    @property
    def constant(self) -> NDArray[np.bool_]:
        """Features of which all values are one and the same, ``(D,)``."""
        return np.asarray((self.moments.count > 1) & (self.moments.low == self.moments.high))

    @property
    def dead(self) -> NDArray[np.bool_]:
        """Features that are always 0, ``(D,)``."""
        return np.asarray(self.constant & (self.moments.low == 0))

    def quantiles(self, at: Sequence[float] = QUANTILES) -> NDArray[np.float64]:
        """Quantiles of the sample's finite values, ``(len(at), D)``; NaN where there are none."""
        values = self.sample.astype(np.float64)
        finite = np.isfinite(values)
        if finite.all() and len(values):
            return np.quantile(values, at, axis=0)
        if not len(values):
            return np.full((len(at), values.shape[1]), np.nan)
        # What is not finite is sorted to the end, behind each column's last rank.
        ordered = np.sort(np.where(finite, values, np.nan), axis=0)
        ranks = np.asarray(at)[:, None] * np.maximum(finite.sum(axis=0) - 1, 0)
        lower = ranks.astype(np.int64)
        below, above = (
            np.take_along_axis(ordered, k, 0) for k in (lower, np.ceil(ranks).astype(np.int64))
        )
        return np.asarray(below + (above - below) * (ranks - lower))

    def feature(self, column: int) -> str:
        """What a column is called: by its term where that is known."""
        for term in self.terms:
            if term.start <= column < term.stop:
                frame, inside = divmod(column - term.start, term.dim)
                back = f", frame {frame + 1 - term.frames}" if term.frames > 1 else ""
                return f"{self.name}[{column}] ({term.name}[{inside}]{back})"
        return f"{self.name}[{column}]" if self.shape else self.name

    def normalizer(self) -> dict[str, Any]:
        """The state of rsl_rl's ``EmpiricalNormalization``, as lists; make tensors of them.

        ``load_state_dict({k: torch.tensor(v) for k, v in normalizer.items()})`` takes it.
        """
        var = self.moments.var
        rows = {"_mean": self.moments.mean, "_var": var, "_std": np.sqrt(var)}
        count = int(self.moments.count.min())
        return {**{k: [_plain(v)] for k, v in rows.items()}, "count": count}

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not finite is None."""
        m = self.moments
        whole = {"count": m.count.tolist(), "nan": m.nan.tolist(), "inf": m.inf.tolist()}
        none = m.count == 0
        floats = {
            "mean": self.mean,
            "std": self.std,
            "min": np.where(none, np.nan, m.low),
            "max": np.where(none, np.nan, m.high),
        }
        return {
            "dtype": self.dtype,
            "shape": list(self.shape),
            "terms": [{"name": t.name, "dim": t.dim, "frames": t.frames} for t in self.terms],
            **whole,
            **{name: _plain(values) for name, values in floats.items()},
            "quantiles": [_plain(row) for row in self.quantiles()],
            "constant": np.flatnonzero(self.constant).tolist(),
            "dead": np.flatnonzero(self.dead).tolist(),
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class StoreStatistics:
    """What was measured of a store.

    Attributes:
        path: The store.
        num_steps: Its steps then.
        num_envs: Its environments.
        num_valid: Its valid pairs then.
        num_read: Valid pairs that were read; fewer if not all were asked for.
        seconds: It took.
        fields: What was found, by names.
    """

    path: str
    num_steps: int
    num_envs: int
    num_valid: int
    num_read: int
    seconds: float
    fields: dict[str, FieldStatistics]

    @property
    def sample_rows(self) -> int:
        """Rows of which the quantiles are."""
        return max((len(f.sample) for f in self.fields.values()), default=0)

    @property
    def rank_error(self) -> float:
        """By how much a quantile's rank may be off among the pairs read, 99 times of 100."""
        return rank_error(self.sample_rows, self.num_read)

    def to_json(self) -> dict[str, Any]:
        """As the file beside a store has it."""
        observations = [n for n in self.fields if n.endswith("observations")]
        return {
            "store": self.path,
            "num_steps": self.num_steps,
            "num_envs": self.num_envs,
            "num_valid": self.num_valid,
            "num_read": self.num_read,
            "seconds": self.seconds,
            "quantiles": list(QUANTILES),
            "quantile_rows": self.sample_rows,
            "quantile_rank_error": self.rank_error,
            "fields": {name: f.to_json() for name, f in self.fields.items()},
            "rsl_rl_normalizer": {n: self.fields[n].normalizer() for n in observations},
        }


def _plain(values: NDArray[np.float64]) -> list[float | None]:
    return [v if math.isfinite(v) else None for v in values.tolist()]
