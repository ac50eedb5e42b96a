"""The ring's blocks: where steps lie until they are committed.

One block buffer per field, env-major; step ``s`` of the block is one strided write:

                 block_steps (S)
               s=0  s=1  s=2  ...
            ┌────┬────┬────┬─────┐
      env 0 │ D  │ D  │ D  │     │    each cell: dim values of one environment and step
      env 1 │ D  │ D  │ D  │     │    chunk = chunk_envs whole rows = contiguous bytes
        ... │    │    │    │     │
    padding │fill│fill│fill│fill │    up to padded_envs; never written
            └────┴────┴────┴─────┘

A ring that another process encodes may have the same arrays with steps outermost in memory
(``shared_ring``).

A ring of three: one block fills while one is encoded and one is committed. A slot is free again
only when its block is committed, so a kill loses at most the ring. "Staged" means copied: what the
caller does to its arrays after ``stage`` cannot reach the block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.store.grid import FieldGrid
from mosaic_collect.store.schema import GOES_ON, TRAJECTORY_END, TRAJECTORY_ID

#: Fields that the writer fills in itself, always on the host.
HOST_FIELDS = (TRAJECTORY_ID, TRAJECTORY_END)


class Block:
    """One slot of the ring: a buffer ``(padded_envs, block_steps[, dim])`` per field.

    Attributes:
        arrays: The buffers.
        slot: Which slot of the ring it is.
        index: Which block of the store it holds.
        count: Steps staged so far.
        filled: Whether ``fill`` was called; before that its memory is nobody's.
        wait_ready: Returns when all staged values have arrived in ``arrays``.
    """

    def __init__(
        self, arrays: dict[str, NDArray[Any]], grids: Mapping[str, FieldGrid], slot: int
    ) -> None:
        self.arrays, self.slot = arrays, slot
        self.index = -1
        self.count = 0
        self.wait_ready: Callable[[], None] = _nothing
        self.filled = False
        self._grids = grids

    def fill(self) -> None:
        """Put the fill value everywhere, before the first use.

        Though zeros could be had untouched: the block's first step would wait for all of its
        memory then, tens of milliseconds in the middle of a simulation.
        """
        self.clear_tail(0)
        self.filled = True

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
