"""``export_npy``: a store, or several, as the single ``.npy`` dict that MOSAIC loads.

    grid       [T, N, D]    every pair, at its step and environment, with a valid_mask [T, N]
    compact    [M, 1, D]    valid, finite pairs only, by step, then environment

MOSAIC takes each of its own arrays for ``[T, N, D]`` of float32, so rows of several axes become one
axis, in C order, and the file's metadata keep the axes. It reads no other arrays: they keep theirs.

All places are known before the first byte. So the rows of each cell go to their place with
``pwrite``, several cells at once. Memory: the cells at work, about ``3 * CELL_NBYTES`` each,
whatever the store's size.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields as dataclass_fields
from functools import partial
from itertools import tee
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import CorruptStoreError, InputError, StoreMismatchError
from mosaic_collect.export.plan import (
    NPY,
    ExportFormat,
    ExportPlan,
    ExportReport,
    LayoutName,
    Options,
    plan_format,
)
from mosaic_collect.export.target import Target, opened_elsewhere, write_at
from mosaic_collect.npyfile.layout import AXES, GRID, OURS, ArraySpec, FilePlan, plan_file
from mosaic_collect.passes.engine import Engine
from mosaic_collect.reading.numbering import MOTION_ID
from mosaic_collect.reading.selection import Side, exported
from mosaic_collect.reading.store_set import alike_notes
from mosaic_collect.reading.table import Cell, Table
from mosaic_collect.store.counts import all_finite, finite_rows
from mosaic_collect.store.parsing import object_in
from mosaic_collect.store.ranks import Addresses
from mosaic_collect.store.schema import MOSAIC_FIELDS, TRAJECTORY_ID, VALID_MASK, Field

#: Opens the file for some pieces; yields its descriptor.
Opened = Callable[[], AbstractContextManager[int]]
#: A field, and a cell of it.
Piece = tuple[str, Cell]
#: Bytes to hand to another process at a time, which syncs the file after them.
_BATCH_NBYTES = 256 << 20
#: Entries of a store's metadata under "acting" whose presence means that actions were perturbed.
_PERTURBING = {"action_noise", "act_by"}
_OPTIONS = [f.name for f in dataclass_fields(Options) if f.name != "metadata"]


def export_npy(
    store: Addresses,
    path: str | os.PathLike[str],
    layout: LayoutName = "auto",
    fields: Sequence[str] | None = None,
    max_pairs: int | None = None,
    seed: int = 0,
    *,
    allow_incomplete: bool = False,
    allow_nonfinite: bool = False,
    exclude_interrupted: bool = False,
    exclude_failed: bool = False,
    skip_damaged: bool = False,
    steps: slice | range | str | None = None,
    trajectories: Iterable[int] | None = None,
    motions: Sequence[str | int] | None = None,
    split: Side | None = None,
    validation_fraction: float = 0.1,
    split_seed: int = 0,
    allow_different: Sequence[str] = (),
    progress: Callable[[int], object] | None = None,
    engine: Engine | None = None,
) -> ExportReport:
    """Write a store's pairs as one ``.npy`` file, in bounded memory.

    After a return the file is whole and survives a power cut; after an error or a kill a file
    that had the name before is still there, untouched.

    Args:
        store: The store, or several that hold the same fields (a folder of ranks, a pattern, a
            list of these): their pairs follow one another in the order named. Their numbers of
            environments may differ. A trajectory id is raised by the number of ids that the stores
            before have used, so each stays unique; motion ids are numbered through the motions
            of all stores.
        path: The file, ``*.npy``; one of that name is replaced.
        layout: ``grid``: every pair, ``[T, N, D]``, with ``valid_mask`` if one was given or a
            pair is invalid. ``compact``: only valid, finite pairs, ``[M, 1, D]``, ordered by step,
            then environment. ``auto``: grid if every pair is valid and finite, else compact,
            because MOSAIC ignores the mask and would train on invalid rows. Several stores are
            compact unless a grid is asked for, in which their steps follow one another; it needs
            one number of environments in all.
        fields: Fields to export, ``trajectory_id`` among them; by default MOSAIC's (of a new store:
            all). Several stores must have these fields alike; their other fields may differ.
            MOSAIC's fields of several axes become flat rows, in C order; other fields keep their
            axes.
        max_pairs: Draw that many pairs uniformly, for a compact file.
        seed: Seed of the draw; with one seed, a larger draw contains the smaller.
        allow_incomplete: Export a store that is still collecting, or ranks of which one is missing.
        allow_nonfinite: Let a grid hold NaN or infinity.
        exclude_interrupted: Leave out trajectories that never ended.
        exclude_failed: Leave out trajectories that failed, such as by a fall, from their first row
            on. They are found in a separate pass over ``trajectory_end``, which takes 8 bytes of
            memory for each.
        skip_damaged: Leave out pairs whose bytes are damaged, instead of refusing.
        steps: Steps of every store to export: a slice, a range, or a text such as ``100:200``.
        trajectories: Values of ``trajectory_id`` to export, as a dataset of the stores numbers
            them.
        motions: Motions to export: names of their files, with or without ending, or ids.
        split: Side of a split by trajectory to export, ``train`` or ``validation``. A trajectory
            keeps its side when its store grows, is copied, or is read with others. None: both.
        validation_fraction: Expected fraction of the trajectories on the validation side.
        split_seed: Seed of the split; ``BatchLoader`` with the same one draws the same side.
        allow_different: Entries of the metadata that may differ between several stores:
            ``simulator``, ``task``, ``groups`` and ``terms`` (columns of observations, in their
            order), ``observations`` (their settings). The report notes the differences.
        progress: Told the bytes of arrays written since the last call.
        engine: Who reads and writes; None: threads here. A cluster's workers write into the one
            file, which lies, as the stores do, on storage that they share.

    Raises:
        InputError: A bad argument or target, one of MOSAIC's fields that holds images, or
            ``exclude_failed`` of a store that does not say how its trajectories ended.
        StoreNotFoundError, NewerFormatError, CorruptStoreError: A store is missing or cannot be
            read.
        StoreMismatchError: The stores' fields differ, or a grid's numbers of environments; or
            their origins, and that is not allowed.
        IncompleteStoreError: Still collecting, or a rank is missing.
        ExportError: No pair is left to export; NonFiniteError: NaN in a grid.
        SpaceError: Not enough disk; WriteError: The file cannot be written.
        ClusterError: The cluster cannot do the work.
    """
    given = locals()
    options = Options(**{name: given[name] for name in _OPTIONS})
    return plan_format(store, Npy(), options, path, engine).write(path, progress, engine)


def plan_export(stores: Addresses, options: Options, engine: Engine | None = None) -> ExportPlan:
    """Decide an export to ``.npy``; its plan knows the file's size, and writes the file.

    Args:
        stores: The stores, as ``export_npy`` takes them; it raises the same errors.
        options: Pairs and fields to export, and their layout.
        engine: Reads what must be read for that; None: threads here.
    """
    return plan_format(stores, Npy(), options, engine=engine)


class Npy(ExportFormat):
    """MOSAIC's dict of arrays."""

    name = NPY
    by_trajectory = False
    load_text = ", as much RAM for np.load, and as much on the training device of every rank"

    def check(self, table: Table, fields: Sequence[Field], options: Options) -> None:
        if options.layout == GRID and not table.has_one_width:
            widths = ", ".join(f"{p.address} has {p.state.num_envs}" for p in table.parts)
            raise StoreMismatchError(
                f"a grid of several stores needs one number of environments in all: {widths}; "
                "use layout='compact'"
            )
        # MOSAIC would not normalise images, and crash on uint8.
        images = [f for f in fields if _is_flattened(f) and not f.is_float]
        if images:
            wrong = ", ".join(f"{f.name} is {f.dtype} of {f.dim}" for f in images)
            raise InputError(
                f"fields: MOSAIC takes rows of float32, but {wrong}: leave it out by naming the "
                "other fields"
            )

    def lay_out(self, plan: ExportPlan) -> FilePlan:
        return plan_file(arrays_of(plan), {"metadata": file_metadata(plan)})

    def write(self, target: Target, plan: ExportPlan, engine: Engine | None) -> Iterator[int]:
        table, selection, file = plan.table, plan.selection, plan.file
        for offset, data in file.pieces:
            write_at(target.fd, data, offset)
        pieces: Iterator[Piece] = (
            (field, cell)
            for field in file.arrays
            for block in range(table.state.num_blocks)
            for cell in selection.cells_of(block, field)
        )
        if engine is not None:
            # A file system of several machines that keeps whole pages would else write them over
            # its neighbours'.
            os.fsync(target.fd)
            write = _PieceWriter(plan, partial(opened_elsewhere, target.temp_path))
            yield from engine.map(write, _batches(pieces, file), write.require_seen)
            return
        write, before = _PieceWriter(plan, lambda: nullcontext(target.fd)), None
        pieces, done = tee(pieces)
        written = Engine().map(write, ([piece] for piece in pieces))
        for (field, cell), nbytes in zip(done, written, strict=True):
            yield nbytes
            if before not in (None, (field, cell.block)):
                _write_back(target.fd, *write.place(*before))
            before = field, cell.block

    def notes(self, plan: ExportPlan) -> Iterator[str]:
        table, names = plan.table, plan.file.arrays
        yield from alike_notes({p.address: p.state.metadata for p in table.parts})
        if len(table.parts) > 1:
            yield from _notes_of_ids(table, names)
        if plan.layout == GRID and table.state.num_valid < table.state.num_pairs:
            yield "MOSAIC ignores valid_mask and trains on the invalid rows of this grid"
        for field in filter(_is_flattened, table.state.schema.fields):
            if field.name in names:
                yield f"{field.name}: its axes {field.dim} became one of {field.width}, in C order"
        missing = {"actions", "action_mean", "action_sigma"} - set(names)
        if missing:
            yield f"MOSAIC's loss also reads {', '.join(sorted(missing))}, left out here"
        yield from _notes_of_labels(table, names)
        if {"observations", "student_observations"} <= set(names):
            yield "MOSAIC loads observations, but trains on student_observations only"
        if not {"observations", "student_observations"} & set(names):
            yield "MOSAIC cannot train on it: no observations"


def arrays_of(plan: ExportPlan) -> dict[str, ArraySpec]:
    """Shape and dtype of each array; floats are float32, which MOSAIC's networks take."""
    width = plan.table.state.num_envs if plan.layout == GRID else 1
    leading = plan.selection.num_pairs // width, width
    arrays: dict[str, ArraySpec] = {
        f.name: (
            (*leading, *((f.width,) if _is_flattened(f) else f.row_shape)),
            "float32" if f.is_float else f.dtype,
        )
        for f in plan.fields
        if f.name != VALID_MASK
    }
    if plan.layout == GRID and plan.table.has_mask:
        arrays[VALID_MASK] = leading, "bool"
    return arrays


def _is_flattened(field: Field) -> bool:
    """Whether several axes of the field become one."""
    return field.has_axes and field.name in MOSAIC_FIELDS


def file_metadata(plan: ExportPlan) -> dict[str, Any]:
    """MOSAIC's ``metadata``, and the export's provenance in it."""
    state, arrays = plan.table.state, arrays_of(plan)
    fields = state.schema.fields
    widths = {f.name: None if f.dim is None else f.width for f in fields}
    axes = {f.name: list(f.row_shape) for f in fields if f.name in arrays and _is_flattened(f)}
    ours = {"layout": plan.layout, **plan.provenance, **({AXES: axes} if axes else {})}
    return {
        "num_trajectories": state.num_trajectories,
        "num_steps": plan.num_valid,
        "obs_dim_dict": {n: width for n, width in widths.items() if n.endswith("observations")},
        "action_dim": widths.get("actions"),
        "has_valid_mask": VALID_MASK in arrays,
        **(plan.options.metadata or {}),
        OURS: ours,
    }


def _notes_of_ids(table: Table, names: Collection[str]) -> Iterator[str]:
    """Note how the ids of several stores became unique."""
    if TRAJECTORY_ID in names:
        for part in table.parts[1:]:
            raised = f"its own and {part.numbering.first_id} more, to be unique"
            yield f"{TRAJECTORY_ID}: those of {part.address} are {raised}"
    if MOTION_ID not in names:
        return
    if any(part.numbering.changes(MOTION_ID) for part in table.parts):
        yield (
            f"{MOTION_ID}: numbered through {table.parts[0].numbering.num_motions} motions of all "
            "stores; the file's metadata hold the new ids of each store under motion_ids"
        )
    unnamed = [part.address for part in table.parts if not part.numbering.motions]
    if unnamed:
        yield (
            f"{MOTION_ID}: the metadata of {', '.join(unnamed)} name no motions, so one id of "
            "theirs may mean several motions"
        )


def _notes_of_labels(table: Table, names: Collection[str]) -> Iterator[str]:
    """Note which labels a trainer gets, if ``actions`` were perturbed."""
    acting = [key for part in table.parts for key in object_in(part.state.metadata, "acting")]
    if "actions" not in names or _PERTURBING.isdisjoint(acting):
        return
    if "action_mean" in names:
        yield "MOSAIC learns from action_mean; actions are what was executed, disturbed on purpose"
    else:
        yield (
            "WARNING: the labels left are actions, which were disturbed on purpose, and MOSAIC "
            "would learn the disturbance: export action_mean, too"
        )


def _batches(pieces: Iterable[Piece], file: FilePlan) -> Iterator[list[Piece]]:
    """All pieces, as many at a time as make up ``_BATCH_NBYTES``."""
    batch, size = list[Piece](), 0
    for field, cell in pieces:
        batch.append((field, cell))
        size += math.prod(cell.shape) * file.arrays[field].row_nbytes
        if size >= _BATCH_NBYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@dataclass(frozen=True)
class _PieceWriter:
    """Writes pieces to their places; pickles if ``opened`` does.

    The bytes written are the same each time: a batch may be written twice.
    """

    plan: ExportPlan
    opened: Opened

    def __call__(self, batch: Iterable[Piece]) -> int:
        """Write all rows of some pieces; return the bytes written."""
        with self.opened() as fd:
            return sum(self._put(fd, field, cell) for field, cell in batch)

    def require_seen(self) -> None:
        """Raise if this process does not see the same stores and the same file."""
        self.plan.table.require_seen()
        with self.opened():
            pass

    def place(self, field: str, block: int) -> tuple[int, int]:
        """Place of a block's rows in the file: the first byte, and the number of bytes."""
        first, stop = self.plan.selection.first_rows[block : block + 2].tolist()
        array = self.plan.file.arrays[field]
        return array.offset + first * array.row_nbytes, (stop - first) * array.row_nbytes

    def _put(self, fd: int, field: str, cell: Cell) -> int:
        """Write the chosen rows of a cell; return the bytes written."""
        plan, array = self.plan, self.plan.file.arrays[field]
        chosen = plan.selection.block(cell.block)
        mine = chosen[cell.at]
        if not mine.any():
            return 0
        values = plan.table.read_cell(field, cell)
        rows = values if mine.all() else values[mine]
        rows = exported(rows, array.dtype)
        may_be_nonfinite = plan.layout == GRID and plan.options.allow_nonfinite
        if rows.dtype.kind == "f" and not may_be_nonfinite:
            self._check(rows, field, cell.block)
        start, _ = self.place(field, cell.block)
        if cell.shape == chosen.shape:
            write_at(fd, rows, start)
            return rows.nbytes
        # Rows of one step lie together in the file, behind those of the environments before.
        ends = np.cumsum(np.count_nonzero(mine, axis=1)) * array.row_nbytes
        steps = np.cumsum(np.count_nonzero(chosen, axis=1))
        steps -= np.count_nonzero(chosen[:, cell.envs.start :], axis=1)
        steps = steps[cell.at[0]]
        data, begin = rows.reshape(-1).view(np.uint8), 0
        for end, before in zip(ends.tolist(), (steps * array.row_nbytes).tolist(), strict=True):
            write_at(fd, data[begin:end], start + before)
            begin = end
        return rows.nbytes

    def _check(self, rows: NDArray[Any], field: str, block: int) -> None:
        if not all_finite(rows) and not finite_rows(rows.reshape(len(rows), 1, -1)).all():
            table = self.plan.table
            at, inside = table.place(block)
            raise CorruptStoreError(
                f"{table.parts[at].address}: {field}, block {inside} holds NaN or infinity, "
                "which the metadata denies"
            )


def _write_back(fd: int, start: int, nbytes: int) -> None:
    """Let the disk begin now with a range, so that the last sync need not do it all.

    Linux starts writing a range's dirty pages when told that it will not be needed.
    """
    if hasattr(os, "posix_fadvise") and nbytes:
        os.posix_fadvise(fd, start, nbytes, os.POSIX_FADV_DONTNEED)
