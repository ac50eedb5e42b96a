"""The ring's blocks on the host: copies that nothing reaches later, ids, fill values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mosaic_collect import Field, Schema, TrajectoryDataset
from tests.helpers import ALL_DTYPES, assert_holds, assert_same, mask, open_writer, rows

N, S = 3, 4
SCHEMA = Schema((Field(name="a", dim=2), Field(name="b", dtype="int8")))


def test_a_block_used_again_shows_nothing_of_its_former_life(store: str) -> None:
    """Behind the last step of a partial block lies the fill value, not an older block's rows."""
    with open_writer(store, N, SCHEMA, block_steps=S) as writer:
        for step in range(5 * S + 1):
            writer.add_step(**rows(step, N, SCHEMA))
    view = TrajectoryDataset(store).view
    for name, grid in view.grids.items():
        out = np.empty(grid.buffer_shape, grid.field.dtype)
        view.read_into(name, 5, out)
        assert (out[:, 1:] == grid.field.fill_value).all(), name


@pytest.mark.parametrize("kind", ["arrays", "tensors"])
@pytest.mark.parametrize("block_steps", [1, 2, 5])
def test_the_caller_overwrites_its_memory_at_once(store: str, block_steps: int, kind: str) -> None:
    arrays, flags = rows(0, N, ALL_DTYPES), np.ones(N, bool)
    buffers: dict[str, Any] = {**arrays, "valid_mask": flags}
    if kind == "tensors":
        torch = pytest.importorskip("torch")
        buffers = {name: torch.from_numpy(value) for name, value in buffers.items()}
    with open_writer(store, N, ALL_DTYPES, block_steps=block_steps) as writer:
        for step in range(7):
            for name, value in rows(step, N, ALL_DTYPES).items():
                arrays[name][...] = value
            flags[...] = mask(step, N)
            writer.add_step(**buffers)
            for value in (*arrays.values(), flags):
                value[...] = 0
    dataset = TrajectoryDataset(store)
    assert_holds(dataset, range(7))
    assert_same(dataset.read("valid_mask"), np.stack([mask(s, N) for s in range(7)]))


def test_env_ids_are_taken_at_once(store: str) -> None:
    ends = np.array([0])
    with open_writer(store, N, SCHEMA) as writer:
        writer.add_step(**rows(0, N, SCHEMA))
        writer.end_trajectories(ends)
        ends[0] = 2
        writer.add_step(**rows(1, N, SCHEMA))
    got = TrajectoryDataset(store).read("trajectory_id")
    assert (got[0] != got[1]).tolist() == [True, False, False]
