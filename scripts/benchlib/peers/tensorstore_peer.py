"""Tensorstore, given this package's layout and codec, fsync as it does by itself."""

from __future__ import annotations

from typing import Any

import tensorstore as ts
from numpy.typing import NDArray

from benchlib.peers import Plan
from benchlib.peers.blocks import BlockRecorder
from benchlib.peers.layout import array_documents, array_path
from benchlib.workload import Rows, Workload


class Tensorstore(BlockRecorder):
    """Whole blocks written asynchronously, straight from env-major buffers."""

    def __init__(self, workload: Workload, plan: Plan) -> None:
        super().__init__(workload, plan)
        workload.require_distinct(plan.block_steps)
        documents = array_documents(workload, plan)
        self._arrays = {
            n: ts.open(_spec(array_path(plan.path, n)) | {"metadata": d, "create": True}).result()
            for n, d in documents.items()
        }

    def write(self, start: int, values: Rows) -> list[Any]:
        return [
            self._arrays[n][start : start + len(v)].write(
                v, can_reference_source_data_indefinitely=True
            )
            for n, v in values.items()
        ]

    @staticmethod
    def read(path: str, field: str, start: int, stop: int) -> NDArray[Any]:
        array = ts.open(_spec(array_path(path, field)), read=True).result()
        values: NDArray[Any] = array[start:stop].read().result()
        return values


def _spec(path: str) -> dict[str, Any]:
    return {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}
