"""Write the arrays' values into a planned file, cell by cell, several at once.

The rows of each cell go to their place with ``pwrite``. Memory: the cells at work, about
``3 * CELL_NBYTES`` each, whatever the store's size.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import tee
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import CorruptStoreError
from mosaic_collect.export.target import Target, opened_elsewhere
from mosaic_collect.npyfile.layout import FilePlan
from mosaic_collect.passes.engine import Engine
from mosaic_collect.reading.selection import Selection, exported
from mosaic_collect.reading.table import Cell, Table
from mosaic_collect.store.counts import all_finite, finite_rows

Progress = Callable[[int], object]
#: Opens the file for some pieces; yields its descriptor.
Opened = Callable[[], AbstractContextManager[int]]
#: A field, and a cell of it.
Piece = tuple[str, Cell]
#: Bytes to hand to another process at a time, which syncs the file after them.
_BATCH_NBYTES = 256 << 20


def fill(
    target: Target,
    file: FilePlan,
    table: Table,
    selection: Selection,
    *,
    check_finite: bool,
    progress: Progress,
    engine: Engine | None,
) -> None:
    """Write a whole file; ``check_finite`` refuses NaN and infinity, which the metadata deny."""
    for offset, data in file.pieces:
        write_at(target.fd, data, offset)
    pieces: Iterator[Piece] = (
        (field, cell)
        for field in file.arrays
        for block in range(table.state.num_blocks)
        for cell in selection.cells_of(block, field)
    )
    writer = partial(_PieceWriter, table, selection, file, check_finite)
    if engine is not None:
        # A file system of several machines that keeps whole pages would else write them over its
        # neighbours'.
        os.fsync(target.fd)
        write = writer(partial(opened_elsewhere, target.temp_path))
        for nbytes in engine.map(write, _batches(pieces, file), write.require_seen):
            progress(nbytes)
        return
    write, before = writer(lambda: nullcontext(target.fd)), None
    pieces, done = tee(pieces)
    written = Engine().map(write, ([piece] for piece in pieces))
    for (field, cell), nbytes in zip(done, written, strict=True):
        progress(nbytes)
        if before not in (None, (field, cell.block)):
            _write_back(target.fd, *write.place(*before))
        before = field, cell.block


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

    table: Table
    selection: Selection
    file: FilePlan
    check_finite: bool
    opened: Opened

    def __call__(self, batch: Iterable[Piece]) -> int:
        """Write all rows of some pieces; return the bytes written."""
        with self.opened() as fd:
            return sum(self._put(fd, field, cell) for field, cell in batch)

    def require_seen(self) -> None:
        """Raise if this process does not see the same stores and the same file."""
        self.table.require_seen()
        with self.opened():
            pass

    def place(self, field: str, block: int) -> tuple[int, int]:
        """Place of a block's rows in the file: the first byte, and the number of bytes."""
        first, stop = self.selection.first_rows[block : block + 2].tolist()
        array = self.file.arrays[field]
        return array.offset + first * array.row_nbytes, (stop - first) * array.row_nbytes

    def _put(self, fd: int, field: str, cell: Cell) -> int:
        """Write the chosen rows of a cell; return the bytes written."""
        chosen = self.selection.block(cell.block)
        mine = chosen[cell.at]
        if not mine.any():
            return 0
        values = self.table.read_cell(field, cell)
        rows = values if mine.all() else values[mine]
        rows = exported(rows, self.file.arrays[field].dtype)
        if self.check_finite and rows.dtype.kind == "f":
            self._check(rows, field, cell.block)
        start, _ = self.place(field, cell.block)
        if cell.shape == chosen.shape:
            write_at(fd, rows, start)
            return rows.nbytes
        # Rows of one step lie together in the file, behind those of the environments before.
        row_nbytes = self.file.arrays[field].row_nbytes
        ends = np.cumsum(np.count_nonzero(mine, axis=1)) * row_nbytes
        steps = np.cumsum(np.count_nonzero(chosen, axis=1))
        steps -= np.count_nonzero(chosen[:, cell.envs.start :], axis=1)
        steps = steps[cell.at[0]]
        data, begin = rows.reshape(-1).view(np.uint8), 0
        for end, before in zip(ends.tolist(), (steps * row_nbytes).tolist(), strict=True):
            write_at(fd, data[begin:end], start + before)
            begin = end
        return rows.nbytes

    def _check(self, rows: NDArray[Any], field: str, block: int) -> None:
        if not all_finite(rows) and not finite_rows(rows.reshape(len(rows), 1, -1)).all():
            at, inside = self.table.place(block)
            raise CorruptStoreError(
                f"{self.table.parts[at].address}: {field}, block {inside} holds NaN or infinity, "
                "which the metadata denies"
            )


def _write_back(fd: int, start: int, nbytes: int) -> None:
    """Let the disk begin now with a range, so that the last sync need not do it all.

    Linux starts writing a range's dirty pages when told that it will not be needed.
    """
    if hasattr(os, "posix_fadvise") and nbytes:
        os.posix_fadvise(fd, start, nbytes, os.POSIX_FADV_DONTNEED)


def write_at(fd: int, values: Any, offset: int) -> None:
    """Write all bytes of an array or a buffer at ``offset``, however few bytes a call takes."""
    data = memoryview(values).cast("B")
    while len(data):
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written
