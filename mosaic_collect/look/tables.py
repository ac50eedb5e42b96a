"""The tables of a report, as rows of cells."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.table import Trajectories, motion_names
from mosaic_collect.reading.tracing import ENDS
from mosaic_collect.stats.measures import FieldStatistics, StoreStatistics
from mosaic_collect.text import shown

END_HEAD = ("end", "trajectories", "shortest", "25 %", "median", "75 %", "longest", "valid pairs")
MOTION_HEAD = ("motion", "trajectories", "failed", "median steps", "valid pairs")
FEATURE_HEAD = ("feature", "mean", "std", "min", "1 %", "median", "99 %", "max", "NaN/inf")
MOST_MOTIONS, MOST_FEATURES = 200, 2000


def end_rows(table: Trajectories) -> list[list[str]]:
    """Under ``END_HEAD``, those ends that there are."""
    columns, rows = table.columns, []
    for end in ENDS:
        where = columns["end"] == end
        if where.any():
            lengths = columns["num_steps"][where]
            cells = [len(lengths), *np.quantile(lengths, (0, 0.25, 0.5, 0.75, 1))]
            cells.append(columns["num_valid"][where].sum())
            rows.append([END_WORDS[end], *(f"{v:,.0f}" for v in cells)])
    return rows


def motion_rows(dataset: TrajectoryDataset, table: Trajectories) -> list[list[str]]:
    """Under ``MOTION_HEAD``, those with the greatest share of failures first."""
    columns, names = table.columns, motion_names(dataset.metadata)
    if "motion" not in columns:
        return []
    found = []
    for motion in np.unique(columns["motion"]).tolist():
        where = columns["motion"] == motion
        failed = int((columns["end"][where] == "failed").sum())
        count, steps = int(where.sum()), np.median(columns["num_steps"][where])
        name = names[motion] if 0 <= motion < len(names) else ""
        cells = [f"{count:,}", f"{failed:,}", f"{steps:,.0f}"]
        cells.append(f"{columns['num_valid'][where].sum():,}")
        found.append((-failed / count, motion, [f"{motion} {shown(name)}".strip(), *cells]))
    return [row for _share, _motion, row in sorted(found)]


def feature_rows(statistics: StoreStatistics) -> list[list[str]]:
    """Rows under ``FEATURE_HEAD`` for the first ``MOST_FEATURES`` features of fields with axes."""
    fields = [f for f in statistics.fields.values() if f.shape]
    return list(islice((row for field in fields for row in _features(field)), MOST_FEATURES))


def num_features(statistics: StoreStatistics) -> int:
    """Number of features of all fields with axes."""
    return sum(len(f.mean) for f in statistics.fields.values() if f.shape)


END_WORDS = {
    "ended": "ended",
    "failed": "failed",
    "unsaid": "ended, how is not said",
    "truncated": "without an end",
    "open": "going on",
}


def _features(field: FieldStatistics) -> Iterator[list[str]]:
    m, (q1, q50, q99) = field.moments, field.quantiles((0.01, 0.5, 0.99))
    columns = (field.mean, field.std, m.low, q1, q50, q99, m.high)
    for i in range(len(field.mean)):
        cells = [f"{v[i]:.4g}" for v in columns] if m.count[i] else ["–"] * 7
        bad = int(m.nan[i] + m.inf[i])
        yield [field.feature(i), *cells, f"{bad:,}" if bad else ""]
