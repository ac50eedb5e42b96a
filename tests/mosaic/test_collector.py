"""ExpertTrajectoryCollector beside a double of MOSAIC's own: same calls, same file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from mosaic_collect import Field, TrajectoryDataset, verify_export
from mosaic_collect.errors import (
    CorruptExportError,
    ExportError,
    InputError,
    StoreMismatchError,
)
from mosaic_collect.mosaic.collector import ExpertTrajectoryCollector
from tests.mosaic.upstream import ACT, OBS, STUDENT, N, UpstreamCollector, ours


def row(step: int, dim: int, kind: int = 0) -> torch.Tensor:
    """Values that tell step, environment, column and kind."""
    at = torch.arange(N * dim, dtype=torch.float32).reshape(N, dim)
    return step * 1000 + at + kind * 0.25


def step_of(step: int, student: bool = True, mask: bool = False) -> dict[str, torch.Tensor]:
    found = {
        "observations": row(step, OBS),
        "actions": row(step, ACT, 1),
        "action_mean": row(step, ACT, 2),
        "action_sigma": row(step, ACT, 3),
    }
    if student:
        found["student_observations"] = row(step, STUDENT)
    if mask:
        found["valid_mask"] = torch.tensor([(step + e) % 3 != 0 for e in range(N)])
    return found


def same_content(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    for key, value in theirs["metadata"].items():
        assert ours["metadata"][key] == value, key
    assert set(ours) == set(theirs)
    for key in set(theirs) - {"metadata"}:
        assert np.array_equal(np.asarray(ours[key]), np.asarray(theirs[key])), key
        assert np.asarray(ours[key]).dtype == np.asarray(theirs[key]).dtype, key


@pytest.fixture
def collector(tmp_path: Path) -> Any:
    made = ours(tmp_path, STUDENT)
    yield made
    made.close()


def completed(collector: ExpertTrajectoryCollector) -> TrajectoryDataset:
    collector.close()
    return TrajectoryDataset(collector.store)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("student", [None, STUDENT])
@pytest.mark.parametrize("calls", ["by name", "by position"])
def test_the_same_calls_make_the_same_file(
    tmp_path: Path, calls: str, student: int | None, masked: bool
) -> None:
    """With masks as a grid; a mean and a sigma that are not passed have the same defaults."""
    theirs = UpstreamCollector(OBS, ACT, student, 1000, "cpu")
    collector = ours(tmp_path, student, max_trajectories=1000, device="cpu")
    for step in range(20):
        values = step_of(step, student is not None, mask=masked)
        for each in (collector, theirs):
            if calls == "by name":
                each.add_step(**values)
            else:
                rest = {
                    k: v for k, v in values.items() if k in ("student_observations", "valid_mask")
                }
                each.add_step(values["observations"], values["actions"], **rest)
            each.mark_trajectory_end(*([step % 3] if step else []))
    collector.save(str(tmp_path / "new" / "ours.npy"), **({"layout": "grid"} if masked else {}))
    theirs.save(str(tmp_path / "theirs.npy"))
    same_content(np.load(tmp_path / "new" / "ours.npy", allow_pickle=True).item(), theirs.content())
    loaded = collector.load(str(tmp_path / "new" / "ours.npy"))
    assert all(isinstance(v, torch.Tensor) for k, v in loaded.items() if k != "metadata")
    same_content(loaded, collector.load(str(tmp_path / "theirs.npy")))
    assert_same_statistics(collector, theirs)


def assert_same_statistics(collector: ExpertTrajectoryCollector, theirs: UpstreamCollector) -> None:
    mine, upstreams = collector.get_statistics(), theirs.get_statistics()
    assert list(mine) == list(upstreams)
    for each in (mine, upstreams):
        del each["memory_usage_mb"]
    assert mine == upstreams
    assert mine["num_steps"] == collector.num_steps == completed(collector).num_valid


@settings(max_examples=12)
@given(steps=st.lists(st.booleans(), min_size=1, max_size=8))
def test_statistics_count_as_upstreams(tmp_path_factory: Any, steps: list[bool]) -> None:
    """Also with a mask on some steps only, of which upstream saves no file."""
    collector = ours(tmp_path_factory.mktemp("stats"))
    theirs = UpstreamCollector(OBS, ACT)
    for step, masked in enumerate(steps):
        for each in (collector, theirs):
            each.add_step(**step_of(step, student=False, mask=masked))
            each.mark_trajectory_end(step)
    assert_same_statistics(collector, theirs)


def test_saving_holds_only_valid_rows_since_mosaic_ignores_the_mask(
    collector: Any, tmp_path: Path
) -> None:
    for step in range(9):
        collector.add_step(**step_of(step, mask=True))
    collector.save(tmp_path / "e.npy")
    content = collector.load(tmp_path / "e.npy")
    assert "valid_mask" not in content
    expected = [
        row(s, OBS)[e] for s in range(9) for e in range(N) if step_of(s, mask=True)["valid_mask"][e]
    ]
    assert torch.equal(content["observations"][:, 0], torch.stack(expected))
    assert content["metadata"]["num_steps"] == collector.num_steps == len(expected)


def test_steps_after_the_last_trajectory_are_left_out_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    collector = ours(tmp_path, max_trajectories=2)
    for step in range(6):
        collector.add_step(**step_of(step, student=False))
        collector.mark_trajectory_end()
    assert collector.get_statistics()["num_steps"] == 2 * N
    assert caplog.text.count("max_trajectories=2") == 1
    assert completed(collector).num_steps == 2


def test_a_saved_file_is_the_stores_whenever_it_is_saved(collector: Any, tmp_path: Path) -> None:
    """Its number of trajectories is the collector's, which the store alone does not know."""
    for step in range(3):
        collector.add_step(**step_of(step))
        collector.mark_trajectory_end(count=3)
        collector.save(tmp_path / "e.npy")
        saved = collector.load(tmp_path / "e.npy")
        assert (len(saved["actions"]), saved["metadata"]["num_trajectories"]) == (
            step + 1,
            3 * step + 3,
        )
        assert TrajectoryDataset(collector.store).state.num_trajectories == 0
        assert verify_export(collector.store, tmp_path / "e.npy").ok


def test_clear_begins_anew_and_keeps_the_old_store(collector: Any, tmp_path: Path) -> None:
    collector.add_step(**step_of(0))
    collector.mark_trajectory_end(3)
    old = collector.store
    collector.clear()
    assert collector.get_statistics()["num_steps"] == 0
    assert collector.get_statistics()["num_trajectories"] == 0
    with pytest.raises(ExportError, match="nothing was collected"):
        collector.save(tmp_path / "e.npy")
    collector.add_step(**step_of(7))
    collector.save(tmp_path / "e.npy")
    assert torch.equal(collector.load(tmp_path / "e.npy")["observations"], row(7, OBS)[None])
    assert TrajectoryDataset(old).num_steps == 1
    assert collector.store != old


def test_environments_that_are_named_end_in_the_store(collector: Any) -> None:
    collector.add_step(**step_of(0))
    collector.mark_trajectory_end(env_ids=torch.tensor([True, False, True, False]))
    collector.add_step(**step_of(1))
    collector.mark_trajectory_end(env_ids=[1])
    collector.add_step(**step_of(2))
    collector.mark_trajectory_end(count=N)
    assert collector.num_trajectories == 7
    data = completed(collector)
    assert data.num_ended == 7
    ids = data.read("trajectory_id")
    assert (ids[1] != ids[0]).tolist() == [True, False, True, False]
    assert (ids[2] != ids[1]).tolist() == [False, True, False, False]
    with pytest.raises(InputError, match="count"):
        collector.mark_trajectory_end(-1)


def test_what_another_run_added_before_the_first_step_is_counted(tmp_path: Path) -> None:
    first = ours(tmp_path, STUDENT)
    first.add_step(**step_of(0))
    first.mark_trajectory_end(2)
    first._writer.commit()
    second = ours(tmp_path, STUDENT, resume=True)
    first.add_step(**step_of(1))
    first.mark_trajectory_end(1)
    first.close()
    second.add_step(**step_of(2))
    second.mark_trajectory_end(4)
    assert (second.num_trajectories, second.num_steps) == (7, 3 * N)
    second.close()
    second.add_step(**step_of(3))  # goes on with what it has itself recorded
    assert (second.num_trajectories, second.num_steps) == (7, 4 * N)
    second.close()
    assert TrajectoryDataset(first.store).metadata["num_trajectories"] == 7


def test_one_environment_is_named_by_a_list_or_a_mask(tmp_path: Path) -> None:
    collector = ExpertTrajectoryCollector(1, 1, store=tmp_path / "s.zarr", buffer_mb=1)
    for ended in (None, [0], torch.tensor([True]), [0]):
        if ended is not None:
            collector.mark_trajectory_end(env_ids=ended)
        collector.add_step(torch.zeros(1, 1), torch.zeros(1, 1))
    with pytest.raises(InputError, match="may be ids or flags"):
        collector.mark_trajectory_end(env_ids=torch.tensor([0]))
    assert collector.num_trajectories == 3
    assert completed(collector).read("trajectory_id").tolist() == [[0], [1], [2], [3]]


@pytest.mark.parametrize("resume", [True, "auto"])
def test_a_run_goes_on_where_another_ended(tmp_path: Path, resume: bool | str) -> None:
    first = ours(tmp_path, STUDENT, resume=resume == "auto" and resume)
    first.add_step(**step_of(0, mask=True))
    first.mark_trajectory_end(2)
    first.close()
    second = ours(tmp_path, STUDENT, resume=resume)
    assert second.num_trajectories == 2
    assert second.num_steps == first.num_steps
    second.save(tmp_path / "early.npy", layout="grid")
    second.add_step(**step_of(1, mask=True))
    second.save(tmp_path / "e.npy", layout="grid")
    assert len(second.load(tmp_path / "e.npy")["actions"]) == 2
    second.close()
    other = ExpertTrajectoryCollector(OBS + 1, ACT, STUDENT, store=first.store, resume=True)
    with pytest.raises(StoreMismatchError, match="observations"):
        other.add_step(**{**step_of(2), "observations": row(2, OBS + 1)})


def test_extra_fields(tmp_path: Path) -> None:
    extra = (Field(name="motion_id", dtype="int32"),)
    collector = ours(tmp_path, extra=extra, compressor="zstd")
    collector.add_step(row(0, OBS), row(0, ACT), motion_id=torch.arange(N, dtype=torch.int32))
    assert completed(collector).read("motion_id")[0].tolist() == [0, 1, 2, 3]


def test_a_bad_first_step_leaves_no_store(collector: Any) -> None:
    for bad in ({"observations": row(0, OBS)[0]}, {"observations": row(0, OBS + 1)}):
        with pytest.raises(InputError, match="observations: expected"):
            collector.add_step(**{**step_of(0), **bad})
    with pytest.raises(InputError, match="valid_mask"):
        collector.add_step(**step_of(0), valid_mask=torch.ones(N + 1))
    assert not os.path.exists(collector.store)
    collector.add_step(**step_of(0))


def test_no_store_named_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = ExpertTrajectoryCollector(OBS, ACT), None
    first.add_step(row(0, OBS), row(0, ACT))
    second = ExpertTrajectoryCollector(OBS, ACT)
    assert first.store in caplog.text
    assert os.path.dirname(first.store) == str(tmp_path)
    assert first.store != second.store
    first.close()


def test_what_is_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ExpertTrajectoryCollector.load(tmp_path / "none.npy")
    np.save(tmp_path / "plain.npy", np.zeros(3))
    with pytest.raises(CorruptExportError, match="expected a dict"):
        ExpertTrajectoryCollector.load(tmp_path / "plain.npy")
    (tmp_path / "torn.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(CorruptExportError, match="expected a whole"):
        ExpertTrajectoryCollector.load(tmp_path / "torn.npy")


SCRIPT = """
import sys, torch
from mosaic_collect.mosaic.collector import ExpertTrajectoryCollector
collector = ExpertTrajectoryCollector(5, 3, store=sys.argv[1], buffer_mb=1)
collector.add_step(torch.zeros(4, 5), torch.zeros(4, 3))
if sys.argv[2] == "saved":
    collector.save(sys.argv[1] + ".npy")
"""


@pytest.mark.parametrize(("end", "status"), [("saved", "complete"), ("unsaved", "collecting")])
def test_scripts_that_never_close(tmp_path: Path, end: str, status: str) -> None:
    store = str(tmp_path / "s.zarr")
    subprocess.run([sys.executable, "-c", SCRIPT, store, end], check=True)
    data = TrajectoryDataset(store)
    assert (data.num_steps, data.status) == (1, status)
