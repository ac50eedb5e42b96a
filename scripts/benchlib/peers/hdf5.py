"""h5py, twice: whole blocks into chunked datasets, and episodes as Isaac Lab writes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from benchlib.peers import Plan
from benchlib.peers.blocks import BlockRecorder
from benchlib.peers.layout import chunk_shapes
from benchlib.workload import Rows, Workload


class Blocks(BlockRecorder):
    """A dataset a field, chunks of a block, lzf behind a byte shuffle."""

    slots, env_major = 1, False

    def __init__(self, workload: Workload, plan: Plan) -> None:
        super().__init__(workload, plan)
        workload.require_distinct(plan.block_steps)
        self._file = h5py.File(plan.path, "w")
        for name, chunk in chunk_shapes(workload, plan).items():
            values = workload.pool[name]
            shape = (plan.steps, *values.shape[1:])
            self._file.create_dataset(
                name,
                shape=shape,
                dtype=values.dtype,
                chunks=tuple(min(c, s) for c, s in zip(chunk, shape, strict=True)),
                compression="lzf",
                shuffle=True,
            )

    def write(self, start: int, values: Rows) -> list[Any]:
        for name, block in values.items():
            self._file[name][start : start + len(block)] = block
        return []

    def close(self) -> None:
        self._file.close()

    @staticmethod
    def read(path: str, field: str, start: int, stop: int) -> NDArray[Any]:
        with h5py.File(path) as file:
            return np.asarray(file[field][start:stop])


class Episodes(BlockRecorder):
    """A group an episode and a gzip dataset a field in it, written when the episode ends.

    An episode is one environment for the whole recording, and all end at once: the fewest and
    largest datasets there can be.
    """

    slots = 1

    def __init__(self, workload: Workload, plan: Plan) -> None:
        super().__init__(workload, replace(plan, block_steps=plan.steps))

    def write(self, start: int, values: Rows) -> list[Any]:
        with h5py.File(self.path, "w") as file:
            data = file.create_group("data")
            for env in range(values["valid_mask"].shape[1]):
                episode = data.create_group(f"demo_{env}")
                for name, steps in values.items():
                    episode.create_dataset(name, data=steps[:, env], compression="gzip")
        return []

    @staticmethod
    def read(path: str, field: str, start: int, stop: int) -> NDArray[Any]:
        with h5py.File(path) as file:
            episodes = file["data"]
            rows = [episodes[f"demo_{e}"][field][start:stop] for e in range(len(episodes))]
        return np.stack(rows, axis=1)
