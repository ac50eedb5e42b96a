"""zarr-python: whole blocks, handed to one background thread."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from benchlib.peers import Plan
from benchlib.peers.blocks import BlockRecorder
from benchlib.peers.layout import array_documents, array_path, chunk_shapes
from benchlib.workload import Rows, Workload


class ZarrDefault(BlockRecorder):
    """Chunks of a block and about 2 MB, compressed as zarr-python does by itself."""

    env_major = False

    def __init__(self, workload: Workload, plan: Plan) -> None:
        super().__init__(workload, plan)
        workload.require_distinct(plan.block_steps)
        self._arrays = self.create(workload, plan)
        self._thread = ThreadPoolExecutor(1)

    def create(self, workload: Workload, plan: Plan) -> dict[str, Any]:
        """Make the arrays."""
        group = zarr.open_group(plan.path, mode="w-", zarr_format=3)
        chunks = chunk_shapes(workload, plan)
        return {
            name: group.create_array(
                name, shape=(plan.steps, *v.shape[1:]), dtype=v.dtype, chunks=tuple(chunks[name])
            )
            for name, v in workload.pool.items()
        }

    def write(self, start: int, values: Rows) -> list[Any]:
        return [self._thread.submit(self._store, start, values)]

    def close(self) -> None:
        self._thread.shutdown()

    @staticmethod
    def read(path: str, field: str, start: int, stop: int) -> NDArray[Any]:
        return np.asarray(zarr.open_array(array_path(path, field), mode="r")[start:stop])

    def _store(self, start: int, values: Rows) -> None:
        for name, block in values.items():
            self._arrays[name][start : start + len(block)] = block


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
