"""The trajectories of a store: a table, each as a mapping of its fields, and how they ended.

One pass over ids, mask and ends finds them, block by block. An id belongs to one environment, its
rows lie one behind the other, and its last row says how it ended:

    step             0   1   2 | 3   4   5 | 6 ...      blocks of three steps
    trajectory_id    0   0   0 | 0   2   2 | 2          two segments of 2 become one trajectory
    trajectory_end   0   0   0 | 2   0   0 | 0          0 failed, 2 goes on

Memory: 60 bytes per trajectory, and the fields that are read, for one block.

The field of a row that is committed may still change, as long as the row is the last one: an end is
told after its step. So a shard may be ahead of the root document by the ends of the last row, after
a kill or while a writer is at work, as no other field ever is.

A trajectory is interrupted if it was still going on when a run of the writer stopped:

    run 0    ──── a ────┤end├── b ──✗          b: open when the run was killed
    run 1                            ├── c ──┤end├── d ──■      d: open when the run was closed

A resume gives every environment a new id, so ``b`` never goes on. How the run stopped makes no
difference: a trajectory open at a kill, at an exception, or at the close of a complete store has
no last step that ``end_trajectories`` told of. Even in a store that is being written, what is open
at the last commit has no end among the committed steps. ``StoreView.read`` removes ends that were
recorded but not committed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal, TypeAlias, TypeVar, get_args, overload

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import analysis_by
from mosaic_collect.errors import CorruptStoreError, InputError
from mosaic_collect.passes.engine import Engine
from mosaic_collect.reading.lazy import LazyArray
from mosaic_collect.reading.numbering import MOTION_ID, find_motions
from mosaic_collect.reading.selection import Selection
from mosaic_collect.reading.table import Cell, Part, Table
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
T = TypeVar("T")


#: A trajectory, as numbers: its id and environment; first and last step; pairs with a true mask;
#: index into ``ENDS``; and value of ``motion_id`` at the first row, -1 without that field.
TRACED = np.dtype(
    [(name, np.int64) for name in ("id", "env", "first", "last", "valid", "end", "motion")]
)
#: Trajectories, or their segments in one block: a record each, and a column per attribute.
Traced: TypeAlias = NDArray[Any]
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
            "id": t["id"],
            "env": t["env"],
            "first_step": t["first"],
            "last_step": t["last"],
            "num_steps": t["last"] - t["first"] + 1,
            "num_valid": t["valid"],
            "end": np.asarray(ENDS)[t["end"]],
        }
        has_motions = MOTION_ID in self._schema.stored_names
        return {**columns, "motion": t["motion"]} if has_motions else columns

    def __len__(self) -> int:
        return len(self._traced)

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
        found = np.flatnonzero(self._traced["id"] == number)
        if not len(found):
            ids = self._traced["id"]
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
        t, length = self._traced, self._traced["last"] - self._traced["first"] + 1
        chosen = np.ones(len(self), np.bool_)
        if min_steps is not None:
            chosen &= length >= min_steps
        if max_steps is not None:
            chosen &= length <= max_steps
        if min_valid is not None:
            chosen &= t["valid"] >= min_valid
        if end is not None:
            chosen &= np.isin(t["end"], _ends([end] if isinstance(end, str) else end))
        if motion is not None:
            chosen &= np.isin(t["motion"], find_motions(self._schema, self._told, [motion]))
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
        numbers = np.bincount(self._traced["end"], minlength=len(ENDS)).tolist()
        return {name: n for name, n in zip(ENDS, numbers, strict=True) if n}

    def _of(self, which: Any) -> Trajectories:
        return Trajectories(self._traced[which], self._schema, self._read, self._told)


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
    return np.concatenate([_trace_part(part, pool, selection) for part in table.parts])


def _trace_part(part: Part, pool: Executor | None, selection: Selection | None) -> Traced:
    """All trajectories of one store, by ascending ids."""
    numbering = part.numbering
    now = np.empty(0, TRACED)  # the open segment of each environment
    found = [now]
    for block in range(part.state.num_blocks):
        block_of_all = numbering.first_block + block
        chosen = None if selection is None else selection.block(block_of_all).T
        segments, heads = _segments(part, block, pool, chosen)
        if block:
            goes_on = segments["id"][heads] == now["id"]
            joined = heads[goes_on]
            for name in ("first", "motion"):
                segments[name][joined] = now[name][goes_on]
            segments["valid"][joined] += now["valid"][goes_on]
            found.append(now[~goes_on])
        newest = np.append(heads[1:], len(segments)) - 1
        now = segments[newest]
        found.append(np.delete(segments, newest))
    traced = np.concatenate([*found, now])
    traced["end"] = _how_they_ended(part, traced)
    traced["first"] += numbering.first_step
    traced["last"] += numbering.first_step
    for name, renumbered in (("id", TRAJECTORY_ID), ("motion", MOTION_ID)):
        traced[name] = numbering.apply(renumbered, traced[name])
    traced = traced[np.argsort(traced["id"], kind="stable")]
    return traced if selection is None else traced[traced["valid"] > 0]


def _segments(
    view: StoreView, block: int, pool: Executor | None, chosen: NDArray[np.bool_] | None
) -> tuple[Traced, Ints]:
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
    segments = np.empty(len(starts), TRACED)
    segments["id"] = ids.reshape(-1)[starts]
    segments["env"], first = np.divmod(starts, len(steps))
    segments["first"] = steps.start + first
    segments["last"] = steps.start + stops % len(steps)
    segments["valid"] = np.add.reduceat(mask.reshape(-1), starts, dtype=np.int64)
    for column, name, places in (("end", TRAJECTORY_END, stops), ("motion", MOTION_ID, starts)):
        values = read(name)
        segments[column] = -1 if values is None else values.reshape(-1)[places]
    return segments, np.flatnonzero(first == 0)


def _how_they_ended(view: StoreView, traced: Traced) -> Ints:
    """Indices into ``ENDS``, from values of ``trajectory_end`` and from where each run stopped."""
    state, told = view.state, traced["end"]
    codes = (TERMINATED, TRUNCATED, FAILED)
    found = np.select([told == c for c in codes], [_TERMINATED, _TRUNCATED, _FAILED], _ENDED)
    for number, (run, steps) in enumerate(state.spans()):
        if steps:
            still = view.open_envs(number)[traced["env"]]
            stopped = still & (traced["last"] == steps[-1])
            may_go_on = run is state.runs[-1] and state.status != COMPLETE
            found[stopped] = _OPEN if may_go_on else _INTERRUPTED
    return np.asarray(found, np.int64)


def interrupted_ids(view: Table) -> Ints:
    """Ids of all interrupted trajectories, ascending: two steps per run are read.

    Args:
        view: The stores, such as ``dataset.view``.

    Raises:
        CorruptStoreError: A damaged chunk: which they are cannot be known.
    """
    found = [np.empty(0, np.int64)]
    for part in view.parts:
        for number, (_, steps) in enumerate(part.state.spans()):
            if steps:
                ids = part.read(TRAJECTORY_ID, steps[-1:], range(part.state.num_envs))[0]
                open_ids = ids[part.open_envs(number)]
                found.append(part.numbering.apply(TRAJECTORY_ID, open_ids))
    return np.unique(np.concatenate(found))


def failed_ids(table: Table, engine: Engine | None = None) -> Ints:
    """Ids of all trajectories that failed, ascending: 8 bytes of memory each.

    Ids are read only where a chunk of ends holds a failure.

    Args:
        table: The stores.
        engine: Who reads; None: this thread.

    Raises:
        InputError: The stores have no field ``trajectory_end``.
        CorruptStoreError: A damaged chunk: which trajectories failed cannot be known.
        ClusterError: The cluster cannot do the work.
    """
    found = _of_blocks(_failed_of_block, table, engine)
    return np.unique(np.concatenate([np.empty(0, np.int64), *found]))


def count_failed(table: Table, engine: Engine | None = None) -> int:
    """How many trajectories failed, from the one field; as ``failed_ids``."""
    return sum(_of_blocks(failed_in, table, engine))


def failed_in(table: Table, block: int) -> int:
    """How many trajectories failed in a block."""
    return sum(int(np.count_nonzero(failed)) for _cell, failed in _failures(table, block))


def _of_blocks(
    function: Callable[[Table, int], T], table: Table, engine: Engine | None
) -> Iterator[T]:
    if not table.state.schema.has_ends:
        raise InputError(
            f"{table.address}: has no field {TRAJECTORY_END}, it was recorded without "
            "Schema.with_ends(): how its trajectories ended is not known"
        )
    blocks = range(table.state.num_blocks)
    return (engine or Engine(1)).map(partial(function, table), blocks, table.require_seen)


def _failed_of_block(table: Table, block: int) -> Ints:
    each = _failures(table, block)
    ids = [table.read_cell(TRAJECTORY_ID, cell)[failed] for cell, failed in each if failed.any()]
    return np.concatenate([np.empty(0, np.int64), *ids])


def _failures(table: Table, block: int) -> Iterator[tuple[Cell, NDArray[np.bool_]]]:
    """Yield the cells of a block, a chunk of ends each, and the mask of their failures."""
    for cell in table.cells_of(block, [TRAJECTORY_END], 1):
        yield cell, table.read_cell(TRAJECTORY_END, cell) == FAILED
