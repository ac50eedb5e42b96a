"""Changes to a task's config; those with a number are of that fault of MOSAIC's script."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mosaic_collect.adapters.isaaclab.cfg import (
    TRACKER,
    add_student_group,
    prepare_env_cfg,
    prepare_motion_cfg,
)
from mosaic_collect.adapters.isaaclab.collect import IsaacLabSimulation
from mosaic_collect.adapters.isaaclab.motion import MosaicMotionTracker
from mosaic_collect.adapters.rsl_rl.simulation import ManagedSimulation
from mosaic_collect.collection.groups import STUDENT
from mosaic_collect.collection.motion_queue import MotionQueue
from mosaic_collect.collection.motions import Motion
from mosaic_collect.errors import InputError
from tests.contract.inside.toy import PolicyCfg, make, task_cfg, write_motions
from tests.isaaclab import loaded_motions


def prepared(folder: Path, **options: Any) -> Any:
    cfg = task_cfg(3, episode=4.0)
    prepare_motion_cfg(cfg.commands.motion, write_motions(folder / "motions", [20, 20, 20, 20]))
    prepare_env_cfg(cfg, 3, **options)
    return cfg


def begun(env: Any) -> tuple[IsaacLabSimulation, MosaicMotionTracker]:
    """The environment as it is collected in, each of its motions any number of times."""
    tracker = MosaicMotionTracker(env.unwrapped, MotionQueue(loaded_motions(env.unwrapped), None))
    simulation = IsaacLabSimulation(env, {}, tracker)
    simulation.reset()
    return simulation, tracker


def test_11_terminations_can_be_switched_off(tmp_path: Path) -> None:
    kept, off = make(prepared(tmp_path)), make(prepared(tmp_path, terminations=False))
    assert kept.unwrapped.termination_manager.active_terms == [
        *("too_long", "motion_end", "fallen", "astray", TRACKER)
    ]
    assert off.unwrapped.termination_manager.active_terms == [TRACKER]
    simulation = ManagedSimulation(off)
    simulation.reset()
    off.unwrapped.scene.fall[:] = True
    assert not simulation.step(torch.zeros(3, 2)).dones.any()


def test_the_tasks_own_episode_length_ends_no_trajectory(tmp_path: Path) -> None:
    simulation, _ = begun(make(prepared(tmp_path)))
    for _ in range(6):
        assert not simulation.step(torch.zeros(3, 2)).dones.any()


def test_10_and_12_what_is_asked_of_mosaics_command(tmp_path: Path) -> None:
    """All motions in every process, from frame 0 or uniformly, and no timer within a motion."""
    motion, motions = task_cfg(3).commands.motion, write_motions(tmp_path / "motions", [20])
    motion.adaptive_alpha = 0.001  # MOSAIC's: it learns to draw frames before falls
    motion.resampling_time_range = (0.1, 0.1)
    prepare_motion_cfg(motion, motions)
    assert (motion.start_from_beginning, motion.start_frame) == (True, 0)
    assert (motion.adaptive_alpha, motion.resampling_time_range) == (0.001, (1e9, 1e9))
    assert motion.motion_dataset_shard_across_gpus is False
    assert motion.motion_dataset_load_cap is None
    prepare_motion_cfg(motion, motions, "random")
    assert (motion.start_from_beginning, motion.adaptive_alpha) == (False, 0.0)


def test_a_command_of_another_kind_is_refused() -> None:
    with pytest.raises(InputError, match="expected MOSAIC's command with start_from_beginning"):
        prepare_motion_cfg(SimpleNamespace(motion="x"), "y")


def test_11_the_students_history_and_noise_are_what_was_asked_for(tmp_path: Path) -> None:
    cfg, task = prepared(tmp_path), PolicyCfg()
    add_student_group(cfg, task, noise=False, history=4)
    student = getattr(cfg.observations, STUDENT)
    assert (student.enable_corruption, student.history_length) == (False, 4)
    assert (task.enable_corruption, task.history_length) == (True, None)
    assert student.pos is not task.pos
    assert make(cfg).unwrapped.observation_manager.group_obs_dim[STUDENT] == (20,)
    as_trained = prepared(tmp_path)
    task.history_length = 2
    add_student_group(as_trained, task)
    kept = getattr(as_trained.observations, STUDENT)
    assert (kept.enable_corruption, kept.history_length) == (True, 2)


def test_11_a_student_that_cannot_be_observed_is_an_error(tmp_path: Path) -> None:
    taken = prepared(tmp_path)
    add_student_group(taken, PolicyCfg())
    with pytest.raises(InputError, match="a group 'student' of its own"):
        add_student_group(taken, PolicyCfg())


@pytest.mark.parametrize("kind", ["events", "terminations"])
@pytest.mark.parametrize("value", [None, {}])
def test_configs_without_terms(tmp_path: Path, kind: str, value: Any) -> None:
    cfg = task_cfg(3)
    setattr(cfg, kind, value)
    prepare_env_cfg(cfg, 3)
    assert list(getattr(cfg, kind)) == [TRACKER]


def test_motions_that_are_gone_or_of_another_command(tmp_path: Path) -> None:
    folder = Path(write_motions(tmp_path / "motions", [20]))
    shutil.copy(folder / "motion_0.npz", folder / "motion_1.npz")
    cfg = task_cfg(3)
    prepare_motion_cfg(cfg.commands.motion, str(folder))
    prepare_env_cfg(cfg, 3)
    env = make(cfg).unwrapped
    motions = loaded_motions(env)
    assert [m.frames for m in motions] == [20]  # twins are one motion
    gone = Motion(path="gone.npz", sha256="0" * 64, frames=3)
    tracker = MosaicMotionTracker(env, MotionQueue([*motions], 1, {"motions": [gone.entry()]}))
    tracker.assign(None)
    assert tracker.motion_ids.tolist() == [1, -1, -1]
    with pytest.raises(InputError, match=r"motion_0\.npz has changed since it was looked at"):
        MosaicMotionTracker(env, MotionQueue([replace(motions[0], frames=21)]))
    del env.command_manager.get_term("motion").motion_dir_loader
    with pytest.raises(InputError, match="expected MOSAIC's with motion_dir_loader"):
        MosaicMotionTracker(env, MotionQueue(motions))


def test_restarting_one_environment_leaves_the_others_histories(tmp_path: Path) -> None:
    cfg = prepared(tmp_path)
    add_student_group(cfg, PolicyCfg(), history=3)
    simulation, tracker = begun(make(cfg))
    for _ in range(4):
        simulation.step(torch.zeros(3, 2))
    tracker.restart[1] = True
    result = simulation.step(torch.zeros(3, 2))
    assert result.dones.tolist() == result.time_outs.tolist() == [False, True, False]
    clocks = result.observations[STUDENT][:, -3:].tolist()
    assert clocks == [[3.0, 4.0, 5.0], [0.0, 0.0, 0.0], [3.0, 4.0, 5.0]]


def test_an_explicit_reset_gives_motions_once_and_each_to_a_living_environment(
    tmp_path: Path,
) -> None:
    env = make(prepared(tmp_path))
    explicit = ManagedSimulation(env)
    explicit.reset()
    assert explicit.step(torch.zeros(3, 2)).dones.all()  # astray of a command nobody computed
    simulation, tracker = begun(env)
    assert tracker.motion_ids.tolist() == [0, 1, 2]
    assert tracker.frames.tolist() == [1, 1, 1]
    assert not tracker.restart.any()
    assert not simulation.step(torch.zeros(3, 2)).dones.any()


def test_a_steps_ends_stay_what_they_were(tmp_path: Path) -> None:
    """Isaac Lab's next step overwrites what it said of them."""
    simulation, tracker = begun(make(prepared(tmp_path)))
    tracker.restart[1] = True
    ended = simulation.step(torch.zeros(3, 2))
    tracker.restart[1] = False
    simulation.step(torch.zeros(3, 2))
    assert ended.dones.tolist() == ended.time_outs.tolist() == [False, True, False]
