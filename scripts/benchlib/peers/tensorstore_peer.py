"""Tensorstore, given this package's layout and codec, fsync as it does by itself."""

from __future__ import annotations

from typing import Any

import tensorstore as ts
from numpy.typing import NDArray

from benchlib.measure import sync_tree
from benchlib.peers import Plan
from benchlib.peers.blocks import BlockBuffers
from benchlib.peers.layout import array_documents, array_path
from benchlib.workload import Rows, Workload

_SLOTS = 3  # as many as this package's ring: one fills, two are written


class Tensorstore:
    """Whole blocks written asynchronously, straight from env-major buffers."""

    def __init__(self, workload: Workload, plan: Plan) -> None:
        documents = array_documents(workload, plan)
        self._path = plan.path
        self._arrays = {
            n: ts.open(_spec(array_path(plan.path, n)) | {"metadata": d, "create": True}).result()
            for n, d in documents.items()
        }
        workload.require_distinct(plan.block_steps)
        self._blocks = BlockBuffers(workload, plan.block_steps, _SLOTS, env_major=True)
        self._writing: list[list[Any]] = []

    def add(self, rows: Rows) -> None:
        if self._blocks.add(rows):
            self._write()

    def finish(self) -> None:
        if self._blocks.count:
            self._write()
        self._wait(0)
        sync_tree(self._path)  # the folders, which tensorstore leaves out

    @staticmethod
    def read(path: str, field: str, start: int, stop: int) -> NDArray[Any]:
        array = ts.open(_spec(array_path(path, field)), read=True).result()
        values: NDArray[Any] = array[start:stop].read().result()
        return values

    def _write(self) -> None:
        start, values = self._blocks.take()
        self._writing.append(
            [
                self._arrays[n][start : start + len(v)].write(
                    v, can_reference_source_data_indefinitely=True
                )
                for n, v in values.items()
            ]
        )
        self._wait(_SLOTS - 1)

    def _wait(self, left: int) -> None:
        """Until at most ``left`` blocks are being written."""
        while len(self._writing) > left:
            for future in self._writing.pop(0):
                future.result()


def _spec(path: str) -> dict[str, Any]:
    return {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}
