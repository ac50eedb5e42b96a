"""np.memmap: one ``.npy`` file a field, mapped, written in place."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchlib.measure import sync_tree
from benchlib.peers import Plan
from benchlib.workload import Rows, Workload


class Memmap:
    """``np.lib.format.open_memmap``."""

    def __init__(self, workload: Workload, plan: Plan) -> None:
        os.makedirs(plan.path)
        self._path, self._count = plan.path, 0
        self._maps = {
            n: np.lib.format.open_memmap(
                _file(plan.path, n), "w+", v.dtype, (plan.steps, *v.shape[1:])
            )
            for n, v in workload.pool.items()
        }

    def add(self, rows: Rows) -> None:
        for name, value in rows.items():
            self._maps[name][self._count] = value
        self._count += 1

    def finish(self) -> None:
        for values in self._maps.values():
            values.flush()
        sync_tree(self._path)

    @staticmethod
    def read(path: str, field: str, start: int, stop: int) -> NDArray[Any]:
        return np.asarray(np.load(_file(path, field), mmap_mode="r")[start:stop])


def _file(path: str, field: str) -> str:
    return os.path.join(path, f"{field}.npy")
