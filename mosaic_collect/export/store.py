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
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import ExportError, InputError, StoreNotFoundError
from mosaic_collect.export.npy import ExportReport, join_stores, naming_skip_damaged, open_stores
from mosaic_collect.export.options import AUTO, Options
from mosaic_collect.export.stream import Progress
from mosaic_collect.passes.engine import Engine
from mosaic_collect.reading.selection import Selection, select
from mosaic_collect.reading.store_set import alike_notes
from mosaic_collect.reading.subset import asked_steps
from mosaic_collect.reading.table import Table
from mosaic_collect.reading.trajectories import CODES, trace
from mosaic_collect.recording.signals import exit_if_terminated
from mosaic_collect.recording.writer import TrajectoryWriter, end_with_codes
from mosaic_collect.store.blobs import Blobs
from mosaic_collect.store.metadata import COMPLETE
from mosaic_collect.store.parsing import json_copy
from mosaic_collect.store.ranks import PART, Address, Addresses, blobs_at, check_distinct
from mosaic_collect.store.schema import GOES_ON, TRAJECTORY_END, VALID_MASK, Schema
from mosaic_collect.store.view import read_state

Array = NDArray[Any]
Ints = NDArray[np.int64]
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
    other is refused. Memory use: the writer's buffer, a block as large as one of its blocks, and
    100 bytes per trajectory.

    Args:
        stores: The stores, as ``export_npy`` takes them.
        path: The new store: a folder or a URL where nothing lies.
        compressor: Compression of the chunks (default: zstd).
        buffer_mb: Memory for steps that are not on disk yet, in MB of 10^6 bytes (default: about 64
            steps per block, at most a tenth of the free memory).
        progress: Called with the bytes of rows written since the last call.
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
        drawn = {"max_pairs": options.max_pairs, "seed": options.seed}
        selection, left = select(options.rules(table, fields, {}, None, **drawn))
        plan = _TargetPlan.of(table, selection, options.steps)
        schema = _schema(table, names)
        stored_nbytes = 0
        metadata = {k: v for k, v in table.state.metadata.items() if k != PART}
        if plan.num_left_out:
            metadata.pop("motion_counts", None)  # of all trajectories
        origin = json_copy(_origin(table, options, asdict(left)))
        metadata |= {**(options.metadata or {}), COPIED_FROM: origin}
        is_unfinished = _is_unfinished(goal, origin)
        for number, run in enumerate(plan.runs):
            with TrajectoryWriter(
                goal,
                schema,
                plan.num_envs,
                metadata=metadata,
                resume=number > 0,
                overwrite=number == 0 and is_unfinished,
                compressor=compressor,
                buffer_mb=buffer_mb,
                commit_seconds=None,  # a timed commit may fall between a row and its ends
                encode_in="threads",
            ) as writer:
                copying = _RowCopy(table, selection, writer, options.skip_damaged)
                copying.write(run, progress or (lambda nbytes: None))
                writer.close(complete=number == len(plan.runs) - 1)
            stored_nbytes += writer.stats.stored_nbytes
    num_steps = sum(run.num_steps for run in plan.runs)
    return ExportReport(
        path=goal.address,
        layout="store",
        num_pairs=selection.num_pairs,
        shapes={f.name: (num_steps, plan.num_envs, *f.row_shape) for f in schema.fields},
        left_out=left,
        file_nbytes=stored_nbytes,
        device_nbytes=num_steps * plan.num_envs * schema.pair_nbytes,
        seconds=time.monotonic() - start,
        notes=tuple(_notes(plan, table)),
    )


class _TargetRun(NamedTuple):
    """Trajectories of one run of the target, a number each: where they are, and where they go."""

    first: Ints  # step in the sources
    env: Ints  # environment in the sources
    start: Ints  # step in the run
    length: Ints
    column: Ints  # environment in the target
    code: Ints  # value of ``trajectory_end`` at the last row

    @property
    def num_steps(self) -> int:
        """Steps of the run."""
        return int((self.start + self.length).max())


@dataclass(frozen=True)
class _TargetPlan:
    """Place of every trajectory in the target."""

    runs: tuple[_TargetRun, ...]
    num_envs: int
    num_left_out: int  # trajectories without a valid row among them
    num_cut: int  # trajectories whose last rows are left out

    @classmethod
    def of(cls, table: Table, selection: Selection, steps: Any) -> _TargetPlan:
        """Lay the trajectories that hold a chosen pair; at least one must be left."""
        if not selection.num_pairs:
            raise ExportError(f"{table.address}: no pair is left to write")
        traced = trace(table)
        kept = traced[np.isin(traced["id"], trace(table, selection=selection)["id"])]
        kept = kept[np.lexsort((kept["env"], kept["first"]))]
        first, stop, env = kept["first"], kept["last"] + 1, kept["env"]
        part = np.searchsorted(table.first_steps, first, side="right") - 1
        if steps is not None:
            lengths = [view.state.committed_steps for view in table.parts]
            spans = [asked_steps(steps, length) for length in lengths]
            offset = np.array(table.first_steps)
            first = np.maximum(first, np.array([s.start for s in spans])[part] + offset[part])
            stop = np.minimum(stop, np.array([s.stop for s in spans])[part] + offset[part])
        is_cut = stop <= kept["last"]
        code = np.where(is_cut, GOES_ON, np.array([*CODES.values()])[kept["end"]])
        starts = [run.first_step for run, _steps in table.state.spans()]
        run = np.searchsorted(starts, kept["first"], side="right")
        # A run without trajectories that stop without an end needs no run of its own.
        is_last = np.zeros(len(starts) + 1, np.int64)
        is_last[run[code == GOES_ON]] = 1
        group = (np.cumsum(is_last) - is_last)[run]
        widths = np.array([view.state.num_envs for view in table.parts])[part]
        members = [np.flatnonzero(group == number) for number in np.unique(group)]
        num_envs = max(min(len(at), int(widths[at].max())) for at in members)
        laid = tuple(
            _lay(first[at], (stop - first)[at], env[at], code[at], num_envs) for at in members
        )
        return cls(laid, num_envs, len(traced) - len(kept), int(is_cut.sum()))


def _lay(first: Ints, count: Ints, env: Ints, code: Ints, num_envs: int) -> _TargetRun:
    """Lay trajectories, in the order of time, each into the environment that is free first."""
    start, column = np.empty_like(first), np.empty_like(first)
    free = [(0, number) for number in range(num_envs)]
    for at in np.argsort(code == GOES_ON, kind="stable").tolist():
        start[at], column[at] = heapq.heappop(free)
        if code[at] != GOES_ON:
            heapq.heappush(free, (int(start[at] + count[at]), int(column[at])))
    return _TargetRun(first, env, start, count, column, code)


class _RowCopy:
    """Copies the rows of a run into a store, a block of the target at a time."""

    def __init__(
        self, table: Table, selection: Selection, writer: TrajectoryWriter, skip_damaged: bool
    ) -> None:
        self._table, self._selection, self._writer = table, selection, writer
        self._skips = skip_damaged  # cells without a chosen pair, which may be damaged
        given = {
            name for part in table.parts for name, is_given in part.state.given.items() if is_given
        }
        # Fields that take their default in all sources take it in the target, and no memory.
        self._fields = [f for f in writer.schema.fields if f.default is None or f.name in given]

    def write(self, run: _TargetRun, progress: Progress) -> None:
        """Write the rows of a run, and end its trajectories."""
        writer, size, stop = self._writer, self._writer.block_steps, run.start + run.length
        for at in range(0, run.num_steps, size):
            steps = range(at, min(at + size, run.num_steps))
            rows, mask = self._rows(run, steps)
            ends = np.zeros(mask.shape, np.uint8)
            here = (stop > at) & (stop <= steps.stop)
            ends[stop[here] - 1 - at, run.column[here]] = run.code[here]
            for step in range(len(steps)):
                row = {name: values[step] for name, values in rows.items()}
                writer.add_step(valid_mask=None if mask[step].all() else mask[step], **row)
                end_with_codes(writer, ends[step])
            progress(sum(values.nbytes for values in rows.values()))
            exit_if_terminated()

    def _rows(self, run: _TargetRun, steps: range) -> tuple[dict[str, Array], Array]:
        """Rows of some steps of the target, ``(steps, N[, D])``, and their mask."""
        shape = (len(steps), self._writer.num_envs)
        mask = np.zeros(shape, np.bool_)
        rows = {
            f.name: np.full((*shape, *f.row_shape), f.fill_value, f.dtype) for f in self._fields
        }
        low = np.maximum(run.start, steps.start)
        count = np.maximum(np.minimum(run.start + run.length, steps.stop) - low, 0)
        index = np.repeat(np.arange(len(count)), count)
        low = low[index] + np.arange(len(index)) - np.repeat(np.cumsum(count) - count, count)
        to = low - steps.start, run.column[index]
        step, env = run.first[index] + low - run.start[index], run.env[index]
        part = np.searchsorted(self._table.first_steps, step, side="right") - 1
        length = np.array([view.state.block_steps for view in self._table.parts])[part]
        blocks = np.array(self._table.first_blocks)[part]
        blocks += (step - np.array(self._table.first_steps)[part]) // length
        pieces = []
        order = np.argsort(blocks, kind="stable")
        for mine in np.split(order, np.flatnonzero(np.diff(blocks[order])) + 1):
            block = int(blocks[mine[0]])
            at = step[mine] - self._table.state.steps_of(block).start, env[mine]
            goal = to[0][mine], to[1][mine]
            mask[goal] = self._selection.block(block)[at]
            pieces += [(block, at, goal, name) for name in rows]
        for _ in Engine().map(lambda piece: self._fill(rows[piece[3]], *piece), pieces):
            pass
        return rows, mask

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
            "first_trajectory_id": numbering.first_id,
            "motion_ids": list(numbering.motions),
        }
        for part, numbering in zip(table.parts, table.numberings, strict=True)
    ]
    earlier = table.state.metadata.get(COPIED_FROM)
    before = {} if earlier is None else {COPIED_FROM: earlier}
    return {"stores": stores, "options": options.as_json(), "left_out": left, **before}


def _notes(plan: _TargetPlan, table: Table) -> Iterator[str]:
    """Yield facts that a reader of the target should know, one sentence each."""
    yield from alike_notes({p.address: p.state.metadata for p in table.parts})
    yield "trajectories have new ids, in the order of the sources"
    if plan.num_left_out:
        yield f"{plan.num_left_out:,} trajectories without a chosen pair were left out"
    num_filled = sum(run.num_steps * plan.num_envs - int(run.length.sum()) for run in plan.runs)
    if num_filled:
        yield f"{num_filled:,} masked rows fill environments whose trajectories end earlier"
    if plan.num_cut:
        yield f"{plan.num_cut:,} trajectories were cut by steps: they have no end"
    foreign = sorted({name for part in table.parts for name in part.state.foreign_arrays})
    if foreign:
        yield f"third-party arrays were left out: {', '.join(foreign)}"
