"""Collecting from mjlab: real G1 physics, two short motions, a few environments."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect import TrajectoryDataset, export_npy
from mosaic_collect.cli import main
from mosaic_collect.errors import InputError, StoreExistsError, StoreMismatchError
from mosaic_collect.export.compare import verify_export
from mosaic_collect.reading.terms import column_names
from mosaic_collect.reading.verify import verify_store
from mosaic_collect.store.schema import FAILED, GOES_ON, TRUNCATED
from tests.mjlab import case as mjlab_case
from tests.mjlab.case import EXPERT, ROWS, TASK, Case, trajectories

pytestmark = mjlab_case.MARKS
#: Widths of the student's terms: command, anchor orientation, angular velocity, joint positions
#: and velocities, last actions.
STUDENT_TERMS = (58, 6, 3, 29, 29, 29)
HISTORY = 5


@pytest.fixture(scope="module")
def passes(case: Case) -> TrajectoryDataset:
    """Two passes of each motion in three environments, until all are done."""
    names = ["reward,reward_terms,commands", "terminated", "truncated", "critic"]
    result = case.run("passes", passes=2, num_envs=3, seed=7, record=names)
    assert (result.completed, result.fell, result.already_complete) == (4, 0, False)
    return case.data("passes")


def test_every_row_is_of_the_frame_it_says(passes: TrajectoryDataset) -> None:
    found = trajectories(passes)
    assert sorted(motion for motion, _, _ in found) == [0, 0, 1, 1]
    for motion, frames, ended in found:
        assert frames == list(range(1, ROWS[motion] + 1)), "done just at the last frame"
        assert ended


def test_the_store_knows_its_terms(passes: TrajectoryDataset) -> None:
    student = passes.terms["student_observations"]
    assert tuple(term.dim for term in student) == STUDENT_TERMS
    assert {term.frames for term in student} == {HISTORY}
    teacher = {term.name: term for term in passes.terms["observations"]}
    assert teacher["joint_pos"].frames == 1
    # The last actions are seen without noise by both: what was done a step before.
    for trajectory in passes.where(min_valid=2):
        seen = trajectory["observations"][:, teacher["actions"].columns]
        np.testing.assert_array_equal(seen[1:], trajectory["actions"][:-1])
        assert not seen[0].any()


def test_more_fields_of_the_step(passes: TrajectoryDataset) -> None:
    """Rewards are the sum of their terms; the critic sees command and last actions as well."""
    valid, reward = passes["valid_mask"][...], passes["reward"][...]
    np.testing.assert_allclose(passes["reward_terms"][...].sum(axis=-1), reward, atol=1e-6)
    assert (reward[valid] > 0).all()
    assert {t.name for t in passes.terms["reward_terms"]} >= {"joint_limit", "motion_body_pos"}
    ended = passes["trajectory_end"][...][valid] > 0
    np.testing.assert_array_equal(passes["truncated"][...][valid], ended)
    assert not passes["terminated"][...].any()
    command = passes["commands"][...]
    np.testing.assert_array_equal(passes.term("observations_critic", "command")[:], command)
    critic = passes.term("observations_critic", "actions")[:]
    np.testing.assert_array_equal(critic, passes.term("observations", "actions")[:])


def test_the_store_knows_its_robot(passes: TrajectoryDataset) -> None:
    """Names, scales and offsets are those of the action term, read from the environment."""
    robot, squat = passes.robot, robot_of_mjlab()
    assert robot.joint_names == robot.action_names == squat["joint_names"]
    assert robot.body_names == squat["body_names"]
    assert robot.default_joint_pos == robot.action_offset == squat["default"]
    np.testing.assert_allclose(robot.action_scale, squat["scale"], rtol=1e-6)
    assert (robot.control_dt, robot.sim_dt) == (0.02, 0.005)
    assert robot.units == {
        "joint_pos": "rad",
        "joint_vel": "rad/s",
        "base_lin_vel": "m/s",
        "base_ang_vel": "rad/s",
    }
    names = column_names(passes, "observations")
    assert names[-1] == f"actions[{squat['joint_names'][-1]}]"
    assert len({*names}) == len(names) == 160
    assert "joint_pos[left_knee_joint]@-4" in column_names(passes, "student_observations")


def robot_of_mjlab() -> dict[str, Any]:
    """The robot as mjlab's own configuration and functions describe it."""
    from mjlab.tasks.registry import load_env_cfg
    from mjlab.utils.string import resolve_expr

    cfg = load_env_cfg(TASK)
    entity = cfg.scene.entities["robot"]
    built = entity.build()
    joints, scale = tuple(built.joint_names), cfg.actions["joint_pos"].scale
    return {
        "joint_names": joints,
        "body_names": tuple(built.body_names),
        "default": tuple(resolve_expr(entity.init_state.joint_pos, joints, 0.0)),
        "scale": resolve_expr(scale, joints, 1.0),
    }


def test_passes_end_it_and_idle_environments_do_not_count(passes: TrajectoryDataset) -> None:
    # Motions 0, 1, 0 to begin with; the first environment to be free takes motion 1 again.
    assert passes.num_steps == ROWS[0] + ROWS[1]
    mask = np.zeros((passes.num_steps, 3), bool)
    mask[: sum(ROWS), 0] = mask[: ROWS[1], 1] = mask[: ROWS[0], 2] = True
    np.testing.assert_array_equal(passes.read("valid_mask"), mask)
    assert passes.status == "complete"
    assert passes.num_ended == 4
    ends = passes.read("trajectory_end")
    assert ends[ends != GOES_ON].tolist() == [TRUNCATED] * 4


def test_observations_move_with_the_reference(passes: TrajectoryDataset) -> None:
    """The command's part of an observation is the reference at the row's own frame."""
    with np.load(mjlab_case.ASSETS / "g1_squat.npz") as arrays:
        reference = np.concatenate([arrays["joint_pos"], arrays["joint_vel"]], axis=1)
    valid = passes.read("valid_mask")
    seen = passes.read("observations")[valid][:, :58]
    want = reference[passes.read("motion_frame")[valid]]
    np.testing.assert_allclose(seen, want, atol=1e-5)


def test_the_students_history_advances_once_a_step(passes: TrajectoryDataset) -> None:
    """Frames 1..4 of a row are frames 0..3 of the next, bit for bit; a reset fills all five."""
    student = passes.read("student_observations")
    assert student.shape[2] == HISTORY * sum(STUDENT_TERMS) == 770
    frames, valid = passes.read("motion_frame"), passes.read("valid_mask")
    at = 0
    for width in STUDENT_TERMS:
        term = student[:, :, at : at + HISTORY * width].reshape(*valid.shape, HISTORY, width)
        at += HISTORY * width
        for step, env in np.argwhere(valid):
            if frames[step, env] == 1:
                assert (term[step, env] == term[step, env, 0]).all()
            else:
                np.testing.assert_array_equal(term[step, env, :-1], term[step - 1, env, 1:])


def test_the_store_knows_where_it_comes_from(passes: TrajectoryDataset, case: Case) -> None:
    told = passes.metadata
    assert (told["simulator"], told["task"], told["seed"], told["passes"]) == ("mjlab", TASK, 7, 2)
    assert told["checkpoint"]["path"] == EXPERT
    assert [m["path"] for m in told["motions"]] == [str(case.motion(i)) for i in (0, 1)]
    assert told["motion_counts"] == {"completed": [2, 2], "fell": [0, 0]}
    assert told["groups"] == {"actor": 160}
    assert passes.state.runs[0].versions["mjlab"].startswith("1.6")


def test_the_store_and_its_export_are_right(passes: TrajectoryDataset, case: Case) -> None:
    assert verify_store(passes.path).ok
    npy = str(case.folder / "passes.npy")
    report = export_npy(passes.path, npy)
    assert (report.layout, report.num_pairs) == ("compact", 2 * sum(ROWS))
    assert verify_export(passes.path, npy).ok


def test_a_complete_store_is_not_collected_again(
    passes: TrajectoryDataset, case: Case, no_simulator: None, capsys: Any
) -> None:
    result = case.run("passes", passes=2, num_envs=None, resume=True)
    assert result.already_complete
    assert (result.completed, result.num_steps) == (4, sum(ROWS))

    command = case.command("passes", "--max-steps", "100", "--passes", "2", "--resume")
    assert main(command) == 0
    assert "is complete" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"student_history": 3}, "observations"),
        ({"teacher_noise": False}, "observations"),
        ({"student_noise": False}, "observations"),
        ({"task": "Mjlab-Velocity-Flat-Unitree-G1"}, "task"),
        ({"checkpoint": "other.pt"}, "checkpoint"),
        ({"motion": "motions/b.npz"}, r"1 motions .* gone or changed"),
    ],
)
def test_a_resume_with_other_options_is_refused(
    passes: TrajectoryDataset,
    case: Case,
    no_simulator: None,
    changes: dict[str, Any],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(case.folder)
    Path("other.pt").write_bytes(Path(EXPERT).read_bytes() + b"\0")
    with pytest.raises(StoreMismatchError, match=words):
        case.run("passes", passes=3, resume=True, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"motion": "/no/such/folder"}, "/no/such/folder"),
        ({"checkpoint": "/no/such.pt"}, r"such\.pt"),
        ({"task": "No-Such-Task"}, "Mjlab-Tracking-Flat-Unitree-G1"),
        ({"motion": None}, "needs motions"),
        ({"task": "Mjlab-Velocity-Flat-Unitree-G1"}, "takes no motion"),
        ({"act_by": "/no/such.pt"}, r"such\.pt"),
        ({"start": "random", "motion": None}, "start: expected only with motions"),
        ({"take_over": [1]}, "take_over: expected only with distributed"),
        ({"motion": None, "distributed": True, "take_over": [1]}, "take_over: expected only with"),
    ],
)
def test_bad_options_are_refused_before_the_store_is_made(
    case: Case, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        case.run("never", **changes)
    assert not Path(case.store("never")).exists()


def test_a_students_group_of_the_tasks_own_is_not_another(
    case: Case, change_task: Callable[..., None]
) -> None:
    def with_a_student(cfg: Any) -> None:
        cfg.observations["student"] = copy.deepcopy(cfg.observations["actor"])

    change_task(with_a_student)
    with pytest.raises(InputError, match=r"student_history: .* a group 'student' of its own"):
        case.run("own", max_steps=1)
    case.run("own", max_steps=1, student_history=0)
    assert case.data("own").schema["student_observations"].dim == 160


def test_a_resume_repeats_what_was_unfinished_and_nothing_else(case: Case) -> None:
    """Motion 0 was done, motion 1 two rows short of its end: motion 1 alone is run again."""
    store, steps = case.store("resumed"), ROWS[1] - 2

    def stop(writer: Any) -> None:
        if writer.num_steps == steps:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        case.run("resumed", stop, passes=1)
    dataset = TrajectoryDataset(store)
    assert (dataset.num_steps, dataset.status) == (steps, "collecting")
    assert dataset.metadata["motion_counts"] == {"completed": [1, 0], "fell": [0, 0]}

    result = case.run("resumed", passes=1, num_envs=None, resume=True)
    assert (result.completed, result.num_steps) == (2, steps + ROWS[1])
    dataset = TrajectoryDataset(store)
    whole = [(motion, len(frames)) for motion, frames, _ in trajectories(dataset)]
    assert whole == [(0, ROWS[0]), (1, steps), (1, ROWS[1])]
    assert dataset.metadata["motion_counts"] == {"completed": [1, 1], "fell": [0, 0]}
    assert dataset.num_valid == ROWS[0] + steps + ROWS[1], "who idles does not count"
    assert [run.first_step for run in dataset.state.runs] == [0, steps]
    assert verify_store(store).ok

    npy = str(case.folder / "resumed.npy")
    export_npy(store, npy, exclude_interrupted=True)
    rows = np.load(npy, allow_pickle=True).item()["actions"]
    assert len(rows) == sum(ROWS), "the unfinished one is left out"


def test_a_fall_is_told_from_a_motions_end(case: Case, change_task: Callable[..., None]) -> None:
    """Environment 0 trips at the third step of each episode."""
    from mjlab.managers.termination_manager import TerminationTermCfg

    def tripping(env: Any) -> Any:
        tripped = env.episode_length_buf == 3
        tripped[1:] = False
        return tripped

    def with_a_trip(cfg: Any) -> None:
        cfg.terminations["trip"] = TerminationTermCfg(func=tripping)

    change_task(with_a_trip)
    result = case.run("falls", max_steps=ROWS[1])
    store, npy = case.store("falls"), str(case.folder / "falls.npy")
    dataset = TrajectoryDataset(store)
    ends = dataset.read("trajectory_end")
    assert np.flatnonzero(ends[:, 0]).tolist() == [2, 5]
    assert (ends[[2, 5], 0] == FAILED).all()
    assert (ends[:, 1][ends[:, 1] != GOES_ON] == TRUNCATED).all()
    assert (result.fell, result.completed) == (2, np.count_nonzero(ends == TRUNCATED))
    assert verify_store(store).ok
    report = export_npy(store, npy, exclude_failed=True)
    assert report.left_out.failed == 6
    assert verify_export(store, npy).ok


def test_a_larger_max_steps_extends_a_complete_store(case: Case) -> None:
    store = case.store("extended")
    case.run("extended", max_steps=2)
    assert TrajectoryDataset(store).status == "complete"
    first = TrajectoryDataset(store).read("student_observations")
    assert case.run("extended", max_steps=2, resume=True).already_complete

    case.run("extended", max_steps=5, resume=True)
    dataset = TrajectoryDataset(store)
    assert (dataset.num_steps, dataset.status) == (5, "complete")
    student = dataset.read("student_observations")
    np.testing.assert_array_equal(student[:2], first)
    # Another run's noise, or the student would learn the same rows twice.
    assert not np.array_equal(student[0], student[2])


def test_going_on_without_a_motion_and_with_another_checkpoint(case: Case, tmp_path: Path) -> None:
    """Motion 0, whose file is gone, keeps its id; motion 1 and a new one are collected."""
    folder = tmp_path / "motions"
    shutil.copytree(case.motions, folder)
    case.run("changed", motion=str(folder), passes=1, max_steps=3)
    (folder / "a.npz").rename(tmp_path / "a.npz")
    other = tmp_path / "other.pt"
    other.write_bytes(Path(EXPERT).read_bytes() + b"\0")

    result = case.run(
        "changed",
        motion=str(folder),
        passes=1,
        resume=True,
        checkpoint=str(other),
        allow_changed=("motions", "checkpoint"),
    )
    assert result.completed == 1
    found = trajectories(case.data("changed"))
    assert found[-1] == (1, list(range(1, ROWS[1] + 1)), True)
    told = case.data("changed").metadata
    assert [Path(m["path"]).name for m in told["motions"]] == ["a.npz", "b.npz"]
    assert told["checkpoint"]["path"] == str(other)


def test_a_motion_that_changes_while_the_simulator_starts(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows would be those of the next one."""
    from mosaic_collect.adapters.mjlab import collect as adapter

    folder = tmp_path / "motions"
    shutil.copytree(case.motions, folder)
    shutil.copy(folder / "b.npz", folder / "c.npz")
    play = adapter._play

    def swapped(*args: Any) -> None:
        play(*args)
        shutil.copy(folder / "a.npz", folder / "b.npz")

    monkeypatch.setattr(adapter, "_play", swapped)
    with pytest.raises(InputError, match=r"b\.npz has changed .*: expected 9 frames, got 6"):
        case.run("swapped", motion=str(folder))
    assert not Path(case.store("swapped")).exists()


def test_no_timer_of_the_tasks_ends_a_trajectory_before_its_motion_does(
    case: Case, change_task: Callable[..., None]
) -> None:
    """One may give the command another motion every so often, one end every episode."""

    def with_a_timer(cfg: Any) -> None:
        cfg.commands["motion"].resampling_time_range = (0.06, 0.06)
        cfg.episode_length_s = 0.06

    change_task(with_a_timer)
    result = case.run("timer", passes=1)
    assert (result.completed, result.num_steps) == (2, ROWS[1])
    whole = [(motion, list(range(1, rows + 1)), True) for motion, rows in enumerate(ROWS)]
    assert trajectories(case.data("timer")) == whole


def test_numpys_numbers_and_paths(case: Case) -> None:
    given = {
        "checkpoint": Path(EXPERT),
        "output": Path(case.store("numpy")),
        "motion": Path(case.motions),
        "passes": np.int8(1),
        "seed": np.int64(1),
        "student_history": np.uint8(2),
        "buffer_mb": np.float32(16),
        "commit_seconds": np.float64(9),
    }
    case.run("numpy", **given, max_steps=np.int64(3), num_envs=np.int32(2))
    again = case.run("numpy", **given, max_steps=np.int64(4), num_envs=None, resume=True)
    assert again.num_steps == 4
    told = case.data("numpy").metadata
    assert (told["seed"], told["passes"], told["observations"]["student_history"]) == (1, 1, 2)


@pytest.fixture
def ranked(case: Case, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def of_rank(rank: int, world: int, **changes: Any) -> Any:
        for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", world)):
            monkeypatch.setenv(name, str(value))
        options = {"distributed": True, "passes": 1, "num_envs": 1, **changes}
        return case.run("ranks", **options)

    return of_rank


def test_ranks_share_the_motions(case: Case, ranked: Callable[..., Any]) -> None:
    folder = case.store("ranks")
    stopped = ranked(1, 2, max_steps=2)
    assert (stopped.num_steps, stopped.completed) == (2, 0)
    assert stopped.store == f"{folder}/rank-00001"
    with pytest.raises(StoreMismatchError, match="observations: expected"):
        ranked(0, 2, student_history=0)
    with pytest.raises(StoreExistsError, match="rank-00001 exists"):
        ranked(1, 2)
    alone = ranked(0, 2)
    assert (alone.num_steps, alone.completed, alone.already_complete) == (sum(ROWS), 2, False)
    late = ranked(1, 3, resume=True)
    assert (late.num_steps, late.already_complete) == (2, True)
    never = ranked(2, 3, resume=True)
    assert (never.num_steps, never.already_complete) == (0, True)
    dataset = TrajectoryDataset(folder)
    assert dataset.status == "complete"
    assert sorted(t.motion for t in dataset.where(end="truncated")) == [0, 1]
    assert [part.metadata["ranks"] for part in dataset.parts] == [[0, 2], [1, 2]]
    assert verify_store(folder).ok
