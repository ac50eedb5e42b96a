"""What people feed a collection in Isaac Lab: motions of other robots and rates, NaN."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mosaic_collect import TrajectoryDataset
from mosaic_collect.adapters.isaaclab.cfg import prepare_env_cfg, prepare_motion_cfg
from mosaic_collect.collection.fitting import HOW
from mosaic_collect.collection.motions import find_motions, read_arrays
from mosaic_collect.errors import InputError
from tests.contract.inside.session import run
from tests.contract.inside.test_script import ok, script
from tests.contract.inside.toy import make, task_cfg, write_motions


def rewrite(path: Path, **changes: Any) -> None:
    """The motion with other arrays."""
    np.savez(path, **{**read_arrays(str(path)), **changes})


@pytest.fixture
def motions(tmp_path: Path) -> Path:
    """Two motions, the first one a second time, faster: 5 frames of 2 a second."""
    folder = Path(write_motions(tmp_path / "motions", [6, 4]))
    arrays = read_arrays(str(folder / "motion_0.npz"))
    cut = {name: a[:5] for name, a in arrays.items() if name != "fps"}
    np.savez(folder / "motion_2.npz", **cut, fps=np.array([2.0]))
    return folder


class TestLibrary:
    def test_a_robot_of_other_joints_is_told_before_the_command_loads(
        self, tmp_path: Path, motions: Path
    ) -> None:
        joints = np.zeros((4, 3), np.float32)
        rewrite(motions / "motion_1.npz", joint_pos=joints, joint_vel=joints)
        cfg = task_cfg(2)
        found = find_motions(str(motions))
        prepare_motion_cfg(cfg.commands.motion, str(motions), motions=found)
        prepare_env_cfg(cfg, 2)
        with pytest.raises(InputError, match=r"motion_1\.npz: .* robot's 2 joints, got 3"):
            make(cfg)

    def test_bodies_elsewhere_than_the_robots_are_told_while_it_runs(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = Path(write_motions(tmp_path / "motions", [6, 4]))
        for number in range(2):  # at rest: the command is a frame ahead of the robot
            arrays = read_arrays(str(folder / f"motion_{number}.npz"))
            still = {
                n: arrays[n][:1].repeat(len(arrays[n]), 0) for n in ("joint_pos", "body_pos_w")
            }
            no_speed = {n: 0 * arrays[n] for n in ("joint_vel", "body_lin_vel_w")}
            rewrite(folder / f"motion_{number}.npz", **still, **no_speed)
        bodies = read_arrays(str(folder / "motion_1.npz"))["body_pos_w"]
        rewrite(folder / "motion_1.npz", body_pos_w=bodies[:, ::-1])
        with caplog.at_level(logging.WARNING):
            run(tmp_path, str(folder), num_envs=2)
        (said,) = (r.getMessage() for r in caplog.records if "disagree" in r.getMessage())
        assert "in 1 of 2 environments; body 'base' is 1.00 m from the robot's" in said
        assert "it has 'base' where the robot's 'tip' is" in said

    def test_all_that_fall_with_their_first_step_are_told_by_what(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        motions = write_motions(tmp_path / "motions", [6, 4])
        run(tmp_path, motions, num_envs=2, falls={0: [0, 1]})
        assert "all 2 trajectories failed with their first step (fallen: 2); likely" in caplog.text

    def test_two_frames_are_a_row_and_one_is_no_motion(self, tmp_path: Path) -> None:
        """A row for the first trajectory, too: it begins within a step, as every other."""
        motions = write_motions(tmp_path / "motions", [2, 2])
        session = run(tmp_path, motions, num_envs=1)
        frames = session.read("motion_frame")[session.read("valid_mask")]
        assert frames.tolist() == [1, 1]
        assert session.queue.completed == 2
        one = write_motions(tmp_path / "one", [1, 5])
        with pytest.raises(InputError, match=r"motion_0\.npz: .* 2 frames or more, got 1"):
            run(tmp_path / "b", one)


class TestScript:
    def test_bad_files_are_told_before_a_simulator_starts(self, work: Path, motions: Path) -> None:
        rewrite(motions / "motion_1.npz", joint_pos=np.full((4, 2), np.nan))
        (motions / "motion_0.npz").write_text("0, 0\n")
        result = script(work, "bad.zarr", "--motion", str(motions))
        assert result.returncode == 2
        assert "motion: 2 of 3 files cannot be played" in result.stderr
        assert "motion_1.npz: joint_pos: expected finite numbers" in result.stderr
        assert "app closed" not in result.stdout

    def test_another_rate_is_refused_or_allowed_and_told(self, work: Path, motions: Path) -> None:
        result = script(work, "rate.zarr", "--motion", str(motions))
        assert result.returncode == 1
        assert "motion_2.npz: fps: expected 1, got 2, played 0.5 times as fast" in result.stderr
        assert not (work / "rate.zarr").exists()
        out = ok(script(work, "rate.zarr", "--motion", str(motions), "--allow_fps"))
        assert "1 motions were played at another speed than their own" in out
        told = TrajectoryDataset(work / "rate.zarr").metadata["motions"]
        assert [(m["fps"], m["played_fps"], m["frames"]) for m in told] == [
            *((1.0, 1.0, 6), (1.0, 1.0, 4)),
            (2.0, 1.0, 5),
        ]

    def test_resampled(self, work: Path, motions: Path) -> None:
        flags = ("--motion", str(motions), "--resample", "--num_envs", "1")
        ok(script(work, "made.zarr", *flags, "--max_steps", "2"))
        refused = script(work, "made.zarr", *flags[:2], "--allow_fps", "--resume")
        assert "motion_2.npz was recorded with 3 frames, resampled" in refused.stderr
        flags += ("--resume",)
        assert f"1 motions were resampled: {HOW}" in ok(script(work, "made.zarr", *flags))
        data = TrajectoryDataset(work / "made.zarr")
        told = data.metadata["motions"]
        assert [Path(m["path"]) for m in told] == sorted(motions.iterdir())
        assert [(m["fps"], m["frames"], m["resampled"]) for m in told] == [
            *((1.0, 6, None), (1.0, 4, None)),
            (2.0, 3, HOW),
        ]
        rows = (data.read("motion_id") == 2) & data.read("valid_mask")
        assert data.read("motion_frame")[rows].tolist() == [1, 2]
        # Every other frame of the file: what the command showed is in the observations.
        assert data.read("observations")[rows][:, 3].tolist() == [2.0, 4.0]
        assert "complete" in ok(script(work, "made.zarr", *flags))

    def test_a_single_file(self, work: Path, motions: Path) -> None:
        """MOSAIC's command reads folders only."""
        ok(script(work, "single.zarr", "--motion", str(motions / "motion_1.npz")))
        (told,) = TrajectoryDataset(work / "single.zarr").metadata["motions"]
        assert told["path"] == str(motions / "motion_1.npz")

    def test_nan(self, work: Path, tmp_path: Path) -> None:
        content = torch.load(work / "model.pt", weights_only=True)
        content["model_state_dict"]["actor.4.bias"][0] = torch.nan
        torch.save(content, tmp_path / "mad.pt")
        flags = ("--checkpoint_path", str(tmp_path / "mad.pt"))
        result = script(work, "mad.zarr", *flags)
        assert result.returncode == 0, result.stderr
        assert "the policy gives NaN or infinity: step 0, actions, action_mean" in result.stderr
        assert "recorded rows of this run hold NaN or infinity" in result.stderr
        stopped = script(work, "stopped.zarr", *flags, "--stop_on_nonfinite")
        assert stopped.returncode == 1
        assert "recorded, and stopped there" in stopped.stderr
        assert TrajectoryDataset(work / "stopped.zarr").num_steps == 1
