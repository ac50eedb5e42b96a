"""The ring's blocks on the host: copies that nothing reaches later, ids, fill values."""

from __future__ import annotations

import numpy as np
import pytest

from mosaic_collect import Field, Schema, TrajectoryDataset
from mosaic_collect.recording.ring.blocks import Block, HostStaging
from mosaic_collect.store.grid import FieldGrid
from tests.helpers import ALL_DTYPES, assert_holds, assert_same, mask, open_writer, rows, values

N, S = 3, 4
SCHEMA = Schema((Field(name="a", dim=2), Field(name="b", dtype="int8")))


def make() -> tuple[HostStaging, Block]:
    grids = {f.name: FieldGrid(f, N, S, chunk_envs=2) for f in SCHEMA.stored}
    staging = HostStaging(grids, N)
    block = staging.new_block(0)
    block.fill()
    return staging, block


def test_a_new_block_is_fill_value_and_padded() -> None:
    _, block = make()
    assert {n: a.shape for n, a in block.arrays.items()} == {
        "a": (4, S, 2),
        "b": (4, S),
        "valid_mask": (4, S),
        "trajectory_id": (4, S),
    }
    assert not block.arrays["a"].any()
    assert (block.arrays["trajectory_id"] == -1).all()


def test_a_step_is_a_column_and_padding_stays_fill() -> None:
    staging, block = make()
    for step in range(S):
        staging.stage(block, {**rows(step, N, SCHEMA), "valid_mask": mask(step, N)})
        block.count += 1
    for step in range(S):
        assert_same(block.arrays["a"][:N, step], values(SCHEMA["a"], 0, step, N))
        assert_same(block.arrays["b"][:N, step], values(SCHEMA["b"], 1, step, N))
        assert_same(block.arrays["valid_mask"][:N, step], mask(step, N))
    assert not block.arrays["a"][N:].any()


def test_one_number_stands_for_all() -> None:
    staging, block = make()
    staging.stage(block, {"a": 0.25, "b": 7, "valid_mask": True})
    assert (block.arrays["a"][:N, 0] == 0.25).all()
    assert (block.arrays["b"][:N, 0] == 7).all()
    assert block.arrays["valid_mask"][:N, 0].all()
    assert not block.arrays["valid_mask"][N:].any()


def test_ids_hold_from_the_current_step_on() -> None:
    _, block = make()
    block.start(5, np.array([10, 11, 12]))
    block.count = 2
    block.set_ids(np.array([1]), np.array([99]))
    assert block.index == 5
    assert block.arrays["trajectory_id"][:N].tolist() == [
        [10, 10, 10, 10],
        [11, 11, 99, 99],
        [12, 12, 12, 12],
    ]
    assert (block.arrays["trajectory_id"][N:] == -1).all()


def test_a_cleared_tail_is_fill_value() -> None:
    _, block = make()
    for array in block.arrays.values():
        array[...] = 1
    block.clear_tail(3)
    for name, array in block.arrays.items():
        assert (array[:, :3] == 1).all()
        assert (array[:, 3:] == (-1 if name == "trajectory_id" else 0)).all()


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


@pytest.mark.parametrize("block_steps", [1, 2, 5])
def test_the_caller_overwrites_its_arrays_at_once(store: str, block_steps: int) -> None:
    buffers = rows(0, N, ALL_DTYPES)
    flags = np.ones(N, bool)
    with open_writer(store, N, ALL_DTYPES, block_steps=block_steps) as writer:
        for step in range(7):
            for name, value in rows(step, N, ALL_DTYPES).items():
                buffers[name][...] = value
            flags[...] = mask(step, N)
            writer.add_step(**buffers, valid_mask=flags)
            for value in (*buffers.values(), flags):
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
