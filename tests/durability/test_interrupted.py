"""Trajectories that a run's stop cut off are known by their ids; ended ones never among them."""

from __future__ import annotations

from unittest import mock

import pytest

from mosaic_collect import TrajectoryDataset, TrajectoryWriter
from mosaic_collect.reading.trajectories import interrupted_ids
from mosaic_collect.store.metadata import open_envs
from mosaic_collect.store.view import StoreView
from tests.helpers import add, ids, open_writer, wait_until

N = 4


def interrupted(store: str) -> list[int]:
    dataset = TrajectoryDataset(store)
    if not dataset.fields:
        return []
    with mock.patch.object(StoreView, "read", autospec=True, side_effect=StoreView.read) as read:
        found = interrupted_ids(dataset.view)
    assert all(len(call.args[2]) == 1 for call in read.call_args_list)
    # Per run its last step, and the first one behind it.
    assert read.call_count <= 2 * len(dataset.state.runs)
    return found.tolist()


def test_a_store_without_steps_has_none(store: str) -> None:
    open_writer(store, N).close()
    assert interrupted(store) == []
    TrajectoryWriter(store, resume=True).close()
    assert interrupted(store) == []


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("steps", range(1, 8))
def test_what_is_open_at_the_close_is_interrupted(store: str, steps: int, complete: bool) -> None:
    writer = open_writer(store, N, block_steps=3)
    add(writer, *range(steps))
    writer.end_trajectories([1, 3])
    writer.close(complete=complete)
    assert interrupted(store) == [0, 2]


def test_an_end_after_the_last_commit_is_not_known(store: str) -> None:
    writer = open_writer(store, N)
    add(writer, 0)
    writer.commit()
    writer.end_trajectories([0])
    assert interrupted(store) == [0, 1, 2, 3]
    writer.commit()
    assert interrupted(store) == [1, 2, 3]
    writer.close()


def test_an_end_behind_a_full_block_belongs_to_its_commit(store: str) -> None:
    writer = open_writer(store, N, block_steps=3)
    add(writer, 0, 1, 2)
    writer.end_trajectories([2])
    add(writer, 3, 4, 5, 6)
    wait_until(lambda: writer.stats.committed_steps == 6)
    got = ids(TrajectoryDataset(store))
    assert interrupted(store) == sorted(got[5])
    assert 2 not in got[5]
    writer.close()


@pytest.mark.parametrize("num_envs", [1, 7, 8, 9, 17])
def test_the_bitmap_is_read_in_its_order(store: str, num_envs: int) -> None:
    with open_writer(store, num_envs) as writer:
        add(writer, 0)
        writer.end_trajectories(range(0, num_envs, 3))
    bitmap = TrajectoryDataset(store).state.runs[0].open_envs
    assert open_envs(bitmap, num_envs).tolist() == [e % 3 != 0 for e in range(num_envs)]
