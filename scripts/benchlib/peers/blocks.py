"""Recorders for libraries that have no buffers of their own: steps are gathered into blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchlib.measure import sync_tree
from benchlib.peers import Plan
from benchlib.workload import Rows, Workload


class BlockRecorder:
    """Gathers steps in buffers that are used in turn; a subclass writes whole blocks.

    Attributes:
        slots: Number of buffers: one fills, the others are written.
        env_major: Buffers ``(N, steps[, D])`` as in this package, else ``(steps, N[, D])``.
    """

    slots, env_major = 3, True

    def __init__(self, workload: Workload, plan: Plan) -> None:
        self.path, self._steps, self._count, self._start = plan.path, plan.block_steps, 0, 0
        self._writing: list[list[Any]] = []
        self._slots = [
            {n: self._empty(v) for n, v in workload.pool.items()} for _ in range(self.slots)
        ]

    def write(self, start: int, values: Rows) -> list[Any]:
        """Write a block ``(count, N[, D])`` from step ``start`` on; return futures to wait for."""
        raise NotImplementedError

    def close(self) -> None:
        """Close what is open, behind the last block."""

    def add(self, rows: Rows) -> None:
        for name, value in rows.items():
            buffer = self._slots[0][name]
            (buffer[:, self._count] if self.env_major else buffer[self._count])[...] = value
        self._count += 1
        if self._count == self._steps:
            self._flush()

    def finish(self) -> None:
        if self._count:
            self._flush()
        self._wait(0)
        self.close()
        sync_tree(self.path)

    def _flush(self) -> None:
        block, count = self._slots[0], self._count
        values = {n: v.swapaxes(0, 1) if self.env_major else v for n, v in block.items()}
        self._writing.append(self.write(self._start, {n: v[:count] for n, v in values.items()}))
        self._slots = [*self._slots[1:], block]
        self._start, self._count = self._start + count, 0
        self._wait(self.slots - 1)

    def _wait(self, left: int) -> None:
        """Until at most ``left`` blocks are being written."""
        while len(self._writing) > left:
            for future in self._writing.pop(0):
                future.result()

    def _empty(self, values: NDArray[Any]) -> NDArray[Any]:
        num_envs, *row = values.shape[1:]
        axes = (num_envs, self._steps) if self.env_major else (self._steps, num_envs)
        return np.zeros((*axes, *row), values.dtype)
