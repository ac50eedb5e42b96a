"""Room for batches, used again once nobody holds a batch, or a part of one, any more."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mosaic_collect.store.schema import Field

Batch = dict[str, torch.Tensor]
_KEPT = 4  # of a field: one that is held, and those on their way


class HostBatches:
    """Batches in this machine's memory: fresh pages cost as much as filling them.

    A tensor's storage holds the array that it was made of, and so does every view of it: when
    that array goes, all of them are gone.

    Args:
        fields: Of a batch.
        size: Rows of the largest.
        pin_memory: Page-locked ones. Torch's own allocator uses these again, once copies that
            were started from them have ended.
    """

    def __init__(self, fields: Sequence[Field], size: int, pin_memory: bool) -> None:
        self._fields, self._size, self._pinned = fields, size, pin_memory
        self._free: dict[str, list[NDArray[Any]]] = {f.name: [] for f in fields}

    def empty(self, size: int) -> Batch:
        """Room for a batch of so many rows."""
        return {f.name: self._field(f, size) for f in self._fields}

    def _field(self, field: Field, size: int) -> torch.Tensor:
        if self._pinned:
            shape = (size, *field.row_shape)
            dtype = getattr(torch, field.dtype)
            return torch.empty(shape, dtype=dtype, device="cpu", pin_memory=True)
        free = self._free[field.name]
        room = free.pop() if free else np.empty((self._size, *field.row_shape), field.dtype)
        rows = room[:size]
        weakref.finalize(rows, _keep, free, room).atexit = False
        return torch.from_numpy(rows)


def _keep(free: list[NDArray[Any]], room: NDArray[Any]) -> None:
    """For the next batch, unless the caller held many and let them go."""
    if len(free) < _KEPT:
        free.append(room)
