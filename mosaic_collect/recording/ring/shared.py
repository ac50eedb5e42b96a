"""The ring's memory where another process sees it, too: a file in memory without a name.

    ┌──────── slot 0 ────────┬──────── slot 1 ────────┬ …
    │ field │ field │ …      │ field │ field │ …      │
    └────────────────────────┴────────────────────────┴ …

Both processes compute the same places from the same numbers. The memory is gone when the last one
that maps it is. On Linux: memfd_create(2).
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.store.grid import FieldGrid


class SharedRing:
    """Memory of ``slots`` blocks. Pages are made when they are touched.

    Args:
        grids: All stored fields' cuttings.
        slots: Blocks.
        by_step: Whether a step's rows lie side by side in memory, and not an environment's. A step
            is then written in one piece, without a page table's walk for each row.
        fd: The other process's descriptor; None makes new memory.

    Attributes:
        bytes: All of it.

    Raises:
        OSError: The system gives no such memory.
    """

    def __init__(
        self, grids: Mapping[str, FieldGrid], slots: int, by_step: bool, fd: int | None = None
    ) -> None:
        self._grids, self.slots, self.by_step, self.fd = grids, slots, by_step, -1
        self._slot_nbytes = sum(_whole_pages(_nbytes(g)) for g in grids.values())
        self.fd = os.memfd_create("mosaic_collect") if fd is None else fd
        self._close = weakref.finalize(self, os.close, self.fd)
        self._close.atexit = False
        try:
            if fd is None:
                os.ftruncate(self.fd, slots * self._slot_nbytes)
            memory = mmap.mmap(self.fd, slots * self._slot_nbytes)
        except BaseException:
            self.close()
            raise
        with contextlib.suppress(OSError, AttributeError):
            memory.madvise(mmap.MADV_HUGEPAGE)
        self.bytes: NDArray[np.uint8] = np.frombuffer(memory, np.uint8)

    def slot(self, index: int) -> dict[str, NDArray[Any]]:
        """One block's buffers, ``(padded_envs, block_steps[, dim])`` a field, of any strides."""
        arrays, offset = {}, index * self._slot_nbytes
        for name, grid in self._grids.items():
            part = self.bytes[offset : offset + _nbytes(grid)]
            envs, steps, *dims = grid.buffer_shape
            values = part.view(grid.field.dtype)
            if self.by_step:
                arrays[name] = values.reshape(steps, envs, *dims).swapaxes(0, 1)
            else:
                arrays[name] = values.reshape(grid.buffer_shape)
            offset += _whole_pages(part.nbytes)
        return arrays

    def close(self) -> None:
        """Close the descriptor. The memory stays until nothing refers to it any more."""
        self.fd = -1
        self._close()


def _nbytes(grid: FieldGrid) -> int:
    return math.prod(grid.buffer_shape) * np.dtype(grid.field.dtype).itemsize


def _whole_pages(nbytes: int) -> int:
    return -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
