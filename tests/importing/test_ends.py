"""How trajectories ended, of a file that holds ``trajectory_end``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mosaic_collect import TrajectoryDataset, export_npy, import_npy, verify_store
from mosaic_collect.store.schema import TRAJECTORY_END, TRAJECTORY_ID
from tests import helpers
from tests.export import stores
from tests.importing import files
from tests.importing.test_resume import interrupted

SCHEMA = stores.STUDENT.with_ends()
KEPT = "source_trajectory_end"


def record(store: str) -> TrajectoryDataset:
    """Record trajectories with every kind of end, also behind the last row, and one with none."""
    with helpers.open_writer(store, 5, SCHEMA) as writer:
        for step in range(11):
            helpers.add(writer, step)
            if step in (3, 10):
                how = {"failed": [1], "terminated": [2], "truncated": [3]}
                writer.end_trajectories(range(4), **how)
            if step == 5:
                writer.end_trajectories([0, 3], failed=[0, 3])
    return TrajectoryDataset(store)


def export(store: str, npy: str, layout: str, *more: str) -> None:
    export_npy(store, npy, layout=layout, fields=[*SCHEMA.names, TRAJECTORY_END, *more])


@pytest.mark.parametrize("nbytes", [1, 1 << 20])
@pytest.mark.parametrize("more", [[], [TRAJECTORY_ID]], ids=["ends alone", "with ids"])
def test_a_grid_of_ours_comes_back_with_its_ends(
    store: str, npy: str, made: str, more: list[str], nbytes: int, monkeypatch: Any
) -> None:
    monkeypatch.setattr("mosaic_collect.importing.source.READ_NBYTES", nbytes)
    before = record(store)
    assert before.read(TRAJECTORY_END)[[3, 10]].tolist() == [[1, 2, 3, 4, 0]] * 2
    export(store, npy, "grid", *more)
    report = import_npy(npy, made)
    after = TrajectoryDataset(made)
    assert "the store's trajectory_end is the file's" in report.notes
    assert after.schema.has_ends
    assert KEPT not in after.schema.names
    for name in (TRAJECTORY_END, TRAJECTORY_ID):
        helpers.assert_same(after.read(name), before.read(name), name)
    assert after.trajectories.counts() == before.trajectories.counts()
    assert verify_store(made).ok
    assert report.num_trajectories == before.num_ended


def test_where_a_run_stopped_within_trajectories_the_ends_are_kept_beside(
    store: str, npy: str, made: str
) -> None:
    """The writer knows no interrupted trajectory but by a run that stops."""
    stores.write(store, 4, schema=SCHEMA, falls={2: [0]}, complete=False)
    stores.write(store, 4, first=4, schema=SCHEMA, falls={6: [1]}, resume=True)
    before = TrajectoryDataset(store)
    export(store, npy, "grid", TRAJECTORY_ID)
    report = import_npy(npy, made)
    after = TrajectoryDataset(made)
    assert not after.schema.has_ends
    helpers.assert_same(after.read(KEPT), before.read(TRAJECTORY_END))
    assert any(f"trajectory_end is kept as {KEPT}" in note for note in report.notes)


@pytest.mark.parametrize("more", [[], [TRAJECTORY_ID]], ids=["ends alone", "with ids"])
def test_in_a_compact_file_of_several_environments_they_are_kept_beside(
    store: str, npy: str, made: str, more: list[str]
) -> None:
    before = record(store)
    export(store, npy, "compact", *more)
    import_npy(npy, made)
    after = TrajectoryDataset(made)
    assert not after.schema.has_ends
    helpers.assert_same(after.read(KEPT).ravel(), before.read(TRAJECTORY_END).ravel())


def test_a_compact_file_of_one_environment_has_its_trajectories_and_ends(
    store: str, npy: str, made: str
) -> None:
    stores.write(store, 9, num_envs=1, schema=SCHEMA, ends={2: [0]}, falls={5: [0]})
    export(store, npy, "compact", TRAJECTORY_ID)
    import_npy(npy, made)
    before, after = TrajectoryDataset(store), TrajectoryDataset(made)
    helpers.assert_same(after.read(TRAJECTORY_END), before.read(TRAJECTORY_END))
    assert helpers.ids(after).ravel().tolist() == [0] * 3 + [1] * 3 + [2] * 3


@pytest.mark.parametrize(
    "ends",
    [np.full((11, 4), 5, np.uint8), np.zeros((11, 4), np.int32), np.zeros((11, 4, 1), np.uint8)],
    ids=["other values", "another dtype", "another shape"],
)
def test_what_is_no_store_s_is_kept_beside(npy: str, made: str, ends: np.ndarray) -> None:
    files.save(npy, trajectory_end=ends)
    import_npy(npy, made)
    after = TrajectoryDataset(made)
    assert not after.schema.has_ends
    helpers.assert_same(after.read(KEPT), ends)


def test_an_import_is_resumed_with_its_ends(
    store: str, npy: str, made: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = record(store)
    export(store, npy, "grid", TRAJECTORY_ID)
    interrupted(npy, made, monkeypatch, 6)
    import_npy(npy, made, resume=True)
    ends = TrajectoryDataset(made).read(TRAJECTORY_END)
    helpers.assert_same(ends, before.read(TRAJECTORY_END))
    assert verify_store(made).ok
