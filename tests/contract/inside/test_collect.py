"""Collections on Isaac Lab's own code, held against what the environment itself said.

Tests with a number are of that fault of MOSAIC's script, as in the README's table.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect import TrajectoryDataset
from mosaic_collect.collection.acting import Acting
from mosaic_collect.errors import InputError
from mosaic_collect.reading.verify import verify_store
from mosaic_collect.store.schema import FAILED
from tests.contract.inside import toy
from tests.contract.inside.session import HISTORY, run
from tests.contract.inside.toy import NOISE, write_motions
from tests.contract.promises import (  # noqa: F401  the tests
    Session,
    test_5_every_row_knows_its_motion_and_frame,
    test_6_idle_environments_are_masked,
    test_7_falls_and_resets_begin_another_trajectory,
    test_8_observations_are_the_acted_ones_and_the_environments_own,
    test_each_motion_is_recorded_once_from_its_first_frame_to_its_last,
)

LENGTHS = [6, 4, 9, 5, 7, 3, 8]
FALLS = {1: [1], 3: [0, 2]}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Seven motions in four environments; three fall."""
    folder = tmp_path_factory.mktemp("session")
    return run(folder, write_motions(folder / "motions", LENGTHS), falls=FALLS)


def test_the_motions_are_known_by_their_files(session: Session) -> None:
    told = session.data.metadata
    assert [Path(m["path"]).stem for m in told["motions"]] == [f"motion_{i}" for i in range(7)]
    assert all(len(m["sha256"]) == 64 for m in told["motions"])
    assert session.lengths == LENGTHS


def test_the_store_knows_its_terms(session: Session) -> None:
    student = session.data.terms["student_observations"]
    assert {term.frames for term in student} == {HISTORY}
    newest = session.data.term("student_observations", student[0].name)
    assert newest.shape[-1] == student[0].dim
    assert session.data.terms["observations"][-1].stop == session.data.schema["observations"].dim


def test_an_explicit_reset_costs_no_trajectory(session: Session) -> None:
    """It leaves the command uncomputed; a termination fires on that, and spends no motion."""
    assert session.witness.begun == [[True] * 4]
    assert session.read("valid_mask")[0].all()
    assert not (session.read("trajectory_end")[0] == FAILED).any()


def test_the_trajectories_are_those_of_the_falls(session: Session) -> None:
    assert session.queue.fell == 3
    assert verify_store(session.data.path).ok


def test_8_the_acted_observation_has_its_noise(session: Session) -> None:
    acted = session.read("observations")
    # What is seen of the start, frame 0, is not the start itself, a frame before what the command
    # tells.
    start = acted[0]
    off = np.abs(start[:, :2] - (start[:, 2:4] - [0, 1]))
    assert 0 < off.max() <= NOISE + 1e-4  # float32 at some hundreds
    assert np.array_equal(
        session.read("action_mean"), np.float32(0.01) * (acted[..., 2:4] - acted[..., :2])
    )


def test_8_the_student_history_is_laid_out_by_term(session: Session) -> None:
    """Oldest first: the clock's frames are the last columns."""
    clock, ages = session.read("observations")[..., 4], np.arange(HISTORY)[::-1]
    history = session.read("student_observations")[..., -HISTORY:]
    assert np.array_equal(history, np.maximum(clock[..., None] - ages, 0))


def test_9_no_stale_pair_after_a_reset(session: Session) -> None:
    valid, seen = session.read("valid_mask"), session.read("observations")
    assert np.array_equal(seen[..., 2][valid], 100.0 * (session.read("motion_id")[valid] + 1))
    assert np.array_equal(seen[..., 3][valid], session.read("motion_frame")[valid])
    after = np.vstack([np.ones(4, bool), np.array(session.witness.dones)[:-1]])
    assert np.array_equal(seen[..., 4] == 0, after)


def test_10_trajectories_begin_on_their_motions_first_frame(session: Session) -> None:
    ids, valid = session.read("trajectory_id"), session.read("valid_mask")
    seen, frames = session.read("observations"), session.read("motion_frame")
    first = np.vstack([np.ones(4, bool), ids[1:] != ids[:-1]]) & valid
    # As in training: the command has moved on by one, for every reset is within a step. Behind an
    # explicit one it would tell frame 0, but its targets would not be computed.
    assert first[0].all()
    assert set(frames[first].tolist()) == {1}
    place = np.stack([100.0 * (session.read("motion_id") + 1), np.zeros_like(frames)], axis=-1)
    assert np.abs(seen[..., :2] - place)[first].max() <= NOISE + 1e-4


def test_11_steps_per_env_ends_trajectories(tmp_path: Path) -> None:
    motions = write_motions(tmp_path / "motions", [9, 9, 3, 9])
    short = run(tmp_path, motions, num_envs=2, steps_per_trajectory=4)
    ids, valid = short.read("trajectory_id"), short.read("valid_mask")
    rows = [int(((ids == i) & valid).sum()) for i in np.unique(ids[valid])]
    assert sorted(rows) == [2, 4, 4, 4]
    assert short.queue.completed == 4


def test_11_max_trajectories_and_max_steps(tmp_path: Path) -> None:
    motions = write_motions(tmp_path / "motions", [5] * 6)
    some = run(tmp_path / "a", motions, num_envs=2, max_trajectories=3)
    assert some.queue.completed == some.data.num_ended == 3
    few = run(tmp_path / "b", motions, num_envs=2, max_steps=3)
    assert few.data.num_steps == 3
    assert few.data.num_valid == 6


def test_12_a_motion_is_known_by_its_file_whatever_the_loaders_order(tmp_path: Path) -> None:
    motions = write_motions(tmp_path / "motions", [5, 4, 6])
    plain = run(tmp_path / "a", motions, num_envs=2)
    shuffled = run(tmp_path / "b", motions, num_envs=2, shuffled=True)
    assert plain.data.metadata["motions"] == shuffled.data.metadata["motions"]
    for each in (plain, shuffled):
        valid = each.read("valid_mask")
        seen = each.read("observations")[..., 2]
        assert np.array_equal(seen[valid], 100.0 * (each.read("motion_id")[valid] + 1))


def test_12_a_range_of_motions_is_one_of_sorted_paths(tmp_path: Path) -> None:
    motions = write_motions(tmp_path / "motions", [3] * 6)
    part = run(tmp_path, motions, 2, start_index=1, end_index=4)
    seen = [Path(m["path"]).stem for m in part.data.metadata["motions"]]
    assert seen == ["motion_1", "motion_2", "motion_3"]


def test_a_run_goes_on_with_the_motions_that_are_not_done(tmp_path: Path) -> None:
    motions = write_motions(tmp_path / "motions", [6, 5, 4, 6, 3])
    first = run(tmp_path, motions, num_envs=2, max_steps=8)
    done = first.queue.completed
    assert 0 < done < 5
    second = run(tmp_path, motions, num_envs=2, resume=True)
    assert second.queue.completed == 5
    again = {Path(second.queue.motions[m].path).stem for m in _begun_after(second, 8)}
    counts = first.data.metadata["motion_counts"]["completed"]
    assert again == {f"motion_{m}" for m, count in enumerate(counts) if not count}
    third = run(tmp_path, motions, num_envs=2, resume=True)
    assert third.data.num_steps == second.data.num_steps


def _begun_after(session: Session, step: int) -> set[int]:
    valid = session.read("valid_mask")[step:]
    return set(session.read("motion_id")[step:][valid].tolist())


@pytest.mark.parametrize("num_envs", [1, 3])
def test_a_random_start_on_the_last_frame_costs_no_motion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_envs: int
) -> None:
    """Neither when all environments draw it at once, nor in the middle of the run."""
    resample, draws = toy.MotionCommand._resample_command, [0]

    def late(self: Any, env_ids: Any) -> None:
        resample(self, env_ids)
        draws[0] += 1
        if draws[0] <= 3 or draws[0] % 2:
            lengths = self.motion_lengths[self.env_motion_indices[env_ids]]
            self.time_steps[env_ids] = lengths - 1

    monkeypatch.setattr(toy.MotionCommand, "_resample_command", late)
    motions = write_motions(tmp_path / "motions", [4, 5, 3, 6])
    acting = Acting(start="random")
    spread = run(tmp_path, motions, num_envs, acting=acting, max_trajectories=4)
    counts = spread.data.metadata["motion_counts"]
    assert counts == {"completed": [1, 1, 1, 1], "fell": [0, 0, 0, 0]}
    valid = spread.read("valid_mask")
    assert set(spread.read("motion_id")[valid].tolist()) == {0, 1, 2, 3}


def test_a_command_that_draws_motions_of_its_own_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a row tells another motion than the robot follows."""
    resample = toy.MotionCommand._resample_command

    def draws(self: Any, env_ids: Any) -> None:
        resample(self, env_ids)
        if (self.env_motion_indices == 2).any():
            self.env_motion_indices[env_ids] = 1

    monkeypatch.setattr(toy.MotionCommand, "_resample_command", draws)
    motions = write_motions(tmp_path / "motions", [4, 5, 6])
    words = r"in environment 0 what it was given, .*motion_2\.npz, got .*motion_1\.npz"
    with pytest.raises(InputError, match=words):
        run(tmp_path, motions, 1)
    data = TrajectoryDataset(tmp_path / "expert.zarr")
    assert set(data.read("motion_id").ravel().tolist()) == {0, 1}
