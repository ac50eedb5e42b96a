"""tensordict's memory-mapped tensors, which torchrl's LazyMemmapStorage keeps its rows in."""

from __future__ import annotations

import os
from typing import Any

import torch
from numpy.typing import NDArray
from tensordict import MemoryMappedTensor, TensorDict

from benchlib.measure import sync_tree
from benchlib.peers import Plan
from benchlib.workload import Rows, Workload


class MemoryMapped:
    """A ``TensorDict`` of ``MemoryMappedTensor``s, set step by step."""

    def __init__(self, workload: Workload, plan: Plan) -> None:
        os.makedirs(plan.path)
        self._path, self._count = plan.path, 0
        torch.set_num_threads(1)
        tensors = {
            n: MemoryMappedTensor.empty(
                (plan.steps, *v.shape[1:]),
                dtype=torch.from_numpy(v).dtype,
                filename=os.path.join(plan.path, f"{n}.memmap"),
            )
            for n, v in workload.pool.items()
        }
        self._data = TensorDict(tensors, batch_size=[plan.steps, workload.num_envs])
        self._data.memmap_(plan.path)

    def add(self, rows: Rows) -> None:
        self._data[self._count] = {n: torch.from_numpy(v) for n, v in rows.items()}
        self._count += 1

    def finish(self) -> None:
        sync_tree(self._path)

    @staticmethod
    def read(path: str, field: str, start: int, stop: int) -> NDArray[Any]:
        values: NDArray[Any] = TensorDict.load_memmap(path)[field][start:stop].numpy()
        return values
