"""A store with everything to look at: terms, motions, falls, two runs, idle rows, its pace."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mosaic_collect import TrajectoryDataset, TrajectoryWriter
from mosaic_collect.store.schema import Field, Schema
from tests import helpers
from tests.cli.conftest import cli  # noqa: F401

N = 6
TERMS = {
    "observations": [{"name": "pos", "dim": 2}, {"name": "vel<b>", "dim": 3}],
    "student_observations": [{"name": "pos", "dim": 2, "frames": 3}],
}
SCHEMA = Schema.mosaic(
    obs_dim=5, action_dim=2, student_obs_dim=6, extra=[Field(name="motion_id", dtype="int32")]
).with_ends()
PACE = {
    "max_steps": 100,
    "entries": [[0, 100.0, 0, 0], [0, 110.0, 20, 2.0], [1, 500.0, 20, 0], [1, 520.0, 60, 1.0]],
}


def rich(path: str, steps: int = 60, complete: bool = True, **metadata: Any) -> TrajectoryDataset:
    """Record it."""

    def values(step: int, rows: dict[str, Any]) -> None:
        generator = np.random.default_rng(step)
        for name, value in rows.items():
            if value.dtype.kind == "f":
                value[...] = generator.standard_normal(value.shape)
            elif name == "motion_id":
                value[...] = np.arange(N) % 2
        rows["observations"][:, 1] = 0
        rows["student_observations"][:, 1::2] = 3
        rows["action_sigma"][...] = 0.1
        if step == 30:
            rows["observations"][0, 4] = np.nan

    told = {
        "terms": TERMS,
        "simulator": "toy",
        "task": "<script>alert(1)</script>",
        "checkpoint": {"path": "/c/model_1.pt", "sha256": "0"},
        "motions": [{"path": "/m/walk.npz"}, {"path": "/m/run.npz"}],
        "pace": PACE,
        **metadata,
    }
    ends = {9: [0, 1], 10: [0], 19: [2, 3], 39: [0, 1, 2], 49: [4, 5]}
    falls = {24: [3], 44: [1]}
    resumed = steps // 2
    writer = helpers.open_writer(path, N, SCHEMA, block_steps=7, metadata=told)
    for step in range(steps):
        if step == resumed:
            writer.close(complete=False)
            writer = TrajectoryWriter(path, resume=True)
        rows = helpers.rows(step, N, SCHEMA)
        values(step, rows)
        writer.add_step(**rows, valid_mask=np.arange(N) < (N if step < 50 else 4))
        writer.end_trajectories(ends.get(step, []))
        writer.end_trajectories(falls.get(step, []), failed=falls.get(step, []))
    writer.close(complete=complete)
    return TrajectoryDataset(path)


@pytest.fixture
def dataset(store: str) -> TrajectoryDataset:
    """The complete store."""
    return rich(store)
