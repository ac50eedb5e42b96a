"""Blocks of the ring: where steps are until they are committed.

One block buffer per field, env-major; step ``s`` of the block is one strided write:

                 block_steps (S)
               s=0  s=1  s=2  ...
            ┌────┬────┬────┬─────┐
      env 0 │ D  │ D  │ D  │     │    each cell: dim values of one environment and step
      env 1 │ D  │ D  │ D  │     │    chunk = chunk_envs whole rows = contiguous bytes
        ... │    │    │    │     │
    padding │fill│fill│fill│fill │    up to padded_envs; never written
            └────┴────┴────┴─────┘

A ring that another process encodes may have the same arrays with steps outermost in memory. It is a
file in memory without a name (Linux: memfd_create(2)), gone when the last process unmaps it:

    ┌──────── slot 0 ────────┬──────── slot 1 ────────┬ …
    │ field │ field │ …      │ field │ field │ …      │
    └────────────────────────┴────────────────────────┴ …

A ring of three: one block fills while one is encoded and one is committed. A slot is free again
only when its block is committed, so a kill loses at most the ring. "Staged" means copied: what the
caller does to its arrays after ``stage`` cannot reach the block.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import is_tensor
from mosaic_collect.store.grid import FieldGrid
from mosaic_collect.store.schema import GOES_ON, TRAJECTORY_END, TRAJECTORY_ID

#: Fields that the writer fills in itself, always on the host.
HOST_FIELDS = (TRAJECTORY_ID, TRAJECTORY_END)


class Block:
    """One slot of the ring: a buffer ``(padded_envs, block_steps[, dim])`` per field.

    Attributes:
        arrays: The buffers.
        slot: Number of the ring's slot.
        index: Number of the block of the store that the slot holds.
        count: Steps staged so far.
        wait_ready: Returns when all staged values have arrived in ``arrays``.
    """

    def __init__(
        self, arrays: dict[str, NDArray[Any]], grids: Mapping[str, FieldGrid], slot: int
    ) -> None:
        self.arrays, self.slot = arrays, slot
        self.index = -1
        self.count = 0
        self.wait_ready: Callable[[], None] = _nothing
        self._grids = grids

    def fill(self) -> None:
        """Put the fill value everywhere, before the first use.

        Though zeros could be had untouched: the block's first step would wait for all of its
        memory then, tens of milliseconds in the middle of a simulation.
        """
        self.clear_tail(0)

    def start(self, index: int, trajectory_ids: NDArray[np.int64]) -> None:
        """Begin another block; steps have no end, and these trajectory ids until ``set_ids``."""
        self.index, self.count, self.wait_ready = index, 0, _nothing
        self.set_ids(slice(0, len(trajectory_ids)), trajectory_ids)
        if TRAJECTORY_END in self.arrays:
            self.arrays[TRAJECTORY_END][...] = GOES_ON

    def set_ids(self, envs: Any, trajectory_ids: NDArray[np.int64]) -> None:
        """Give the environments these ids from the next step on."""
        self.arrays[TRAJECTORY_ID][envs, self.count :] = trajectory_ids[:, None]

    def set_ends(self, envs: Any, ends: NDArray[np.uint8]) -> None:
        """Give the environments' last staged rows these ends."""
        self.arrays[TRAJECTORY_END][envs, self.count - 1] = ends

    def clear_tail(self, count: int) -> None:
        """Put the fill value behind the first ``count`` steps, where an older block shows."""
        for name, array in self.arrays.items():
            array[:, count:] = self._grids[name].field.fill_value


def host_arrays(grids: Mapping[str, FieldGrid]) -> dict[str, NDArray[Any]]:
    """Buffers of one block in ordinary memory."""
    return {n: np.empty(g.buffer_shape, np.dtype(g.field.dtype)) for n, g in grids.items()}


def _nothing() -> None:
    """Values staged on the host are there at once."""


class HostStaging:
    """Copies steps straight into the ring's current block; without ``ring``, in its own memory."""

    def __init__(
        self, grids: Mapping[str, FieldGrid], num_envs: int, ring: SharedRing | None = None
    ) -> None:
        self._grids, self._num_envs, self.ring = grids, num_envs, ring

    def new_block(self, slot: int) -> Block:
        """The memory of a slot of the ring, to be filled first."""
        arrays = host_arrays(self._grids) if self.ring is None else self.ring.slot(slot)
        return Block(arrays, self._grids, slot)

    def begin(self, block: Block) -> None:
        """Stage into ``block`` from now on; what it holds already stays."""

    def stage(self, block: Block, rows: Mapping[str, Any]) -> None:
        """Copy one step behind those staged, without counting it yet.

        ``rows`` holds per field an array or tensor ``(num_envs[, dim])``, or one number for all.
        """
        for name, value in rows.items():
            target = block.arrays[name][: self._num_envs, block.count]
            np.copyto(target, as_numpy(value), casting="same_kind")

    def seal(self, block: Block) -> None:
        """All staged steps are on their way to ``block``; ``block.wait_ready`` waits for them."""

    def close(self) -> None:
        """Give back what staging took."""
        self.ring = None


def as_numpy(value: Any) -> Any:
    """A tensor's values as a NumPy array, without a copy where that is possible."""
    if not is_tensor(value):
        return value
    if str(value.dtype) == "torch.bfloat16":  # which NumPy lacks
        value = value.float()
    # One call for detach, copy to the host, and what is only marked as negated or conjugated.
    return value.numpy(force=True)


class SharedRing:
    """Memory of ``slots`` blocks. Pages are made when they are touched.

    Args:
        by_step: Whether a step's rows lie side by side in memory, and not an environment's. A step
            is then written in one piece, without a page table's walk for each row.
        fd: The other process's descriptor; None makes new memory.

    Raises:
        OSError: The system gives no such memory.
    """

    def __init__(
        self, grids: Mapping[str, FieldGrid], slots: int, by_step: bool, fd: int | None = None
    ) -> None:
        self._grids, self.slots, self.by_step, self.fd = grids, slots, by_step, -1
        self._slot_nbytes = sum(_whole_pages(g.shard_nbytes) for g in grids.values())
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
            part = self.bytes[offset : offset + grid.shard_nbytes]
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


def _whole_pages(nbytes: int) -> int:
    return -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
