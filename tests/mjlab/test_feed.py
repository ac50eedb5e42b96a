"""What people feed a collection in mjlab: motions, groups, policies; told, refused or taken."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect import TrajectoryDataset
from mosaic_collect.cli import main
from mosaic_collect.collection.fitting import HOW
from mosaic_collect.collection.motions import read_arrays
from mosaic_collect.errors import InputError, StoreMismatchError
from tests.mjlab import case as mjlab_case
from tests.mjlab.case import FRAMES, ROWS, Case, make_case

pytestmark = mjlab_case.MARKS


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return make_case(tmp_path)


def rewrite(path: Path, **changes: Any) -> None:
    np.savez(path, **{**read_arrays(str(path)), **changes})


@pytest.mark.usefixtures("no_simulator")
class TestMotionsAreRefusedBeforeASimulatorIsBuilt:
    def test_other_joints_and_bodies_all_at_once(self, case: Case) -> None:
        arrays = read_arrays(str(case.motion(0)))
        rewrite(case.motion(0), **{n: a[:, :23] for n, a in arrays.items() if n[:5] == "joint"})
        rewrite(case.motion(1), **{
            n: a[:, :14] for n, a in read_arrays(str(case.motion(1))).items() if n[:4] == "body"
        })  # fmt: skip
        with pytest.raises(InputError) as told:
            case.run("never")
        head, a, b = str(told.value).split("\n")
        assert head == "motion: 2 of 2 files are of another robot"
        assert a.endswith("a.npz: joint_pos: expected the robot's 29 joints, got 23")
        assert b.endswith("b.npz: body_pos_w: expected the robot's 30 bodies, got 14")

    def test_names_in_another_order(self, case: Case) -> None:
        from mjlab.asset_zoo.robots import get_g1_robot_cfg
        from mjlab.entity import Entity

        names = list(Entity(get_g1_robot_cfg()).joint_names)
        rewrite(case.motion(1), joint_names=np.array(names[::-1]))
        with pytest.raises(InputError, match=r"b\.npz: joint_pos: expected 'left_hip_pitch_joint'"):
            case.run("never")

    def test_another_rate_in_the_library_and_on_the_command_line(
        self, case: Case, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rewrite(case.motion(1), fps=np.array([30]))
        with pytest.raises(InputError, match=r"b\.npz: fps: expected 50, got 30, played 1\.67"):
            case.run("never")
        assert main(case.command("never", "--max-steps", "9")) == 2
        told = capsys.readouterr().err
        assert "--resample makes frames at its steps, --allow-fps plays the file's" in told
        assert not Path(case.store("never")).exists()


def test_another_rate_is_allowed_by_name_and_told(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    rewrite(case.motion(1), fps=np.array([30]))
    with caplog.at_level(logging.WARNING):
        result = case.run("allowed", max_steps=3, allow_fps=True)
    assert "1 of 2 files are played at another speed than their own" in caplog.text
    assert result.notes == ("1 motions were played at another speed than their own",)
    told = case.data("allowed").metadata["motions"]
    assert [(m["fps"], m["played_fps"], m["resampled"]) for m in told] == [
        (50.0, 50.0, None),
        (30.0, 50.0, None),
    ]


def test_resampled_motions_are_followed_and_told(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    """Every other frame of the squat, said to be of 25: in between lie the frames left out."""
    whole = read_arrays(str(mjlab_case.ASSETS / "g1_squat.npz"))
    slow = {name: a[20:61:2] for name, a in whole.items() if name != "fps"}
    np.savez(case.motion(1), **slow, fps=np.array([25.0]))
    result = case.run("made", passes=1, resample=True)
    assert result.notes == (f"1 motions were resampled: {HOW}",)
    assert (result.completed, caplog.text) == (2, "")
    data = case.data("made")
    assert [(m["path"], m["fps"], m["frames"]) for m in data.metadata["motions"]] == [
        (str(case.motion(0)), 50.0, FRAMES[0]),
        (str(case.motion(1)), 25.0, 41),
    ]
    rows = (data.read("motion_id") == 1) & data.read("valid_mask")
    frames = data.read("motion_frame")[rows]
    assert sorted(frames.tolist()) == list(range(1, 41))
    seen = data.read("observations")[rows][:, :58]
    joints = np.concatenate([whole["joint_pos"], whole["joint_vel"]], axis=1)[20:61]
    np.testing.assert_allclose(seen, joints[frames], atol=0.02)
    np.testing.assert_allclose(seen[frames % 2 == 0], joints[frames[frames % 2 == 0]], atol=1e-5)
    with pytest.raises(StoreMismatchError, match=r"b\.npz was recorded with 41 frames, resampled"):
        case.run("made", passes=2, resume=True, allow_fps=True)
    assert case.run("made", passes=2, resume=True, resample=True).completed == 4


def test_two_frames_are_one_row(case: Case) -> None:
    arrays = read_arrays(str(case.motion(0)))
    rewrite(case.motion(0), **{n: a[:2] for n, a in arrays.items() if n != "fps"})
    assert case.run("two", passes=1).completed == 2
    data = case.data("two")
    valid, motions = data.read("valid_mask"), data.read("motion_id")
    assert data.read("motion_frame")[valid & (motions == 0)].tolist() == [1]
    assert (valid & (motions == 1)).sum() == ROWS[1]


def test_bodies_in_another_order_are_told_while_it_runs_with_what_ended_them(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    for index in (0, 1):
        arrays = read_arrays(str(case.motion(index)))
        order = [0, *range(29, 0, -1)]
        rewrite(
            case.motion(index), **{n: a[:, order] for n, a in arrays.items() if n[:4] == "body"}
        )
    seen: list[str] = []
    with caplog.at_level(logging.WARNING):
        case.run("order", lambda writer: seen.append(caplog.text), max_steps=2)
    reset, first = (r.getMessage() for r in caplog.records)
    assert "disagree after the first reset: in 2 of 2 environments; body" in reset
    assert "the file's bodies are in another order" in reset
    assert first.startswith("all 2 trajectories failed with their first step (")
    assert "ee_body_pos: 2" in first
    assert reset in seen[0]
    assert first in seen[0]


def test_groups_that_the_policy_does_not_read_break_nothing(
    case: Case, change_task: Callable[..., None]
) -> None:
    """Images of two types, and terms that stay apart."""
    import torch
    from mjlab.managers.observation_manager import ObservationGroupCfg, ObservationTermCfg

    def image(env: Any) -> torch.Tensor:
        return torch.zeros(env.num_envs, 3, 32, 32)

    def pixels(env: Any) -> torch.Tensor:
        return torch.zeros(env.num_envs, 8, 8, 3, dtype=torch.uint8)

    def with_groups(cfg: Any) -> None:
        for func in (image, pixels):
            term = {"it": ObservationTermCfg(func=func)}
            cfg.observations[func.__name__] = ObservationGroupCfg(terms=term)
        cfg.observations["terms"] = copy.deepcopy(cfg.observations["actor"])
        cfg.observations["terms"].concatenate_terms = False

    case.run("plain", max_steps=3, teacher_noise=False)
    change_task(with_groups)
    case.run("groups", max_steps=3, teacher_noise=False)
    plain, groups = (TrajectoryDataset(case.store(n)) for n in ("plain", "groups"))
    assert groups.metadata["groups"] == {"actor": 160}
    assert groups.schema == plain.schema
    np.testing.assert_array_equal(groups.read("observations"), plain.read("observations"))
