"""``export_store``: a subset of stores as one new store, trajectory by trajectory.

    source, env 0   | a a a a | b b b b |          target, env 0   | a a a a | d d d d |
    env 1           | c - - - | d d d d |          env 1           | e e e e | . . . . |
    env 2           | e e e e | - - - - |

Trajectories that hold a chosen pair are laid into environments in the order of time, each at once
behind another. A store without anything to leave out keeps its place for every row. Rows between
the chosen pairs of a trajectory stay, masked: what follows a row followed it in the source.

A trajectory without an end is the last one of its environment in a run of the target, for only
where a run stops a trajectory may stop without an end. So the runs of the sources stay runs.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import ExportError, InputError, StoreNotFoundError
from mosaic_collect.export.plan import (
    AUTO,
    ExportReport,
    Options,
    Progress,
    join_stores,
    naming_skip_damaged,
    open_stores,
)
from mosaic_collect.importing.source import READ_NBYTES, Rows, Source, write_store
from mosaic_collect.passes.engine import Engine
from mosaic_collect.reading.selection import Selection, select
from mosaic_collect.reading.store_set import alike_notes
from mosaic_collect.reading.subset import asked_steps
from mosaic_collect.reading.table import Table
from mosaic_collect.reading.trajectories import CODES, Ints, trace
from mosaic_collect.store.blobs import Blobs
from mosaic_collect.store.metadata import COMPLETE
from mosaic_collect.store.parsing import json_copy
from mosaic_collect.store.ranks import PART, Address, Addresses, blobs_at, check_distinct
from mosaic_collect.store.schema import GOES_ON, TRAJECTORY_END, VALID_MASK, Schema
from mosaic_collect.store.view import read_state

Array = NDArray[Any]
#: Steps and environments of pairs.
Pairs = tuple[Ints, Ints]
#: Key in a store's metadata under which ``export_store`` describes the sources.
COPIED_FROM = "copied_from"


def export_store(
    stores: Addresses,
    path: Address,
    *,
    compressor: str = "auto",
    buffer_mb: float | Literal["auto"] = "auto",
    progress: Progress | None = None,
    **subset: Any,
) -> ExportReport:
    """Write a subset of stores as one new store; also merges and recompresses them.

    The new store has new trajectory ids and an identity of its own. It keeps metadata, masks, ends
    and runs. Environments whose trajectories end earlier than others' are filled with masked rows,
    which count as steps of the store, not as pairs; a note names their number. A copy that was
    interrupted or killed is a store that is still collecting: the same call makes it anew, any
    other is refused. Memory use: the writer's buffer, 8 MB or as much as the sources' longest block
    takes, and 100 bytes per trajectory.

    Args:
        stores: The stores, as ``export_npy`` takes them.
        path: The new store: a folder or a URL where nothing lies.
        compressor: Compression of the chunks (default: zstd).
        buffer_mb: Memory for steps that are not on disk yet, in MB of 10^6 bytes (default: about 64
            steps per block, at most a tenth of the free memory).
        progress: Called with the bytes of rows and masks read since the last call.
        subset: Pairs and fields to write, by default all: ``fields``, ``steps``, ``trajectories``,
            ``motions``, ``split``, ``exclude_failed``, ``max_pairs`` and the other filters of
            ``export_npy``.

    Raises:
        InputError: A bad option, or the target is one of the sources, or lies in one.
        StoreExistsError: Something lies at the target.
        ExportError: No pair is left.
        StoreError, SpaceError, WriteError: A store cannot be read, or the new one not be written.
    """
    start, goal = time.monotonic(), blobs_at(path)
    try:
        options = Options(**subset)
    except TypeError as error:
        raise InputError(f"export_store: {error}") from error
    if options.layout != AUTO:
        raise InputError("layout: a store has one layout; expected auto")
    if isinstance(options.steps, (slice, range)) and options.steps.step != 1:
        raise InputError("steps: expected steps that follow each other in a store")
    views, folders = open_stores(stores, options)
    _check_apart(goal, [view.blobs for view in views], folders)
    names = list(options.fields or dict.fromkeys(n for v in views for n in v.state.schema.names))
    if any(view.state.schema.has_ends for view in views):
        names.append(TRAJECTORY_END)
    with naming_skip_damaged(options):
        table, fields = join_stores(views, replace(options, fields=names))
        selection, left = select(options.rules(table, fields, {}))
        copy = _Copy(table, selection, options, names)
        metadata = {k: v for k, v in table.state.metadata.items() if k != PART}
        if copy.num_left_out:
            metadata.pop("motion_counts", None)  # of all trajectories
        origin = json_copy(_origin(table, options, asdict(left)))
        stored_nbytes = write_store(
            copy,
            goal,
            progress or (lambda nbytes: None),
            metadata=metadata | {**(options.metadata or {}), COPIED_FROM: origin},
            overwrite=_is_unfinished(goal, origin),
            compressor=compressor,
            buffer_mb=buffer_mb,
        )
    shape = copy.num_steps, copy.num_envs
    return ExportReport(
        path=goal.address,
        layout="store",
        num_pairs=selection.num_pairs,
        shapes={f.name: (*shape, *f.row_shape) for f in copy.schema.fields},
        left_out=left,
        file_nbytes=stored_nbytes,
        device_nbytes=prod(shape) * copy.schema.pair_nbytes,
        seconds=time.monotonic() - start,
        notes=tuple(copy.notes()),
    )


class _Copy(Source):
    """Chosen trajectories of stores while they are copied, and the place of each in the target.

    Attributes:
        num_left_out: Number of trajectories without a chosen pair.
        num_cut: Number of trajectories whose last rows are left out.
    """

    def __init__(
        self, table: Table, selection: Selection, options: Options, names: Sequence[str]
    ) -> None:
        """Lay the trajectories that hold a chosen pair; at least one must be left."""
        if not selection.num_pairs:
            raise ExportError(f"{table.address}: no pair is left to write")
        self._table, self._selection, self.schema = table, selection, _schema(table, names)
        self._skips = options.skip_damaged  # cells without a chosen pair, which may be damaged
        given = {n for part in table.parts for n, is_given in part.state.given.items() if is_given}
        # Fields that take their default in all sources take it in the target, and no memory.
        self._fields = [f for f in self.schema.fields if f.default is None or f.name in given]
        traced = trace(table)
        kept = traced[np.isin(traced["id"], trace(table, selection=selection)["id"])]
        kept = kept[np.lexsort((kept["env"], kept["first"]))]
        self.num_left_out = len(traced) - len(kept)
        first_steps = np.array([part.numbering.first_step for part in table.parts])
        part = np.searchsorted(first_steps, kept["first"], side="right") - 1
        # Steps of the sources, counted through them.
        asked = slice(None) if options.steps is None else options.steps
        spans = [asked_steps(asked, view.state.committed_steps) for view in table.parts]
        offset = first_steps[part]
        self._first = np.maximum(kept["first"], np.array([s.start for s in spans])[part] + offset)
        stop = np.minimum(kept["last"] + 1, np.array([s.stop for s in spans])[part] + offset)
        blocks = range(table.state.num_blocks)
        self._block_starts = np.array([table.state.steps_of(block).start for block in blocks])
        is_cut = stop <= kept["last"]
        self.num_cut = int(is_cut.sum())
        self._env, self._length = kept["env"], stop - self._first
        self._code = np.where(is_cut, GOES_ON, np.array([*CODES.values()])[kept["end"]])
        starts = [run.first_step for run in table.state.runs]
        run = np.searchsorted(starts, kept["first"], side="right")
        # A run without trajectories that stop without an end needs no run of its own.
        is_last = np.zeros(len(starts) + 1, np.int64)
        is_last[run[self._code == GOES_ON]] = 1
        group = (np.cumsum(is_last) - is_last)[run]
        widths = np.array([view.state.num_envs for view in table.parts])[part]
        members = [np.flatnonzero(group == number) for number in np.unique(group)]
        self.num_envs = max(min(len(at), int(widths[at].max())) for at in members)
        self._start, self._column = np.empty_like(stop), np.empty_like(stop)
        self.stops = list[int]()
        for at in members:
            start, self._column[at] = _lay(self._length[at], self._code[at], self.num_envs)
            self._start[at] = start + (self.stops[-1] if self.stops else 0)
            self.stops.append(int((self._start + self._length)[at].max()))
        self.num_steps = self.stops[-1]
        self.has_mask = self.num_steps * self.num_envs > selection.num_pairs

    def pieces(self, first: int, stop: int) -> Iterator[tuple[range, Rows]]:
        step_nbytes = self.num_envs * sum(f.row_nbytes for f in self._fields)
        longest = max(part.state.block_steps for part in self._table.parts)
        size = max(longest, READ_NBYTES // max(1, step_nbytes))  # a block is decoded once or twice
        for at in range(first, stop, size):
            steps = range(at, min(at + size, stop))
            yield steps, self._rows(steps)

    def ends(self, steps: range) -> NDArray[np.uint8]:
        ends = np.zeros((len(steps), self.num_envs), np.uint8)
        last = self._start + self._length - 1 - steps.start
        here = (last >= 0) & (last < len(steps))
        ends[last[here], self._column[here]] = self._code[here]
        return ends

    def _rows(self, steps: range) -> Rows:
        """Rows of some steps of the target, and their mask."""
        shape = len(steps), self.num_envs
        mask = np.zeros(shape, np.bool_)
        rows = {
            f.name: np.full((*shape, *f.row_shape), f.fill_value, f.dtype) for f in self._fields
        }
        low = np.maximum(self._start, steps.start)
        count = np.maximum(np.minimum(self._start + self._length, steps.stop) - low, 0)
        index = np.repeat(np.arange(len(count)), count)
        low = low[index] + np.arange(len(index)) - np.repeat(np.cumsum(count) - count, count)
        to = low - steps.start, self._column[index]
        step, env = self._first[index] + low - self._start[index], self._env[index]
        blocks = np.searchsorted(self._block_starts, step, side="right") - 1
        pieces = []
        order = np.argsort(blocks, kind="stable")
        for mine in np.split(order, np.flatnonzero(np.diff(blocks[order])) + 1):
            block = int(blocks[mine[0]])
            at = step[mine] - self._block_starts[block], env[mine]
            goal = to[0][mine], to[1][mine]
            mask[goal] = self._selection.block(block)[at]
            pieces += [(block, at, goal, name) for name in rows]
        for _ in Engine().map(lambda piece: self._fill(rows[piece[3]], *piece), pieces):
            pass
        return {**rows, VALID_MASK: mask} if self.has_mask else rows

    def _fill(self, out: Array, block: int, at: Pairs, goal: Pairs, name: str) -> None:
        """Copy the rows of one field of one block; rows that were left out stay fill value."""
        chosen = self._selection.block(block)
        for cell in self._selection.cells_of(block, name):
            step, env = at[0] - cell.steps.start, at[1] - cell.envs.start
            inside = (step >= 0) & (step < len(cell.steps)) & (env >= 0) & (env < len(cell.envs))
            if not inside.any() or (self._skips and not chosen[cell.at].any()):
                continue
            step, env = step[inside], env[inside]
            values = self._table.read_cell(name, cell)[step, env]
            valid = self._table.read_cell(VALID_MASK, cell)[step, env]
            is_left_out = valid & ~chosen[cell.at][step, env]
            values[is_left_out] = self._table.grids[name].field.fill_value
            out[goal[0][inside], goal[1][inside]] = values

    def notes(self) -> Iterator[str]:
        """Yield facts that a reader of the target should know, one sentence each."""
        parts = self._table.parts
        yield from alike_notes({p.address: p.state.metadata for p in parts})
        yield "trajectories have new ids, in the order of the sources"
        if self.num_left_out:
            yield f"{self.num_left_out:,} trajectories without a chosen pair were left out"
        num_filled = self.num_steps * self.num_envs - int(self._length.sum())
        if num_filled:
            yield f"{num_filled:,} masked rows fill environments whose trajectories end earlier"
        if self.num_cut:
            yield f"{self.num_cut:,} trajectories were cut by steps: they have no end"
        foreign = sorted({name for part in parts for name in part.state.foreign_arrays})
        if foreign:
            yield f"third-party arrays were left out: {', '.join(foreign)}"


def _lay(length: Ints, code: Ints, num_envs: int) -> Pairs:
    """Lay trajectories, in the order of time, each into the environment that is free first."""
    start, column = np.empty_like(length), np.empty_like(length)
    free = [(0, number) for number in range(num_envs)]
    for at in np.argsort(code == GOES_ON, kind="stable").tolist():
        start[at], column[at] = heapq.heappop(free)
        if code[at] != GOES_ON:
            heapq.heappush(free, (int(start[at] + length[at]), int(column[at])))
    return start, column


def _schema(table: Table, names: Sequence[str]) -> Schema:
    """The sources' schema of some fields; a field whose default is missing has none."""
    fields = [f for f in table.state.schema.fields if f.name in names]
    own = {f.name for f in fields}
    return Schema(
        tuple(
            replace(f, default=None) if isinstance(f.default, str) and f.default not in own else f
            for f in fields
        )
    )


def _check_apart(goal: Blobs, sources: Sequence[Blobs], folders: Sequence[str]) -> None:
    check_distinct([*sources, goal])
    for folder in folders:
        if f"{goal.address}/".startswith(f"{folder}/"):
            raise InputError(f"{goal.address} lies in {folder}, which is a source")


def _is_unfinished(goal: Blobs, origin: dict[str, Any]) -> bool:
    """Whether an interrupted export of the same subset lies there."""
    try:
        state = read_state(goal)
    except StoreNotFoundError:
        return False  # the writer refuses what is no store
    return (
        state is not None and state.status != COMPLETE and state.metadata.get(COPIED_FROM) == origin
    )


def _origin(table: Table, options: Options, left: dict[str, int]) -> dict[str, Any]:
    """Provenance of the target: its sources, the options, and what was left out."""
    stores = [
        {
            "path": part.address,
            "identity": part.state.identity,
            "steps": part.state.committed_steps,
            "first_trajectory_id": part.numbering.first_id,
            "motion_ids": list(part.numbering.motions),
        }
        for part in table.parts
    ]
    earlier = table.state.metadata.get(COPIED_FROM)
    before = {} if earlier is None else {COPIED_FROM: earlier}
    return {"stores": stores, "options": options.as_json(), "left_out": left, **before}
