"""Two hundred episodes of real physics, held against what the environment itself said.

Numbers are of the faults of MOSAIC's script, as docs/mosaic.md has them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from examples.g1 import isaaclab as g1
from mosaic_collect.cli import main
from mosaic_collect.reading.terms import column_names
from tests.contract.promises import (  # noqa: F401  the tests
    Session,
    test_5_every_row_knows_its_motion_and_frame,
    test_6_idle_environments_are_masked,
    test_7_falls_and_resets_begin_another_trajectory,
    test_8_observations_are_the_acted_ones_and_the_environments_own,
    test_each_motion_is_recorded_once_from_its_first_frame_to_its_last,
)
from tests.isaaclab3.inside.witness import collected

NUM_ENVS, FRAMES = 16, 5
LENGTHS = [int(n) for n in np.random.default_rng(0).integers(3, 13, size=200)]
FALLS = {0: [3], 2: [0, 7], 9: [5], 20: [1, 2, 11], 33: [8]}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return collected(tmp_path_factory.mktemp("contract"), LENGTHS, NUM_ENVS, FALLS)


def test_no_motion_is_lost_to_the_explicit_reset(session: Session) -> None:
    """Behind it a command that nobody computed ends all episodes: ``test_g1`` shows it."""
    assert session.lengths == LENGTHS
    assert session.queue.fell == sum(map(len, FALLS.values()))
    assert session.read("valid_mask")[0].all()


def test_8_the_teacher_has_noise_and_the_student_its_own(session: Session) -> None:
    clean = session.data.term("student_observations", "joint_pos")
    assert not np.array_equal(clean[:], session.data.term("observations", "joint_pos")[:])


def test_8_the_students_history_is_the_row_before_shifted(session: Session) -> None:
    recorded = session.read("student_observations")
    ids, valid = session.read("trajectory_id"), session.read("valid_mask")
    goes_on = (ids[1:] == ids[:-1]) & valid[1:] & valid[:-1]
    for term in session.data.terms["student_observations"]:
        frames = recorded[..., term.columns].reshape(*recorded.shape[:2], FRAMES, term.dim)
        assert np.array_equal(frames[1:, :, :-1][goes_on], frames[:-1, :, 1:][goes_on])


def test_9_no_stale_pair_in_two_hundred_episodes(session: Session) -> None:
    """The command's joint angles are noiseless: they must be the row's own motion's and frame's."""
    valid = session.read("valid_mask")
    motions, frames = session.read("motion_id")[valid], session.read("motion_frame")[valid]
    told = session.data.metadata["motions"]
    files = [np.load(motion["path"])["joint_pos"].astype(np.float32) for motion in told]
    expected = np.stack([files[m][f] for m, f in zip(motions, frames, strict=True)])
    seen = session.data.term("observations", "command")[:][valid]
    assert np.array_equal(seen[:, :29], expected)
    # And the last action is none in a trajectory's first row, else the row before's.
    ids, last = session.read("trajectory_id"), session.data.term("observations", "actions")[:]
    first = np.vstack([np.ones(NUM_ENVS, bool), ids[1:] != ids[:-1]]) & valid
    assert (last[first] == 0).all()
    goes_on = (ids[1:] == ids[:-1]) & valid[1:] & valid[:-1]
    assert np.array_equal(last[1:][goes_on], session.read("actions")[:-1][goes_on])


def test_the_store_knows_its_robot(session: Session) -> None:
    robot = session.data.robot
    assert robot.joint_names == robot.action_names
    assert (len(robot.joint_names), robot.joint_names[3]) == (29, "left_knee_joint")
    assert robot.body_names[0] == "pelvis"
    assert robot.action_scale[:4] == pytest.approx((0.25, 0.25, 0.05, 0.05))
    assert (robot.name, robot.control_dt) == ("g1_29dof_rev_1_0", 0.02)
    assert (robot.units["ang_vel"], robot.units["joint_vel"]) == ("rad/s", "rad/s")
    assert robot.units["joint_pos"] == "rad"
    names = column_names(session.data, "observations")
    assert (names[-29:][3], len({*names})) == ("actions[left_knee_joint]", 160)


def test_terms_are_handed_ids_of_several_kinds(session: Session) -> None:
    """Which the collector's event took, as every test above says."""
    assert session.witness.env_ids == {"slice", "torch.int32"}


def test_it_is_verified_replayed_and_exported(
    session: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, npy = session.data.path, str(tmp_path / "expert.npy")
    assert main(["verify", store, "--checkpoint", str(g1.EXPERT)]) == 0
    assert "largest difference of mean 0.0e+00" in capsys.readouterr().out
    assert main(["export", store, npy, "--exclude-failed"]) == 0
    assert main(["verify", store, "--npy", npy]) == 0
