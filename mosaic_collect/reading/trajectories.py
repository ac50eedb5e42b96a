"""The trajectories of a store: a table, and each as a mapping of its fields.

One pass over ids, mask and ends finds them, block by block. An id belongs to one environment, and
its rows lie one behind the other:

    step             0   1   2 | 3   4   5 | 6 ...      blocks of three steps
    env 0            0   0   0 | 0   2   2 | 2          two segments of 2 become one trajectory
    env 1            1   1   3 | 3   3   3 | 4

Memory: 50 bytes per trajectory, and the fields that are read, for one block.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal, get_args, overload

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import analysis_by
from mosaic_collect.errors import CorruptStoreError, InputError
from mosaic_collect.reading.lazy import LazyArray
from mosaic_collect.reading.numbering import MOTION_ID
from mosaic_collect.reading.selection import Selection
from mosaic_collect.reading.subset import find_motions
from mosaic_collect.reading.table import Table
from mosaic_collect.store.metadata import COMPLETE
from mosaic_collect.store.schema import (
    ENDED,
    FAILED,
    GOES_ON,
    TERMINATED,
    TRAJECTORY_END,
    TRAJECTORY_ID,
    TRUNCATED,
    VALID_MASK,
    Schema,
)
from mosaic_collect.store.view import StoreView
from mosaic_collect.text import table

#: How a trajectory ended: in a terminal state; by a time-out; in a terminal state that the task
#: counts as a failure; how is not recorded. Or it has no end: the recording stopped before; or it
#: goes on, in a store that is being written. The words are Gymnasium's where it has them.
End = Literal["terminated", "truncated", "failed", "ended", "interrupted", "open"]
ENDS = get_args(End)
#: The ends that are ends.
OVER = ENDS[:4]
_TERMINATED, _TRUNCATED, _FAILED, _ENDED, _INTERRUPTED, _OPEN = range(len(ENDS))
#: Values of ``trajectory_end`` by end; those that are no ends have a code, too.
CODES = dict(zip(ENDS, (TERMINATED, TRUNCATED, FAILED, ENDED, GOES_ON, GOES_ON), strict=True))

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Traced:
    """Columns of equal length, one number per trajectory.

    Attributes:
        id: Trajectory ids.
        env: Environments.
        first: First steps.
        last: Last steps.
        valid: Numbers of pairs with a true mask.
        end: Indices into ``ENDS``.
        motion: Values of ``motion_id`` at the first rows; -1 without that field.
    """

    id: Ints
    env: Ints
    first: Ints
    last: Ints
    valid: Ints
    end: Ints
    motion: Ints

    def chosen(self, which: Any) -> Traced:
        """Select rows by a NumPy index."""
        return Traced(**{name: getattr(self, name)[which] for name in _COLUMNS})


_COLUMNS = tuple(column.name for column in fields(Traced))
Segments = dict[str, Ints]
#: Reads rows of a field, name, steps and envs ascending, as ``(len(steps), len(envs)[, dim])``.
ReadField = Callable[[str, range, range], NDArray[Any]]
_SHOWN = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class Trajectory(Mapping[str, LazyArray]):
    """A mapping from the names of a store's fields to lazy arrays ``(num_steps[, dim])``.

    Attributes:
        id: Trajectory id.
        env: Environment.
        first_step: First step in the store.
        last_step: Last step in the store.
        num_valid: Number of pairs with a true mask.
        end: How the trajectory ended: ``terminated`` (terminal state of the task), ``truncated``
            (time-out, or the end of the motion), ``failed`` (a termination that the task counts as
            a failure), ``ended`` (how is not recorded), ``interrupted`` (the recording stopped
            before the end), ``open`` (the recording goes on).
        motion: Id of the motion; None if the store has no field ``motion_id``.
    """

    id: int
    env: int
    first_step: int
    last_step: int
    num_valid: int
    end: End
    motion: int | None
    schema: Schema = field(repr=False)
    read_field: ReadField = field(repr=False)

    @property
    def num_steps(self) -> int:
        """Number of steps, valid or not."""
        return self.last_step - self.first_step + 1

    @property
    def steps(self) -> range:
        """Steps in the store."""
        return range(self.first_step, self.last_step + 1)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def __getitem__(self, name: str) -> LazyArray:
        """Lazy rows of a field, ``(num_steps[, dim])``.

        Raises:
            InputError: The store has no such field.
        """
        found = self.schema[name]

        def read(steps: range) -> NDArray[Any]:
            at = self.steps[steps.start : steps.stop : steps.step]
            return self.read_field(name, at, range(self.env, self.env + 1))[:, 0]

        return LazyArray((self.num_steps, *found.row_shape), found.dtype, read, axes=1)

    def __contains__(self, name: object) -> bool:
        return any(name == mine for mine in self)

    def __iter__(self) -> Iterator[str]:
        return iter(self.schema.stored_names)

    def __len__(self) -> int:
        return len(self.schema.stored)


class Trajectories(Sequence[Trajectory]):
    """Trajectories by ascending ids; a sequence of ``Trajectory``, and columns of equal length.

    Args:
        traced: Columns of the table.
        schema: Schema of the store.
        read: Function that reads rows of a field.
        metadata: Metadata of the store, which may name motions.
    """

    def __init__(
        self, traced: Traced, schema: Schema, read: ReadField, metadata: Mapping[str, Any]
    ) -> None:
        self._traced, self._schema, self._read, self._told = traced, schema, read, metadata

    @cached_property
    def columns(self) -> dict[str, NDArray[Any]]:
        """Columns by name, in order; ``motion`` only if the store has motion ids."""
        t = self._traced
        columns: dict[str, NDArray[Any]] = {
            "id": t.id,
            "env": t.env,
            "first_step": t.first,
            "last_step": t.last,
            "num_steps": t.last - t.first + 1,
            "num_valid": t.valid,
            "end": np.asarray(ENDS)[t.end],
        }
        has_motions = MOTION_ID in self._schema.stored_names
        return {**columns, "motion": t.motion} if has_motions else columns

    def __len__(self) -> int:
        return len(self._traced.id)

    @overload
    def __getitem__(self, index: int) -> Trajectory: ...
    @overload
    def __getitem__(self, index: slice) -> Trajectories: ...
    def __getitem__(self, index: Any) -> Any:
        """The trajectory at a position of the table, or the trajectories of a slice."""
        if isinstance(index, slice):
            return self._of(index)
        row = {name: values[index].item() for name, values in self.columns.items()}
        del row["num_steps"]
        row.setdefault("motion", None)
        return Trajectory(**row, schema=self._schema, read_field=self._read)

    def __iter__(self) -> Iterator[Trajectory]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        columns, number = self.columns, min(len(self), _SHOWN)
        rows = [[str(values[i]) for values in columns.values()] for i in range(number)]
        more = f"\n  ... {len(self) - number:,} more" if number < len(self) else ""
        return f"<Trajectories: {len(self):,}>\n{table(list(columns), rows, 0)}{more}"

    def by_id(self, number: int) -> Trajectory:
        """Find a trajectory by its id.

        Raises:
            InputError: No trajectory has this id.
        """
        found = np.flatnonzero(self._traced.id == number)
        if not len(found):
            ids = self._traced.id
            have = f"ids {ids[0]}..{ids[-1]}" if len(ids) else "no trajectories"
            raise InputError(f"trajectory {number!r}: there is none; the store has {have}")
        return self[int(found[0])]

    def where(
        self,
        *,
        min_steps: int | None = None,
        max_steps: int | None = None,
        end: End | Collection[End] | None = None,
        motion: int | str | None = None,
        min_valid: int | None = None,
    ) -> Trajectories:
        """Filter trajectories by length, end and motion.

        Args:
            min_steps: Least number of steps.
            max_steps: Greatest number of steps.
            end: One or several of ``terminated`` (which includes ``failed``), ``truncated``,
                ``failed``, ``ended``, ``interrupted``, ``open``.
            motion: Id of a motion, or the name of its file with or without ending.
            min_valid: Least number of pairs with a true mask.

        Raises:
            InputError: The end or the motion does not exist.
        """
        t, length = self._traced, self._traced.last - self._traced.first + 1
        chosen = np.ones(len(self), np.bool_)
        if min_steps is not None:
            chosen &= length >= min_steps
        if max_steps is not None:
            chosen &= length <= max_steps
        if min_valid is not None:
            chosen &= t.valid >= min_valid
        if end is not None:
            chosen &= np.isin(t.end, _ends([end] if isinstance(end, str) else end))
        if motion is not None:
            chosen &= np.isin(t.motion, find_motions(self._schema, self._told, [motion]))
        return self._of(chosen)

    def to_pandas(self) -> Any:
        """The table as a ``pandas.DataFrame``, indexed by trajectory id.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        with analysis_by("pandas"):
            import pandas as pd
        return pd.DataFrame(self.columns).set_index("id")

    def counts(self) -> dict[str, int]:
        """Number of trajectories per end, in the order of ``ENDS``, without zeros."""
        numbers = np.bincount(self._traced.end, minlength=len(ENDS)).tolist()
        return {name: n for name, n in zip(ENDS, numbers, strict=True) if n}

    def _of(self, which: Any) -> Trajectories:
        return Trajectories(self._traced.chosen(which), self._schema, self._read, self._told)


def _ends(names: Collection[str]) -> list[int]:
    unknown = [n for n in names if n not in ENDS]
    if unknown:
        raise InputError(f"end: expected some of {', '.join(ENDS)}, got {unknown[0]!r}")
    failed = ["failed"] if "terminated" in names else []
    return [ENDS.index(name) for name in (*names, *failed)]


def trace(table: Table, pool: Executor | None = None, selection: Selection | None = None) -> Traced:
    """All trajectories of a table, by ascending ids.

    Args:
        table: The stores.
        pool: Decodes chunks side by side; None: one after the other.
        selection: Pairs to count in ``valid``, in place of all valid ones. Trajectories without
            any are left out, and chunks without any may be damaged.

    Raises:
        CorruptStoreError: A chunk of one of the fields that are read is damaged.
    """
    found = [_trace_part(table, at, pool, selection) for at in range(len(table.parts))]
    columns = {name: [getattr(t, name) for t in found] for name in _COLUMNS}
    for at, first in enumerate(table.first_steps):
        columns["first"][at] = columns["first"][at] + first
        columns["last"][at] = columns["last"][at] + first
        for name, renumbered in (("id", TRAJECTORY_ID), ("motion", MOTION_ID)):
            columns[name][at] = table.numberings[at].apply(renumbered, columns[name][at])
    return Traced(**{name: np.concatenate(values) for name, values in columns.items()})


def _trace_part(
    table: Table, at: int, pool: Executor | None, selection: Selection | None
) -> Traced:
    """All trajectories of one store, by ascending ids."""
    view = table.parts[at]
    found: list[Segments] = [dict.fromkeys(_COLUMNS, np.empty(0, np.int64))]
    now: Segments = {}  # the open segment of each environment
    for block in range(view.state.num_blocks):
        chosen = None if selection is None else selection.block(table.first_blocks[at] + block).T
        segments, heads = _segments(view, block, pool, chosen)
        if now:
            goes_on = segments["id"][heads] == now["id"]
            joined = heads[goes_on]
            for name in ("first", "motion"):
                segments[name][joined] = now[name][goes_on]
            segments["valid"][joined] += now["valid"][goes_on]
            found.append({name: values[~goes_on] for name, values in now.items()})
        newest = np.append(heads[1:], len(segments["id"])) - 1
        now = {name: values[newest] for name, values in segments.items()}
        found.append({name: np.delete(values, newest) for name, values in segments.items()})
    found += [now] if now else []
    columns = {name: np.concatenate([part[name] for part in found]) for name in _COLUMNS}
    columns["end"] = _how_they_ended(view, columns)
    order = np.argsort(columns["id"], kind="stable")
    if selection is not None:
        order = order[columns["valid"][order] > 0]
    return Traced(**{name: values[order] for name, values in columns.items()})


def _segments(
    view: StoreView, block: int, pool: Executor | None, chosen: NDArray[np.bool_] | None
) -> tuple[Segments, Ints]:
    """Segments of a block, ordered by environment and step, and the first of each environment."""
    steps, envs = view.state.steps_of(block), range(view.state.num_envs)

    def read(name: str) -> Any:
        """A field env-major, ``(N, steps)``; None: the store has no such field."""
        if name not in view.grids or view.grids[name].field.dim is not None:
            return None
        if chosen is None:
            return np.ascontiguousarray(view.read(name, steps, envs, pool).T)
        field = view.grids[name].field
        out = np.full(chosen.shape, field.fill_value, field.dtype)
        for cut in view.columns(name):
            at = slice(cut.start, cut.stop)
            try:
                out[at] = view.read(name, steps, cut, pool).T
            except CorruptStoreError:
                if chosen[at].any():
                    raise
        return out

    ids, mask = read(TRAJECTORY_ID), read(VALID_MASK) if chosen is None else chosen
    begins = np.ones(ids.shape, np.bool_)
    begins[:, 1:] = ids[:, 1:] != ids[:, :-1]
    starts = np.flatnonzero(begins)
    stops = np.append(starts[1:], ids.size) - 1
    env, first = np.divmod(starts, len(steps))
    segments = {
        "id": ids.reshape(-1)[starts],
        "env": env,
        "first": steps.start + first,
        "last": steps.start + stops % len(steps),
        "valid": np.add.reduceat(mask.reshape(-1), starts, dtype=np.int64),
        "end": _taken(read(TRAJECTORY_END), stops),
        "motion": _taken(read(MOTION_ID), starts),
    }
    return segments, np.flatnonzero(first == 0)


def _taken(values: Any, places: Ints) -> Ints:
    if values is None:
        return np.full(len(places), -1, np.int64)
    return np.asarray(values.reshape(-1)[places], np.int64)


def _how_they_ended(view: StoreView, columns: Segments) -> Ints:
    """How each trajectory ended, from its last row and from where its run stopped."""
    state, told = view.state, columns["end"]
    codes = (TERMINATED, TRUNCATED, FAILED)
    found = np.select([told == c for c in codes], [_TERMINATED, _TRUNCATED, _FAILED], _ENDED)
    for number, (run, steps) in enumerate(state.spans()):
        if steps:
            still = view.open_envs(number)[columns["env"]]
            stopped = still & (columns["last"] == steps[-1])
            may_go_on = run is state.runs[-1] and state.status != COMPLETE
            found[stopped] = _OPEN if may_go_on else _INTERRUPTED
    return np.asarray(found, np.int64)
