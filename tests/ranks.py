"""Folders of ranks whose values say where they belong."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from mosaic_collect import Schema, TrajectoryWriter
from mosaic_collect.store.schema import Field
from tests.helpers import SMALL, rows

MOVING = Schema((*SMALL.fields, Field(name="motion_id", dtype="int32")))
#: Rank -> (steps, environments): of different lengths and widths, the third never started.
RAGGED = {0: (5, 3), 1: (6, 4), 3: (8, 2)}
EVEN = {0: (5, 3), 1: (9, 3)}


def record_rank(
    folder: Any,
    rank: int,
    steps: int,
    num_envs: int,
    schema: Schema = SMALL,
    world_size: int | None = 4,
    complete: bool = True,
    **options: Any,
) -> str:
    """A rank's store: environment 0 ends a trajectory after step 3, and only two count."""
    writer = TrajectoryWriter(
        folder, schema, num_envs, rank=rank, world_size=world_size, buffer_mb=0.01, **options
    )
    for step in range(writer.num_steps, steps):
        writer.add_step(**rows(step, num_envs, schema), valid_mask=np.arange(num_envs) < 2)
        if step == 3:
            writer.end_trajectories([0])
    writer.close(complete=complete)
    return writer.path


def record_ranks(folder: Any, sizes: Mapping[int, tuple[int, int]] = RAGGED, **options: Any) -> str:
    """A folder of complete ranks."""
    for rank, (steps, num_envs) in sizes.items():
        record_rank(folder, rank, steps, num_envs, **options)
    return os.fspath(folder)
