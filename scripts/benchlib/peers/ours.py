"""This package."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from benchlib.peers import Plan
from benchlib.workload import Rows, Workload
from mosaic_collect import Field, Schema, TrajectoryDataset, TrajectoryWriter
from mosaic_collect.store.schema import MOSAIC_SIGMA, VALID_MASK

_STAND_INS = {"action_mean": "actions", "action_sigma": MOSAIC_SIGMA}


def schema_of(workload: Workload) -> Schema:
    """The fields of a workload."""
    return Schema(
        tuple(
            Field(
                name=name,
                dim=values.shape[2:],
                dtype=str(values.dtype),
                default=_STAND_INS.get(name),
            )
            for name, values in workload.pool.items()
            if name != VALID_MASK
        )
    )


class Ours:
    """``TrajectoryWriter``."""

    encode_in = "auto"

    def __init__(self, workload: Workload, plan: Plan) -> None:
        self.writer = TrajectoryWriter(
            plan.path,
            schema_of(workload),
            workload.num_envs,
            buffer_mb=plan.buffer_mb,
            compressor=plan.compressor,
            encode_in=self.encode_in,
        )
        workload.require_distinct(self.writer.block_steps)

    def add(self, rows: Rows) -> None:
        self.writer.add_step(**rows)

    def finish(self) -> None:
        self.writer.close()

    @staticmethod
    def read(path: str, field: str, start: int, stop: int) -> NDArray[Any]:
        return TrajectoryDataset(path, threads=1).read(field, start, stop)


class OursInThreads(Ours):
    """The same without a process for encoding."""

    encode_in = "threads"
