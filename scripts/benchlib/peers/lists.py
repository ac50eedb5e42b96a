"""As MOSAIC's collector does it: lists of copies, stacked at the end, pickled by np.save."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchlib.measure import sync_tree
from benchlib.peers import Plan
from benchlib.workload import Rows, Workload


class Lists:
    """``append(tensor.clone())``, ``torch.stack``, ``np.save``."""

    def __init__(self, workload: Workload, plan: Plan) -> None:
        self._path = plan.path
        self._lists: dict[str, list[torch.Tensor]] = {n: [] for n in workload.pool}

    def add(self, rows: Rows) -> None:
        for name, value in rows.items():
            self._lists[name].append(torch.from_numpy(value).clone())

    def finish(self) -> None:
        stacked = {n: torch.stack(v, dim=0).numpy() for n, v in self._lists.items()}
        with open(self._path, "wb") as file:
            np.save(file, np.array(stacked, dtype=object), allow_pickle=True)
        sync_tree(self._path)

    @staticmethod
    def read(path: str, field: str, start: int, stop: int) -> NDArray[Any]:
        if _loaded[0] != path:
            _loaded[:] = [path, np.load(path, allow_pickle=True).item()]
        values: NDArray[Any] = _loaded[1][field][start:stop]
        return values


#: The file read last; it can only be read as a whole.
_loaded: list[Any] = ["", {}]
