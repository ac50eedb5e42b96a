"""Statistics of a store's fields: as values, as JSON, and as text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.reading.moments import Floats, Ints, Moments
from mosaic_collect.reading.table import Cell
from mosaic_collect.reading.terms import Term
from mosaic_collect.store.schema import FLOATS
from mosaic_collect.text import table

ACTIONS, MEAN, SIGMA = ("actions", "action"), "action_mean", "action_sigma"
_MOST_NAMES, _MOST_RANGES = 8, 16
HEAD = ("field or term", "dim", "mean", "std", "min", "1 %", "median", "99 %", "max", "NaN/inf")
_MOST_BINS, _MOST_ENVS, _MOST_FEATURES = 32, 1 << 16, 8192
_MOST_SUMS = 4_000_000  # numbers of one field that are summed per environment
Mask = NDArray[np.bool_]
QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)


def short_labels(names: Sequence[str]) -> list[str]:
    """Names of columns without their term, such as ``left_knee`` or ``3``."""
    return [_inside(name).removesuffix("_joint") for name in names]


def _inside(name: str) -> str:
    """The column without its term, such as ``left_knee_joint`` or ``3``."""
    return name[name.find("[") + 1 :].partition("]")[0]


@dataclass(kw_only=True, eq=False)
class FieldStatistics:
    """One field over the valid pairs that were read; D is 1 for a field without a width.

    Attributes:
        name: Name of the field.
        dtype: Type of the values.
        shape: Shape of one row, ``(D,)`` or ``()``.
        terms: Its observation terms, where the store names them.
        names: Names of its columns, such as ``joint_pos[left_knee_joint]``.
        moments: Moments per feature.
        sample: A uniform sample of rows, ``(at most 10,000, D)``, the same pairs of each field.
        stride: Stride of the features that are summed per environment; 0: the field is not
            measured over time and per environment, and the attributes below are missing.
        bin_counts: Finite values per bin of steps, ``(bins, D)``.
        bin_sums: Their sums.
        env_rows: Rows that were summed per environment, ``(N,)``.
        env_sums: Their sums, ``(N, features)``.
        low_block: Block that holds the least value, ``(D,)``.
        high_block: Block that holds the greatest value.
        odd_block: First block that holds NaN or infinity; -1: none.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    terms: tuple[Term, ...]
    names: tuple[str, ...]
    moments: Moments
    sample: NDArray[Any]
    stride: int = field(default=0, init=False)

    def measure_over_time(self, bins: int, num_envs: int) -> None:
        """Begin to measure over time and per environment."""
        dim = len(self.names)
        self.stride = max(1, -(-num_envs * dim // _MOST_SUMS))
        self.bin_counts, self.bin_sums = np.zeros((bins, dim), np.int64), np.zeros((bins, dim))
        self.env_rows = np.zeros(num_envs, np.int64)
        self.env_sums = np.zeros((num_envs, -(-dim // self.stride)))
        self.low_block, self.high_block, self.odd_block = np.full((3, dim), -1, np.int64)

    def __repr__(self) -> str:
        low, high = self.moments.low.min(), self.moments.high.max()
        odd = f", {dead} always 0" if (dead := int(self.dead.sum())) else ""
        shape = "x".join(map(str, self.shape)) or "one value"
        return f"<FieldStatistics {self.name}: {shape} {self.dtype}, {low:.4g} to {high:.4g}{odd}>"

    @cached_property
    def mean(self) -> Floats:
        """Of the finite values, ``(D,)``; NaN of none."""
        return np.where(self.moments.count > 0, self.moments.mean, np.nan)

    @cached_property
    def std(self) -> Floats:
        """Of the finite values, ``(D,)``; NaN of none."""
        return np.where(self.moments.count > 0, np.sqrt(self.moments.var), np.nan)

    @property
    def constant(self) -> Mask:
        """Features of which all values are one and the same, ``(D,)``."""
        return np.asarray((self.moments.count > 1) & (self.moments.low == self.moments.high))

    @property
    def dead(self) -> Mask:
        """Features that are always 0, ``(D,)``."""
        return np.asarray(self.constant & (self.moments.low == 0))

    @property
    def fixed(self) -> Mask:
        """Features that always have one value other than 0, ``(D,)``."""
        return self.constant & ~self.dead

    @property
    def may_vary(self) -> bool:
        """Whether a field that never changes is odd: one whole number may well stay as it is."""
        return self.shape != () or self.dtype in FLOATS

    def quantiles(self, at: Sequence[float] = QUANTILES) -> Floats:
        """Quantiles of the sample's finite values, ``(len(at), D)``; NaN where there are none."""
        values = self.sample.astype(np.float64)
        if not len(values):
            return np.full((len(at), values.shape[1]), np.nan)
        finite = np.isfinite(values)
        if finite.all():
            return np.quantile(values, at, axis=0)
        # What is not finite is sorted to the end, behind each column's last rank.
        ordered = np.sort(np.where(finite, values, np.nan), axis=0)
        ranks = np.asarray(at)[:, None] * np.maximum(finite.sum(axis=0) - 1, 0)
        lower = ranks.astype(np.int64)
        below, above = (
            np.take_along_axis(ordered, k, 0) for k in (lower, np.ceil(ranks).astype(np.int64))
        )
        return np.asarray(below + (above - below) * (ranks - lower))

    @property
    def bin_means(self) -> Floats:
        """Means over time, ``(bins, D)``; NaN where there are no values."""
        counts = self.bin_counts
        return np.where(counts > 0, self.bin_sums / np.maximum(counts, 1), np.nan)

    @property
    def env_means(self) -> Floats:
        """Means per environment, ``(N, features)``; NaN where there are no rows."""
        rows = self.env_rows[:, None]
        return np.where(rows > 0, self.env_sums / np.maximum(rows, 1), np.nan)

    def far_environments(self) -> tuple[Floats, Floats, Floats]:
        """How far the mean of each environment lies from the median environment's.

        Returns:
            Distances in spans of the middle half of the environments, ``(N, features)``; half the
            span of 68 % of all values, and the median environment's means, ``(features,)`` each.
        """
        means = self.env_means
        quartiles, there = np.full((3, means.shape[1]), np.nan), np.isfinite(means).any(axis=0)
        quartiles[:, there] = np.nanquantile(means[:, there], (0.25, 0.5, 0.75), axis=0)
        q25, q50, q75 = quartiles
        spread = np.diff(self.quantiles((0.16, 0.84)), axis=0)[0, :: self.stride] / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.abs(means - q50) / (q75 - q25), spread, q50

    @cached_property
    def saturation(self) -> Floats:
        """Share of the sample that is exactly the least or the greatest value, ``(D,)``.

        A least or greatest value of 0 counts in actions alone: others may be off, or positive.
        """
        edges, is_action = (self.moments.low, self.moments.high), self.name.startswith("action")
        shares = [np.where((e != 0) | is_action, self.sample == e, False) for e in edges]
        found = np.sum(shares, axis=(0, 1)) / max(len(self.sample), 1)
        return np.asarray(np.where(self.constant, 0, found))

    def columns_of(self, words: Collection[str]) -> Mask:
        """Columns of terms, or else of a field, whose names contain one of some words, ``(D,)``."""
        where = np.zeros(len(self.mean), np.bool_)
        for term in self.terms or (Term(name=self.name, dim=len(where)),):
            where[term.columns] = any(word in term.name.lower() for word in words)
        return where

    def add(
        self,
        cell: Cell,
        at: int,
        m: Moments,
        sample: tuple[Ints, NDArray[Any]],
        of_envs: tuple[Ints, Floats] | None,
    ) -> None:
        """Add a cell of a block that begins in the bin ``at``.

        It has places in the sample and rows for them; and per environment the number of rows that
        were summed, and their sums.
        """
        before, self.moments = self.moments, self.moments + m
        slots, rows = sample
        self.sample[slots] = rows
        if of_envs is None:
            return
        with np.errstate(over="ignore", invalid="ignore"):
            self.bin_counts[at] += m.count
            self.bin_sums[at] += m.mean * m.count
        self.env_rows[cell.at[1]] += of_envs[0]
        self.env_sums[cell.at[1]] += of_envs[1]
        self.low_block[m.low < before.low] = cell.block
        self.high_block[m.high > before.high] = cell.block
        self.odd_block[(self.odd_block < 0) & (m.nan + m.inf > 0)] = cell.block

    def labels(self, columns: slice = slice(None)) -> list[str]:
        """Short names of columns, such as ``left_knee`` or ``3``."""
        return short_labels(self.names[columns])

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
        floats = {"mean": self.mean, "std": self.std, "min": m.low, "max": m.high}
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


FAR = 8  # spans of the middle half from which an environment is far from the others


@dataclass(kw_only=True, eq=False)
class StoreStatistics:
    """What was measured of a store.

    Over time it is measured in at most 32 bins of equal numbers of steps. Values of fields are
    counted in the bin in which their block begins.

    Attributes:
        path: The store.
        num_steps: Its steps then.
        num_envs: Its environments.
        num_valid: Its valid pairs then.
        fields: Statistics per field.
        seconds: Duration of the measurement.
        width: Steps of a bin.
        edges: First steps of the bins, and T, ``(bins + 1,)``.
        read: Pairs that were read, ``(bins, N)``.
        valid: Valid pairs among them.
        watched: Field whose rows are compared with those before them; None: there is none.
        same: Valid rows of that field that equal the valid row before them, ``(bins, N)``.
        compared: Valid rows that follow a valid one.
    """

    path: str
    num_steps: int
    num_envs: int
    num_valid: int
    fields: dict[str, FieldStatistics]
    seconds: float = 0.0
    watched: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        most = _MOST_BINS if self.num_envs <= _MOST_ENVS else 1
        self.width = max(1, -(-self.num_steps // most))
        self.edges = np.append(np.arange(0, self.num_steps, self.width), self.num_steps)
        counts = np.zeros((4, len(self.edges) - 1, self.num_envs), np.int64)
        self.read, self.valid, self.same, self.compared = counts

    def measure_over_time(self) -> None:
        """Begin to measure fields of numbers that may vary and are no images over time, too."""
        vectors = [f for f in self.fields.values() if f.dtype in FLOATS and len(f.shape) <= 1]
        used = [f for f in vectors if len(f.names) <= _MOST_FEATURES]
        for one in used:
            one.measure_over_time(len(self.edges) - 1, self.num_envs)
        self.watched = max(used, key=lambda f: len(f.names)).name if used else None

    def count(self, cell: Cell, first_step: int, **counts: Ints) -> None:
        """Add counts of each environment of a cell, ``(envs, bins)``, to attributes."""
        at = first_step // self.width
        for name, more in counts.items():
            getattr(self, name)[at : at + more.shape[1], cell.at[1]] += more.T

    @property
    def num_read(self) -> int:
        """Valid pairs that were read; fewer if not all were asked for."""
        return int(self.valid.sum())

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
        names = ("num_steps", "num_envs", "num_valid", "num_read", "seconds")
        return {
            "store": self.path,
            **{name: getattr(self, name) for name in names},
            "quantiles": list(QUANTILES),
            "quantile_rows": self.sample_rows,
            "quantile_rank_error": self.rank_error,
            "fields": {name: f.to_json() for name, f in self.fields.items()},
            "rsl_rl_normalizer": {n: self.fields[n].normalizer() for n in observations},
        }


def _plain(values: Floats) -> list[float | None]:
    return [v if math.isfinite(v) else None for v in values.tolist()]


def rank_error(rows: int, all_rows: int) -> float:
    """Greatest error of a quantile's rank, 99 times of 100, as a share; 0 if all rows are there."""
    if rows >= all_rows:
        return 0.0
    return math.sqrt(math.log(2 / 0.01) / (2 * max(rows, 1)))


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
    for what, where in (
        ("always 0", field.may_vary & field.dead),
        ("constant", field.may_vary & field.fixed),
        ("hold NaN", m.nan > 0),
        ("hold infinity", m.inf > 0),
    ):
        if where.any():
            yield f"{field.name}: {feature_words(field, where, what)}"


def feature_words(field: FieldStatistics, where: Mask, what: str) -> str:
    """Features and what they are, such as ``always 0: joint_pos[3, 5-8]``."""
    if where.all() and len(where) > 1:
        return f"all {len(where)} features {what}"
    names = list(_names(field, where)) if field.shape else []
    more = len(names) - _MOST_NAMES
    words = ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
    return what + (f": {words}" if words else "")


def _names(field: FieldStatistics, where: Mask) -> Iterator[str]:
    """Names of chosen columns, such as ``joint_pos[3, 5-8]``, once for all frames of a history."""
    for term in field.terms or (Term(name="", dim=len(where)),):
        labels = list(map(_inside, field.names[term.newest]))
        chosen = where[term.columns].reshape(term.frames, term.dim)
        whole = np.logical_and.reduce(chosen, axis=0)
        parts = [(whole, " in all frames" if term.frames > 1 else "")]
        parts += [(c & ~whole, f" in frame {i - term.frames}") for i, c in enumerate(chosen, 1)]
        for columns, frames in parts:
            if columns.any():
                at = np.flatnonzero(columns)
                picked = [labels[i] for i in at]
                numbered = all(label.isdigit() for label in picked)
                inner = number_ranges(at) if numbered else ", ".join(picked)
                yield f"{term.name}[{inner}]{frames}"


def number_ranges(numbers: Sequence[int] | Ints) -> str:
    """Ascending numbers such as ``3, 5-8``: at most so many ranges, from the first on."""
    parts = np.split(np.asarray(numbers), np.flatnonzero(np.diff(numbers) != 1) + 1)
    spans = [(int(part[0]), int(part[-1])) for part in parts]
    words = [f"{a}" if a == b else f"{a}-{b}" for a, b in spans[:_MOST_RANGES]]
    more = sum(b - a + 1 for a, b in spans[_MOST_RANGES:])
    return ", ".join(words) + (f" and {more} more" if more else "")


def term_rows(field: FieldStatistics) -> Iterator[list[str]]:
    """Cells under ``HEAD`` of the field, then of each of its terms, whose names are set in."""
    names = [field.name]
    names += [f"  {t.name}{f' x {t.frames} frames' * (t.frames > 1)}" for t in field.terms]
    columns = [slice(0, len(field.names)), *(term.columns for term in field.terms)]
    return value_rows(field, names, columns)


def value_rows(
    field: FieldStatistics, names: Iterable[str], parts: Iterable[slice]
) -> Iterator[list[str]]:
    """Cells under ``HEAD`` of parts of a field's columns.

    Of several columns: the mean mean, the root mean variance, and the outermost of the rest.
    """
    m, quantiles = field.moments, field.quantiles((0.01, 0.5, 0.99))
    for name, columns in zip(names, parts, strict=True):
        some, q = m.count[columns] > 0, quantiles[:, columns]
        dim, bad = str(len(some)), int((m.nan + m.inf)[columns].sum())
        if not some.any():
            yield [name, dim, *["-"] * 7, f"{bad:,}"]
            continue
        edges: tuple[Any, ...] = (np.nanmin, np.nanmedian, np.nanmax)
        numbers = [
            m.mean[columns][some].mean(),
            np.sqrt(np.mean(m.var[columns][some])),
            m.low[columns][some].min(),
            *(e(v) if np.isfinite(v).any() else np.nan for e, v in zip(edges, q, strict=True)),
            m.high[columns][some].max(),
        ]
        yield [name, dim, *(f"{v:.4g}" for v in numbers), f"{bad:,}" if bad else ""]
