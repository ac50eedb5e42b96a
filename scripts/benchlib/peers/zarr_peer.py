"""zarr-python: whole blocks, handed to one background thread."""

from __future__ import annotations

import json
import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from benchlib.measure import sync_tree
from benchlib.peers import Plan
from benchlib.peers.blocks import BlockBuffers
from benchlib.peers.layout import array_documents, array_path
from benchlib.workload import Rows, Workload

_SLOTS = 3


class ZarrDefault:
    """Chunks of a block and about 2 MB, compressed as zarr-python does by itself."""

    env_major = False

    def __init__(self, workload: Workload, plan: Plan) -> None:
        self._path = plan.path
        workload.require_distinct(plan.block_steps)
        self._arrays = self.create(workload, plan)
        self._blocks = BlockBuffers(workload, plan.block_steps, _SLOTS, self.env_major)
        self._thread = ThreadPoolExecutor(1)
        self._writing: list[Future[None]] = []

    def create(self, workload: Workload, plan: Plan) -> dict[str, Any]:
        """Make the arrays."""
        group = zarr.open_group(plan.path, mode="w-", zarr_format=3)
        documents = array_documents(workload, plan)
        arrays = {}
        for name, values in workload.pool.items():
            inner = documents[name]["codecs"][0]["configuration"]["chunk_shape"]
            shape = (plan.steps, *values.shape[1:])
            arrays[name] = group.create_array(
                name, shape=shape, dtype=values.dtype, chunks=tuple(inner)
            )
        return arrays

    def add(self, rows: Rows) -> None:
        if self._blocks.add(rows):
            self._write()

    def finish(self) -> None:
        if self._blocks.count:
            self._write()
        self._wait(0)
        self._thread.shutdown()
        sync_tree(self._path)

    @staticmethod
    def read(path: str, field: str, start: int, stop: int) -> NDArray[Any]:
        return np.asarray(zarr.open_array(array_path(path, field), mode="r")[start:stop])

    def _write(self) -> None:
        start, values = self._blocks.take()
        self._writing.append(self._thread.submit(self._store, start, values))
        self._wait(_SLOTS - 1)

    def _store(self, start: int, values: dict[str, NDArray[Any]]) -> None:
        for name, block in values.items():
            self._arrays[name][start : start + len(block)] = block

    def _wait(self, left: int) -> None:
        while len(self._writing) > left:
            self._writing.pop(0).result()


class ZarrLayout(ZarrDefault):
    """This package's layout and codec."""

    env_major = True

    def create(self, workload: Workload, plan: Plan) -> dict[str, Any]:
        arrays = {}
        for name, document in array_documents(workload, plan).items():
            folder = array_path(plan.path, name)
            os.makedirs(folder)
            with open(os.path.join(folder, "zarr.json"), "w") as file:
                json.dump(document, file)
            arrays[name] = zarr.open_array(folder, mode="r+")
        return arrays
