"""Writing arrays' values into a planned file, slab by slab, several at once.

Each slab's rows go to where they belong with ``pwrite``; nothing is held but the slabs at work:
``threads`` times about ``3 * SLAB_NBYTES``, whatever the store's size.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import CorruptStoreError
from mosaic_collect.reading.part import Slab
from mosaic_collect.reading.selection import Selection
from mosaic_collect.reading.union import Source, exported
from mosaic_collect.store.counts import all_finite, finite_rows

Progress = Callable[[int], object]


class ArrayStream:
    """Writes one field's selected rows as a contiguous array.

    Args:
        source: The stores.
        selection: Which pairs.
        fd: The file.
        finite: Whether a value that is NaN or infinite contradicts the metadata.
        progress: Told the bytes written since the last call.
    """

    def __init__(
        self, source: Source, selection: Selection, fd: int, finite: bool, progress: Progress
    ) -> None:
        self._source, self._selection, self._fd = source, selection, fd
        self._finite, self._progress = finite, progress

    def write(self, field: str, dtype: str, offset: int, pool: ThreadPoolExecutor) -> None:
        """Write all rows of a field from ``offset`` on, as ``dtype``.

        Raises:
            CorruptStoreError: A damaged chunk.
            OSError: The file cannot be written.
        """
        row_nbytes = int(np.dtype(dtype).itemsize) * self._source.schema[field].width
        for block in range(self._source.num_blocks):
            chosen = self._selection.block(block)
            first = int(self._selection.first_rows[block])
            start = offset + first * row_nbytes

            def put(
                slab: Slab, block: int = block, chosen: Any = chosen, start: int = start
            ) -> int:
                return self._put(field, dtype, block, slab, chosen, start, row_nbytes)

            for written in pool.map(put, self._source.slabs(field, block)):
                self._progress(written)
            self._write_back(start, int(np.count_nonzero(chosen)) * row_nbytes)

    def _put(
        self,
        field: str,
        dtype: str,
        block: int,
        slab: Slab,
        chosen: NDArray[np.bool_],
        start: int,
        row_nbytes: int,
    ) -> int:
        """Write the chosen rows of a slab; the bytes written."""
        mine = chosen[slab.at]
        if not mine.any():
            return 0
        values = self._source.read(field, block, slab)
        rows = values if mine.all() else values[mine]
        rows = exported(rows, dtype)
        if self._finite and rows.dtype.kind == "f":
            self._check(rows, field, block)
        data = rows.reshape(-1).view(np.uint8).data
        if slab.shape == chosen.shape:
            pwrite_all(self._fd, data, start)
            return len(data)
        # Rows of one step lie together in the file, behind those of the environments before.
        ends = np.cumsum(np.count_nonzero(mine, axis=1)) * row_nbytes
        steps = np.cumsum(np.count_nonzero(chosen, axis=1))
        steps -= np.count_nonzero(chosen[:, slab.envs.start :], axis=1)
        steps = steps[slab.at[0]]
        begin = 0
        for end, before in zip(ends.tolist(), (steps * row_nbytes).tolist(), strict=True):
            pwrite_all(self._fd, data[begin:end], start + before)
            begin = end
        return len(data)

    def _check(self, rows: NDArray[Any], field: str, block: int) -> None:
        if not all_finite(rows) and not finite_rows(rows.reshape(len(rows), 1, -1)).all():
            part, inside = self._source.place(block)
            raise CorruptStoreError(
                f"{part.path}: {field}, block {inside} holds NaN or infinity, which the "
                "metadata denies"
            )

    def _write_back(self, start: int, nbytes: int) -> None:
        """Let the disk begin now, so that the last sync need not do it all.

        Linux starts writing a range's dirty pages when told that it will not be needed.
        """
        if hasattr(os, "posix_fadvise") and nbytes:
            os.posix_fadvise(self._fd, start, nbytes, os.POSIX_FADV_DONTNEED)


def pwrite_all(fd: int, data: memoryview, offset: int) -> None:
    """Write all of ``data`` at ``offset``, however few bytes a call takes."""
    while len(data):
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written
