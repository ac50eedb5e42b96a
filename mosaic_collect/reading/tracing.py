"""Which trajectories there are: one pass over ids, mask and ends, block by block.

An id belongs to one environment, and its rows lie one behind the other:

    step             0   1   2 | 3   4   5 | 6 ...      blocks of three steps
    env 0            0   0   0 | 0   2   2 | 2          two segments of 2 become one trajectory
    env 1            1   1   3 | 3   3   3 | 4

Memory: what is told of each trajectory, 50 bytes, and the three fields of one block.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.reading.numbering import MOTION_ID
from mosaic_collect.store.metadata import COMPLETE, open_envs
from mosaic_collect.store.schema import (
    ENDED,
    FAILED,
    TRAJECTORY_END,
    TRAJECTORY_ID,
    VALID_MASK,
)
from mosaic_collect.store.view import StoreView

#: How a trajectory ended: as it should; by failing; it ended, and the store does not say how; it
#: never ended, because its run stopped; it is going on, in a store that is being written.
ENDS = ("ended", "failed", "unsaid", "truncated", "open")
_ENDED, _FAILED, _UNSAID, _TRUNCATED, _OPEN = range(len(ENDS))

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Traced:
    """Columns of equal length, a number a trajectory.

    Attributes:
        id: Its id.
        env: Its environment.
        first: Its first step.
        last: Its last one.
        valid: Its pairs with a true mask.
        end: Its place in ``ENDS``.
        motion: What the field ``motion_id`` says at its first row; -1 without that field.
    """

    id: Ints
    env: Ints
    first: Ints
    last: Ints
    valid: Ints
    end: Ints
    motion: Ints

    def chosen(self, which: Any) -> Traced:
        """Some of them, by a NumPy index."""
        return Traced(**{f.name: getattr(self, f.name)[which] for f in fields(self)})


def trace(view: StoreView, pool: ThreadPoolExecutor | None = None) -> Traced:
    """All trajectories, by ascending ids.

    Args:
        view: Of the store.
        pool: Decodes chunks side by side.

    Raises:
        CorruptStoreError: A damaged chunk of one of the fields that are read.
    """
    trail = _Trail(view.state.num_envs)
    for block in range(view.state.num_blocks):
        trail.add(*_rows(view, block, pool))
    found = trail.close()
    columns = {name: np.concatenate([part[name] for part in found]) for name in _COLUMNS}
    columns["end"] = _ends(view, columns)
    order = np.argsort(columns["id"], kind="stable")
    return Traced(**{name: values[order] for name, values in columns.items()})


_COLUMNS = ("id", "env", "first", "last", "valid", "end", "motion")
Segments = dict[str, Ints]


def _rows(view: StoreView, block: int, pool: ThreadPoolExecutor | None) -> tuple[Any, ...]:
    """A block's first step, and its ids, mask, ends and motions, env-major ``(N, steps)``."""
    steps, envs = view.state.steps_of(block), range(view.state.num_envs)

    def read(name: str) -> Any:
        if name not in view.grids or view.grids[name].field.dim is not None:
            return None
        return np.ascontiguousarray(view.read(name, steps, envs, pool).T)

    return steps.start, *map(read, (TRAJECTORY_ID, VALID_MASK, TRAJECTORY_END, MOTION_ID))


class _Trail:
    """Joins the segments of blocks; ``_now`` are those that may go on, one an environment."""

    def __init__(self, num_envs: int) -> None:
        self._now: Segments = {}
        nothing = np.empty(0, np.int64)
        self._found: list[Segments] = [dict.fromkeys(_COLUMNS, nothing)]
        self._envs = np.arange(num_envs)

    def add(self, step: int, ids: Any, mask: Any, ends: Any, motions: Any) -> None:
        """Take a block's rows; ``ends`` and ``motions`` may be None."""
        length = ids.shape[1]
        begins = np.ones(ids.shape, np.bool_)
        begins[:, 1:] = ids[:, 1:] != ids[:, :-1]
        starts = np.flatnonzero(begins)
        stops = np.append(starts[1:], ids.size) - 1
        segments = {
            "id": ids.reshape(-1)[starts],
            "env": starts // length,
            "first": step + starts % length,
            "last": step + stops % length,
            "valid": np.add.reduceat(mask.reshape(-1), starts, dtype=np.int64),
            "end": _taken(ends, stops),
            "motion": _taken(motions, starts),
        }
        self._join(segments, np.flatnonzero(starts % length == 0))
        newest = np.append(np.flatnonzero(starts % length == 0)[1:], len(starts)) - 1
        self._now = {name: values[newest] for name, values in segments.items()}
        over = np.ones(len(starts), np.bool_)
        over[newest] = False
        self._found.append({name: values[over] for name, values in segments.items()})

    def close(self) -> list[Segments]:
        """All segments, the last ones included."""
        return [*self._found, self._now] if self._now else self._found

    def _join(self, segments: Segments, heads: Ints) -> None:
        """Lengthen each environment's first segment by what went before, if that goes on."""
        if not self._now:
            return
        goes_on = segments["id"][heads] == self._now["id"]
        at = heads[goes_on]
        segments["first"][at] = self._now["first"][goes_on]
        segments["motion"][at] = self._now["motion"][goes_on]
        segments["valid"][at] += self._now["valid"][goes_on]
        self._found.append({name: values[~goes_on] for name, values in self._now.items()})


def _taken(values: Any, places: Ints) -> Ints:
    if values is None:
        return np.full(len(places), -1, np.int64)
    return np.asarray(values.reshape(-1)[places], np.int64)


def _ends(view: StoreView, columns: Segments) -> Ints:
    """How each ended, out of what its last row says and where its run stopped."""
    state, told = view.state, columns["end"]
    found = np.select([told == ENDED, told == FAILED], [_ENDED, _FAILED], _UNSAID)
    for run, steps in state.spans():
        if steps:
            still = open_envs(run.open_envs, state.num_envs)[columns["env"]]
            stopped = still & (columns["last"] == steps[-1])
            may_go_on = run is state.runs[-1] and state.status != COMPLETE
            found[stopped] = _OPEN if may_go_on else _TRUNCATED
    return np.asarray(found, np.int64)
