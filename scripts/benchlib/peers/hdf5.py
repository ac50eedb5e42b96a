"""h5py, twice: whole blocks into chunked datasets, and episodes as Isaac Lab writes them."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from benchlib.measure import sync_path
from benchlib.peers import Plan
from benchlib.peers.blocks import BlockBuffers
from benchlib.peers.layout import array_documents
from benchlib.workload import Rows, Workload


class Blocks:
    """A dataset a field, chunks of a block, lzf behind a byte shuffle."""

    def __init__(self, workload: Workload, plan: Plan) -> None:
        self._path = plan.path
        workload.require_distinct(plan.block_steps)
        self._file = h5py.File(plan.path, "w")
        self._blocks = BlockBuffers(workload, plan.block_steps, 1, env_major=False)
        for name, document in array_documents(workload, plan).items():
            values = workload.pool[name]
            shape = (plan.steps, *values.shape[1:])
            chunk = document["codecs"][0]["configuration"]["chunk_shape"]
            self._file.create_dataset(
                name,
                shape=shape,
                dtype=values.dtype,
                chunks=tuple(min(c, s) for c, s in zip(chunk, shape, strict=True)),
                compression="lzf",
                shuffle=True,
            )

    def add(self, rows: Rows) -> None:
        if self._blocks.add(rows):
            self._write()

    def finish(self) -> None:
        if self._blocks.count:
            self._write()
        self._file.close()
        sync_path(self._path)

    @staticmethod
    def read(path: str, field: str, start: int, stop: int) -> NDArray[Any]:
        with h5py.File(path) as file:
            return np.asarray(file[field][start:stop])

    def _write(self) -> None:
        start, values = self._blocks.take()
        for name, block in values.items():
            self._file[name][start : start + len(block)] = block


class Episodes:
    """A group an episode and a gzip dataset a field in it, written when the episode ends.

    An episode is one environment for the whole recording, and all end at once: the fewest and
    largest datasets there can be.
    """

    def __init__(self, workload: Workload, plan: Plan) -> None:
        self._path = plan.path
        self._file = h5py.File(plan.path, "w")
        self._blocks = BlockBuffers(workload, plan.steps, 1, env_major=True)

    def add(self, rows: Rows) -> None:
        self._blocks.add(rows)

    def finish(self) -> None:
        _start, values = self._blocks.take()
        data = self._file.create_group("data")
        for env in range(values["valid_mask"].shape[1]):
            episode = data.create_group(f"demo_{env}")
            for name, steps in values.items():
                episode.create_dataset(name, data=steps[:, env], compression="gzip")
        self._file.close()
        sync_path(self._path)

    @staticmethod
    def read(path: str, field: str, start: int, stop: int) -> NDArray[Any]:
        with h5py.File(path) as file:
            episodes = file["data"]
            rows = [episodes[f"demo_{e}"][field][start:stop] for e in range(len(episodes))]
        return np.stack(rows, axis=1)
