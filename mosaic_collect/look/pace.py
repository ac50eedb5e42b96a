"""How fast a store grew, as its collection told it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import is_whole, whole

PACE = "pace"  # the metadata entry of a collection
_PARTS = 4  # run, UTC seconds, steps, seconds stalled in the run

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Told:
    """Spans between two entries of one run, all ``(spans,)``.

    Attributes:
        begin: Seconds since the first entry of all.
        end: Of the span.
        steps: Made in it.
        stalled: Share of it in which the writer waited for the disk.
        run: Which run, from 0.
        max_steps: Steps the store is to have; None: not told, or without end.
    """

    begin: Floats
    end: Floats
    steps: Floats
    stalled: Floats
    run: NDArray[np.int64]
    max_steps: int | None

    @property
    def rates(self) -> Floats:
        """Steps a second."""
        return self.steps / np.maximum(self.end - self.begin, 1e-9)

    @property
    def stalled_share(self) -> float:
        """Of the whole time that is told of."""
        seconds = self.end - self.begin
        return float((self.stalled * seconds).sum() / max(seconds.sum(), 1e-9))


def told_pace(metadata: Mapping[str, Any]) -> Told | None:
    """What a store tells of its pace; None if nothing, or nothing that makes sense."""
    told = metadata.get(PACE)
    if not isinstance(told, Mapping):
        return None
    try:
        rows = np.array(told.get("entries"), np.float64)
    except (TypeError, ValueError):
        return None
    if rows.ndim != 2 or rows.shape[1] != _PARTS or len(rows) < 2:
        return None
    most = told.get("max_steps")
    before, after = rows[:-1], rows[1:]
    one = (before[:, 0] == after[:, 0]) & (after[:, 1] > before[:, 1])
    before, after = before[one], after[one]
    seconds = after[:, 1] - before[:, 1]
    return Told(
        begin=before[:, 1] - rows[0, 1],
        end=after[:, 1] - rows[0, 1],
        steps=after[:, 2] - before[:, 2],
        stalled=np.clip((after[:, 3] - before[:, 3]) / seconds, 0, 1),
        run=after[:, 0].astype(np.int64),
        max_steps=whole(most, "max_steps", 1) if is_whole(most, 1) else None,
    )
