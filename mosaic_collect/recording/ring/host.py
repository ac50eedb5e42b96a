"""Staging on the host: steps are copied straight into the ring's current block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mosaic_collect.checks import is_tensor
from mosaic_collect.recording.ring.block import Block, host_arrays
from mosaic_collect.recording.ring.shared import SharedRing
from mosaic_collect.store.grid import FieldGrid


class HostStaging:
    """Copies steps straight into the ring's current block.

    Args:
        grids: All stored fields' cuttings.
        num_envs: Environments, N.
        ring: Memory for the slots; None: this process's own.
    """

    def __init__(
        self, grids: Mapping[str, FieldGrid], num_envs: int, ring: SharedRing | None = None
    ) -> None:
        self._grids, self._num_envs, self._ring = grids, num_envs, ring

    def new_block(self, slot: int) -> Block:
        arrays = host_arrays(self._grids) if self._ring is None else self._ring.slot(slot)
        return Block(arrays, self._grids, slot)

    def begin(self, block: Block) -> None:
        """The block is written to as it is."""

    def stage(self, block: Block, rows: Mapping[str, Any]) -> None:
        for name, value in rows.items():
            target = block.arrays[name][: self._num_envs, block.count]
            np.copyto(target, as_numpy(value), casting="same_kind")

    def seal(self, block: Block) -> None:
        """All staged steps are there."""

    def close(self) -> None:
        self._ring = None


def as_numpy(value: Any) -> Any:
    """A tensor's values as a NumPy array, without a copy where that is possible."""
    if not is_tensor(value):
        return value
    if str(value.dtype) == "torch.bfloat16":  # which NumPy lacks
        value = value.float()
    # One call for detach, copy to the host, and what is only marked as negated or conjugated.
    return value.numpy(force=True)
