"""Block buffers for peers that have none of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchlib.workload import Rows, Workload


class BlockBuffers:
    """``slots`` buffers of ``steps`` steps, used in turn.

    Args:
        workload: Gives fields and shapes.
        steps: Of a block.
        slots: How many.
        env_major: Buffers ``(N, steps[, D])`` as in this package, else ``(steps, N[, D])``.
    """

    def __init__(self, workload: Workload, steps: int, slots: int, env_major: bool) -> None:
        self.steps, self.count, self.start = steps, 0, 0
        self._env_major = env_major
        self._slots = [
            {n: self._empty(v, steps) for n, v in workload.pool.items()} for _ in range(slots)
        ]

    def add(self, rows: Rows) -> bool:
        """Copy one step; true if the block is full now."""
        for name, value in rows.items():
            buffer = self._slots[0][name]
            (buffer[:, self.count] if self._env_major else buffer[self.count])[...] = value
        self.count += 1
        return self.count == self.steps

    def take(self) -> tuple[int, dict[str, NDArray[Any]]]:
        """First step of the block and its values ``(count, N[, D])``; the next slot is begun."""
        block, count, start = self._slots[0], self.count, self.start
        self._slots = [*self._slots[1:], block]
        self.start, self.count = start + count, 0
        if self._env_major:
            return start, {n: v.swapaxes(0, 1)[:count] for n, v in block.items()}
        return start, {n: v[:count] for n, v in block.items()}

    def _empty(self, values: NDArray[Any], steps: int) -> NDArray[Any]:
        rows = values.shape[1:]
        shape = (rows[0], steps, *rows[1:]) if self._env_major else (steps, *rows)
        return np.zeros(shape, values.dtype)
