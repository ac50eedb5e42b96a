"""``mosaic-collect collect --sim isaaclab`` in real physics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from isaaclab.app import launch_simulation
from isaaclab_rl.rsl_rl import RslRlVecEnvWrapper
from rsl_rl.runners import OnPolicyRunner

from examples.g1 import isaaclab as g1
from examples.g1.isaaclab.motions import write_motions
from mosaic_collect import TrajectoryDataset
from mosaic_collect.cli import main
from tests.isaaclab3.inside import velocity
from tests.isaaclab3.inside.session import configs

LENGTHS = [8, 12, 10]
Collect = Callable[..., int]
Collected = Callable[..., TrajectoryDataset]


@pytest.fixture(scope="module")
def motions(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_motions(tmp_path_factory.mktemp("cli") / "motions", LENGTHS)


@pytest.fixture
def collect(tmp_path: Path, motions: str) -> Collect:
    """The command in the teacher's task, into a store of that name."""

    def run(store: str, *flags: str, task: str = g1.TEACHER) -> int:
        given = {"--task": task, "--checkpoint": str(g1.EXPERT), "--num-envs": "3"}
        given |= {"--tasks-module": g1.__name__, "--output": str(tmp_path / store)}
        if task == g1.TEACHER and "--motion" not in flags:
            given["--motion"] = motions
        kept = [text for pair in given.items() if pair[0] not in flags for text in pair]
        return main(["collect", "--sim", "isaaclab", *kept, *flags])

    return run


@pytest.fixture
def collected(collect: Collect, tmp_path: Path) -> Collected:
    """The store that the command made."""

    def run(*flags: str, **options: str) -> TrajectoryDataset:
        assert collect("a.zarr", *flags, **options) == 0
        return TrajectoryDataset(tmp_path / "a.zarr")

    return run


def test_motions_once_each_and_what_the_store_says(
    collect: Collect, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student = ("--student-task", g1.STUDENT, "--student-overrides", "presets=short")
    assert collect("a.zarr", "--passes", "1", "--seed", "4", *student) == 0
    assert "3 trajectories reached their motion's end, 0 failed" in capsys.readouterr().out
    data = TrajectoryDataset(tmp_path / "a.zarr")
    assert data.num_valid == sum(LENGTHS) - len(LENGTHS)
    assert data.schema["student_observations"].dim == 2 * 154
    told = data.metadata
    assert (told["simulator"], told["task"], told["seed"]) == ("isaaclab", g1.TEACHER, 4)
    assert told["observations"]["student_overrides"] == ["presets=short"]
    assert collect("a.zarr", "--passes", "1", "--seed", "4", *student, "--resume") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(["verify", data.path, "--checkpoint", str(g1.EXPERT)]) == 0
    assert "largest difference of mean 0.0e+00" in capsys.readouterr().out
    refused = collect("a.zarr", "--passes", "1", "--seed", "4", "--resume")
    assert refused == 2
    assert "give them again, as --student-overrides presets=short" in capsys.readouterr().err


def test_a_student_by_dropping_terms(collected: Collected) -> None:
    drop = ("--student-drop", "lin_vel", "anchor_pos_b", "--student-history", "3")
    flags = ("--max-steps", "5", *drop, "--no-student-noise", "--no-teacher-noise")
    data = collected(*flags)
    assert data.schema["student_observations"].dim == 3 * 154
    assert data.metadata["observations"]["teacher_noise"] is False
    newest = data.term("student_observations", "joint_vel")[:]
    assert np.array_equal(newest, data.term("observations", "joint_vel")[:])


def test_more_fields_and_states(collected: Collected) -> None:
    """Last observations are those before the reset; states are the robot's, in MuJoCo's form."""
    names = "reward,reward_terms,terminated,truncated,commands,critic,final_observations"
    flags = ("--passes", "1", "--no-teacher-noise", "--record", names, "--record-states")
    data = collected(*flags)
    valid, reward = data["valid_mask"][:], data["reward"][:]
    np.testing.assert_allclose(data["reward_terms"][:].sum(axis=-1), reward, atol=1e-5)
    assert np.ptp(reward[valid]) > 0
    np.testing.assert_array_equal(data["commands"][:], data.term("observations", "command")[:])
    critic = data.term("observations_critic", "joint_pos")[:]
    np.testing.assert_array_equal(critic, data.term("observations", "joint_pos")[:])
    ended = data["truncated"][:] | data["terminated"][:]
    np.testing.assert_array_equal(ended[valid], data["trajectory_end"][:][valid] > 0)
    last, place = data["final_observations"][:], data.terms["observations"]
    assert not last[~ended].any()
    actions = next(term.columns for term in place if term.name == "actions")
    np.testing.assert_array_equal(last[ended][:, actions], data["actions"][:][ended])
    # Generalised positions: base, rotation w x y z, joints relative to the default pose elsewhere.
    qpos, robot = data["qpos"][:], data.robot
    assert qpos.shape[2] == 7 + len(robot.joint_names) == 1 + data["qvel"][:].shape[2]
    relative = qpos[..., 7:] - np.array(robot.default_joint_pos, np.float32)
    np.testing.assert_allclose(relative, data.term("observations", "joint_pos")[:], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(qpos[..., 3:7], axis=-1), 1.0, atol=1e-4)
    assert (qpos[..., 3][valid] > 0.9).all(), "upright"
    turning = data.term("observations", "ang_vel")[:]
    np.testing.assert_allclose(data["qvel"][:][..., 3:6][valid], turning[valid], atol=1e-4)
    height = (qpos[..., 2] - data["env_origin"][:][..., 2])[valid]
    assert ((height > 0.5) & (height < 1.0)).all()


def test_random_starts_are_on_the_motions_that_rows_tell(collected: Collected) -> None:
    data = collected("--passes", "3", "--start", "random", "--seed", "5")
    told = data.metadata["motions"]
    files = [np.load(motion["path"])["joint_pos"] for motion in told]
    command, trajectories = data.term("observations", "command")[:], data.where(min_valid=1)
    assert len({int(t["motion_frame"][0]) for t in trajectories}) > 3
    for trajectory in trajectories:
        assert trajectory.motion is not None
        frames = trajectory["motion_frame"][:]
        seen = command[trajectory.steps, trajectory.env, :29]
        np.testing.assert_array_equal(seen, files[trajectory.motion][frames])
        if trajectory.end == "truncated":
            assert frames[-1] == told[trajectory.motion]["frames"] - 1


def test_a_resumed_run_draws_other_noise(collected: Collected) -> None:
    collected("--max-steps", "4")
    data = collected("--max-steps", "8", "--resume")
    assert np.array_equal(data["motion_id"][0], data["motion_id"][4])
    seen = data.term("observations", "joint_pos")
    assert not np.array_equal(seen[0], seen[4])


@pytest.fixture(scope="module")
def walker(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of the task without motions, not trained."""
    path = tmp_path_factory.mktemp("walker") / "model.pt"
    env_cfg, agent_cfg = configs(velocity.TASK)
    env_cfg.sim.device = "cpu"
    with launch_simulation(env_cfg, {}):
        env = RslRlVecEnvWrapper(gymnasium.make(velocity.TASK, cfg=env_cfg))
        runner = OnPolicyRunner(env, agent_cfg.to_dict(), None, "cpu")
        runner.save(str(path))
        env.close()
    return str(path)


def test_a_task_without_motions_ends_as_it_is_trained(collected: Collected, walker: str) -> None:
    """Its events reset it, on the device that is there though the task names another."""
    flags = ("--checkpoint", walker, "--max-steps", "80", "--action-noise", "3")
    flags += ("--tasks-module", velocity.__name__, "--student-history", "2")
    data = collected(*flags, task=velocity.TASK)
    assert "motion_id" not in data.fields
    ends = data.trajectories
    over = [t for t in ends if t.end != "interrupted"]
    assert {t.end for t in over} == {"truncated", "failed"}
    assert all(t.num_steps == velocity.EPISODE for t in over if t.end == "truncated")
    assert all(t.num_steps < velocity.EPISODE for t in over if t.end == "failed")
    assert main(["verify", data.path, "--checkpoint", walker]) == 0


def test_pushes_move_the_base(collected: Collected, walker: str) -> None:
    flags = ("--checkpoint", walker, "--max-steps", "60", "--push", "3", "--no-teacher-noise")
    flags += ("--tasks-module", velocity.__name__)
    data = collected(*flags, task=velocity.TASK)
    speed = data.term("observations", "lin_vel")[:]
    same = data["trajectory_id"][1:] == data["trajectory_id"][:-1]
    pushed = np.linalg.norm(data["push"][:-1], axis=-1)
    faster = np.linalg.norm(np.diff(speed, axis=0), axis=-1)
    assert (same & (pushed > 1.5)).any()
    assert faster[same & (pushed > 1.5)].min() > 2 * faster[same & (pushed == 0)].max()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--task", "G1-Teachr"), "--task: expected a registered task, got 'G1-Teachr'; there are"),
        (("--task", "G1-Teachr"), "such as G1-Teacher"),
        (("--tasks-module", "no_such.tasks"), "--tasks-module: no_such.tasks cannot be imported"),
        (("--overrides", "presets=long"), "Unknown preset(s): long"),
        (("--overrides", "env.scenes.num_envs=3"), "has no attribute 'scenes'"),
        (("--launcher=--wings",), "--launcher: Isaac Lab's launcher does not know --wings"),
        (("--launcher", "--viz kit"), "needs Isaac Sim, which is not installed, for the Kit vis"),
        (("--student-task", "G1-Studnt"), "--student-task: expected a registered task"),
        (("--student-drop", "wings"), "--student-drop: expected some of command, anchor_pos_b"),
        (("--student-overrides", "presets=short"), "expected only with a student_task"),
        (("--max-steps", "0"), "--max-steps: expected at least 1"),
    ],
)
def test_what_cannot_be_done_is_told_and_nothing_is_written(
    collect: Collect,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    words: str,
) -> None:
    more = () if "--max-steps" in flags else ("--max-steps", "3")
    task = g1.TEACHER
    if flags[0] == "--task":
        flags, task = (), flags[1]
    assert collect("never.zarr", *flags, *more, task=task) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "never.zarr").exists()


def test_motions_where_they_have_no_place_and_none_where_they_are_needed(
    collect: Collect, motions: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--max-steps", "3", "--tasks-module", velocity.__name__, "--motion", motions)
    assert collect("never.zarr", *flags, task=velocity.TASK) == 2
    assert "--motion: G1-Velocity takes no motion" in capsys.readouterr().err
    assert collect("never.zarr", "--max-steps", "3", task=g1.STUDENT) == 2
    assert "--motion: G1-Student needs motions" in capsys.readouterr().err


def test_a_misspelt_field_is_told(
    collect: Collect, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Isaac Lab 3 sets it, for it asks nobody."""
    assert collect("a.zarr", "--max-steps", "2", "--overrides", "env.episode_lenght_s=3") == 0
    assert "TeacherEnvCfg has no field episode_lenght_s" in caplog.text


def test_a_history_by_time_is_told_by_its_columns(collected: Collected) -> None:
    student = ("--student-task", g1.STUDENT, "--student-overrides", "presets=time_major")
    flags = (*student, "--no-student-noise", "--no-teacher-noise", "--max-steps", "6")
    data = collected(*flags)
    for name in ("joint_pos", "joint_vel", "actions"):
        newest = data.term("student_observations", name)[:]
        assert np.array_equal(newest, data.term("observations", name)[:])
    frames = [data.term("student_observations", f"frame_-{age}")[:] for age in (2, 1)]
    assert np.array_equal(frames[0][1:], frames[1][:-1])


def test_a_file_in_another_order_is_told(
    collect: Collect, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    motions = write_motions(tmp_path / "turned", [8, 8])
    assert collect("a.zarr", "--max-steps", "1", "--motion", motions) == 0
    assert "disagree" not in caplog.text
    for path in Path(motions).iterdir():
        with np.load(path) as file:
            arrays = dict(file)
        arrays["joint_pos"] = arrays["joint_pos"][:, ::-1]
        np.savez(path, **arrays)
    assert collect("b.zarr", "--max-steps", "1", "--motion", motions) == 0
    assert "disagree" in caplog.text


def test_ranks_share_the_motions(
    collect: Collect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rank(number: int, *flags: str) -> int:
        monkeypatch.setenv("RANK", str(number))
        monkeypatch.setenv("LOCAL_RANK", str(number))
        monkeypatch.setenv("WORLD_SIZE", "2")
        always = ("--distributed", "--auto-resume", "--passes", "1", "--seed", "4")
        return collect("ranks", *always, *flags)

    assert rank(0, "--max-steps", "8") == 0
    assert rank(1) == 0
    assert rank(0) == 0
    data = TrajectoryDataset(tmp_path / "ranks")
    assert data.metadata["motion_counts"] == {"completed": [1, 1, 1], "fell": [0, 0, 0]}
    first, second = (part.trajectories.where(end="truncated") for part in data.parts)
    assert len(first) + len(second) == len(LENGTHS)
    assert len(second) >= 1
    seeds = [part.metadata["ranks"] for part in data.parts]
    assert [tuple(told) for told in seeds] == [(0, 2), (1, 2)]
    assert main(["verify", data.path]) == 0
