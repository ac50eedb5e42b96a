"""Trajectory ids: new after each end and each resume, never used twice, and counted."""

from __future__ import annotations

import base64
import json
import os

import numpy as np
import pytest

from mosaic_collect import TrajectoryDataset, TrajectoryWriter, interrupted_ids
from mosaic_collect.errors import InputError
from tests.helpers import add, ids, open_writer

N = 4


def test_a_resume_gives_every_env_a_new_id(store: str) -> None:
    """Ids of a writer that added nothing are not used twice either."""
    open_writer(store, N).close()
    for step in range(5):
        with TrajectoryWriter(store, resume=True, commit_seconds=None) as writer:
            add(writer, step)
            writer.end_trajectories([step % N])
        TrajectoryWriter(store, resume=True).close()
    got = ids(TrajectoryDataset(store))
    assert len(set(got.ravel())) == got.size == 5 * N
    assert TrajectoryDataset(store).num_ended == 5


def open_envs(store: str, run: int = -1) -> list[int]:
    """Environments within a trajectory when a run stopped."""
    view = TrajectoryDataset(store).view.parts[0]
    number = range(len(view.state.runs))[run]
    return np.flatnonzero(view.open_envs(number)).tolist()


def test_a_store_keeps_one_bitmap_however_often_it_is_resumed(store: str) -> None:
    """And tells of every run which trajectories were open, whatever had ended."""
    num_envs, rng, want = 400, np.random.default_rng(3), []
    open_writer(store, num_envs).close()
    sizes = []
    for run in range(30):
        with TrajectoryWriter(store, resume=True) as writer:
            for _ in range(run % 3):  # every third run adds nothing
                add(writer, writer.num_steps)
            ended = rng.random(num_envs) < rng.choice([0, 0.1, 0.9, 1])
            writer.end_trajectories(ended)
        if run % 3:
            want.append(~ended)
        sizes.append(os.path.getsize(f"{store}/zarr.json"))
    state, bitmap = TrajectoryDataset(store).state, len(base64.b64encode(bytes(num_envs // 8)))
    assert [len(run.open_envs) for run in state.runs] == [0] * (len(state.runs) - 1) + [bitmap]
    assert [open_envs(store, run + 1) for run in range(len(want))] == [
        np.flatnonzero(still).tolist() for still in want
    ]
    got = ids(TrajectoryDataset(store))
    stops = [run.first_step for run in state.runs[2:]] + [state.committed_steps]
    interrupted = [got[stop - 1][still] for stop, still in zip(stops, want, strict=True)]
    np.testing.assert_array_equal(
        interrupted_ids(TrajectoryDataset(store).view), np.sort(np.concatenate(interrupted))
    )


def test_what_changes_of_the_metadata_is_looked_at_alone(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collection tells its counts at each end, beside thousands of motions that stay."""
    looked: list[int] = []
    whole = json.dumps

    def dumps(value: object, **options: object) -> str:
        text = whole(value, **options)
        looked.append(len(text))
        return text

    motions = [{"path": f"{i}.npz"} for i in range(1000)]
    with open_writer(store, N, metadata={"motions": motions}) as writer:
        add(writer, 0)
        monkeypatch.setattr("mosaic_collect.store.parsing.json.dumps", dumps)
        for count in (1, 2):
            writer.update_metadata(count=count)
        monkeypatch.undo()
        assert 0 < max(looked) < 100
    assert TrajectoryDataset(store).metadata == {"motions": motions, "count": 2}


def test_entries_that_are_too_many_together_change_nothing(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mosaic_collect.store.parsing._MAX_NBYTES", 100)
    with open_writer(store, N, metadata={"a": "x" * 40}) as writer:
        writer.update_metadata(b="x" * 30)
        with pytest.raises(InputError, match="expected at most 100 bytes of JSON"):
            writer.update_metadata(c="x" * 30)
        assert set(writer.metadata) == {"a", "b"}
        writer.update_metadata(a="y" * 10, c="x" * 30)
        assert set(writer.metadata) == {"a", "b", "c"}
