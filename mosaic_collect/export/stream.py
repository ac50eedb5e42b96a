"""Writing arrays' values into a planned file, slab by slab, several at once.

Each slab's rows go to where they belong with ``pwrite``; nothing is held but the slabs at work:
``3 * CELL_NBYTES`` each, about, whatever the store's size.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import CorruptStoreError
from mosaic_collect.npyfile.layout import ArraySpec
from mosaic_collect.reading.selection import Selection, exported
from mosaic_collect.reading.table import Cell, Table
from mosaic_collect.store.counts import all_finite, finite_rows

#: Opens the file for some pieces of it; gives its descriptor.
Opened = Callable[[], AbstractContextManager[int]]


class Piece(NamedTuple):
    """A cell of one field; ``is_last`` of its block."""

    field: str
    cell: Cell
    is_last: bool


def batches(
    table: Table, selection: Selection, arrays: Mapping[str, ArraySpec], nbytes: int
) -> Iterator[tuple[Piece, ...]]:
    """All pieces, field by field, each time so many that they are of ``nbytes`` or more."""
    batch, size = list[Piece](), 0
    for piece in _pieces(table, selection, arrays):
        batch.append(piece)
        size += math.prod(piece.cell.shape) * _row_nbytes(arrays[piece.field])
        if size >= nbytes:
            yield tuple(batch)
            batch, size = [], 0
    if batch:
        yield tuple(batch)


def _pieces(table: Table, selection: Selection, fields: Iterable[str]) -> Iterator[Piece]:
    for field in fields:
        for block in range(table.state.num_blocks):
            cells = list(selection.cells_of(block, field))
            for number, cell in enumerate(cells, 1):
                yield Piece(field, cell, number == len(cells))


def _row_nbytes(spec: ArraySpec) -> int:
    """Of a pair's row; the first two axes are those of pairs."""
    return int(np.dtype(spec.dtype).itemsize) * math.prod(spec.shape[2:])


class PieceWriter:
    """Writes pieces to where they belong; pickles if ``opened`` does.

    What is written is the same each time: a batch may be written twice.

    Args:
        table: The stores.
        selection: Which pairs.
        arrays: The fields' form in the file.
        offsets: Where they begin there.
        finite: Whether a value that is NaN or infinite contradicts the metadata.
        opened: The file.
    """

    def __init__(
        self,
        table: Table,
        selection: Selection,
        arrays: Mapping[str, ArraySpec],
        offsets: Mapping[str, int],
        finite: bool,
        opened: Opened,
    ) -> None:
        self._table, self._selection = table, selection
        self._arrays, self._offsets = arrays, offsets
        self._finite, self._opened = finite, opened

    def __call__(self, batch: Iterable[Piece]) -> int:
        """Write all rows of some pieces; the bytes written.

        Raises:
            CorruptStoreError: A damaged chunk.
            OSError: The file cannot be written.
        """
        with self._opened() as fd:
            return sum(self._put(fd, piece.field, piece.cell) for piece in batch)

    def require_seen(self) -> None:
        """Make sure that this process sees the stores and the file.

        Raises:
            StoreError, WriteError, OSError: It does not.
        """
        self._table.require_seen()
        with self._opened():
            pass

    def place(self, field: str, block: int) -> tuple[int, int]:
        """Where the block's rows of the field lie: the first byte, and how many."""
        first, stop = self._selection.first_rows[block : block + 2].tolist()
        row_nbytes = _row_nbytes(self._arrays[field])
        return self._offsets[field] + first * row_nbytes, (stop - first) * row_nbytes

    def _put(self, fd: int, field: str, cell: Cell) -> int:
        """Write the chosen rows of a cell; the bytes written."""
        chosen = self._selection.block(cell.block)
        mine = chosen[cell.at]
        if not mine.any():
            return 0
        values = self._table.read_cell(field, cell)
        rows = values if mine.all() else values[mine]
        rows = exported(rows, self._arrays[field].dtype)
        if self._finite and rows.dtype.kind == "f":
            self._check(rows, field, cell.block)
        data = rows.reshape(-1).view(np.uint8).data
        start, _ = self.place(field, cell.block)
        if cell.shape == chosen.shape:
            pwrite_all(fd, data, start)
            return len(data)
        # Rows of one step lie together in the file, behind those of the environments before.
        row_nbytes = _row_nbytes(self._arrays[field])
        ends = np.cumsum(np.count_nonzero(mine, axis=1)) * row_nbytes
        steps = np.cumsum(np.count_nonzero(chosen, axis=1))
        steps -= np.count_nonzero(chosen[:, cell.envs.start :], axis=1)
        steps = steps[cell.at[0]]
        begin = 0
        for end, before in zip(ends.tolist(), (steps * row_nbytes).tolist(), strict=True):
            pwrite_all(fd, data[begin:end], start + before)
            begin = end
        return len(data)

    def _check(self, rows: NDArray[Any], field: str, block: int) -> None:
        if not all_finite(rows) and not finite_rows(rows.reshape(len(rows), 1, -1)).all():
            at, inside = self._table.place(block)
            raise CorruptStoreError(
                f"{self._table.parts[at].address}: {field}, block {inside} holds NaN or infinity, "
                "which the metadata denies"
            )


def write_back(fd: int, start: int, nbytes: int) -> None:
    """Let the disk begin now with a range, so that the last sync need not do it all.

    Linux starts writing a range's dirty pages when told that it will not be needed.
    """
    if hasattr(os, "posix_fadvise") and nbytes:
        os.posix_fadvise(fd, start, nbytes, os.POSIX_FADV_DONTNEED)


def pwrite_all(fd: int, data: memoryview, offset: int) -> None:
    """Write all of ``data`` at ``offset``, however few bytes a call takes."""
    while len(data):
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written
