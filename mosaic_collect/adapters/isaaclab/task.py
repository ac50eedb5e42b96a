"""A registered task of Isaac Lab's, of whichever generation, as the engine opens it.

With motions the collector says when trajectories begin and end, so the task's events and its
episodes' length are left out: MOSAIC's command places the robot. Without, the task is as it is
trained: its events are what resets it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch

from mosaic_collect.adapters.isaaclab.cfg import entry, prepare_env_cfg, prepare_motion_cfg
from mosaic_collect.adapters.isaaclab.launch import (
    RSL_RL_CFG,
    Launch,
    check_task,
    register_tasks,
)
from mosaic_collect.adapters.isaaclab.motion import MosaicMotionTracker
from mosaic_collect.adapters.isaaclab.options import CollectOptions
from mosaic_collect.adapters.isaaclab.simulation import IsaacLabSimulation
from mosaic_collect.adapters.isaaclab.student import add_student_group, policy_group
from mosaic_collect.adapters.rsl_rl.managed import MOTION
from mosaic_collect.adapters.rsl_rl.runner_cfg import config_dict, json_safe
from mosaic_collect.adapters.rsl_rl.runners import quiet
from mosaic_collect.collection.fitting import fit_folder
from mosaic_collect.collection.motion_queue import MotionQueue, refuse_gone
from mosaic_collect.collection.motions import Motion
from mosaic_collect.collection.origin import Origin, file_identity
from mosaic_collect.collection.ranks import RankStore
from mosaic_collect.errors import InputError

_RANK_SEEDS = 1000  # further from one another than a store has runs


class IsaacLab:
    """A ``mosaic_collect.adapters.rsl_rl.collect.Simulator``.

    Args:
        options: Of the collection.
        launch: Whose session is open.
        flags: Of its launcher.
        found: The motions there are; None: the task has none.
        seat: Where this process records.

    Raises:
        InputError: No such task; or motions where they have no place, or none where they do.
    """

    def __init__(
        self,
        options: CollectOptions,
        launch: Launch,
        flags: argparse.Namespace,
        found: Sequence[Motion] | None,
        seat: RankStore,
    ) -> None:
        self._options, self._launch, self._flags, self._found = options, launch, flags, found
        self._rank = seat.rank
        self._ranks = seat.ranks
        register_tasks(options.tasks_module)
        check_task(options.task, RSL_RL_CFG)
        self._env_cfg, self._agent_cfg = launch.configs(options.task, RSL_RL_CFG, options.overrides)
        self._command = entry(getattr(self._env_cfg, "commands", None), MOTION)
        if found is not None and self._command is None:
            raise InputError(f"motion: {options.task} takes no motion")
        if found is None and hasattr(self._command, "motion"):
            raise InputError(f"motion: {options.task} needs motions")

    @cached_property
    def checkpoint(self) -> str:
        return self._options.checkpoint or self._options.training_run.find(self._agent_cfg)

    def origin(self) -> Origin:
        options, choice = self._options, self._options.choice
        seen: dict[str, Any] = {
            "student_task": options.student_task,
            "student_history": options.student_history,
            "student_noise": options.student_noise,
        }
        # What the first stores did not tell of is told only where it is not the default.
        told = {
            "teacher_noise": (options.teacher_noise, True),
            "student_drop": (list(options.student_drop), []),
            "student_overrides": (list(options.student_overrides), []),
            "overrides": (list(options.overrides), []),
        }
        seen |= {name: value for name, (value, usual) in told.items() if value != usual}
        rows = choice.steps_per_trajectory
        return Origin(
            simulator="isaaclab",
            task=options.task,
            checkpoint=file_identity(self.checkpoint),
            runner_cfg=json_safe(config_dict(self._agent_cfg)),
            observations=seen,
            acting=options.acting.told(),
            limits={} if rows is None else {"steps_per_env": rows},
            ranks=self._ranks,
            notes={
                "seed": self._seed,
                "passes": options.passes,
                **json_safe(options.notes),
            },
        )

    def queue(self, told: Mapping[str, Any]) -> MotionQueue | None:
        options = self._options
        if self._found is None:
            return None
        refuse_gone(self._found, told, options.output, options.allow_changed)
        return MotionQueue(options.choice.chosen(self._found), options.passes, told)

    @contextmanager
    def opened(
        self, queue: MotionQueue | None, num_envs: int, run: int
    ) -> Iterator[IsaacLabSimulation]:
        env_cfg, options = self._env_cfg, self._options
        if queue is None:
            env_cfg.scene.num_envs = num_envs
        else:
            prepare_env_cfg(env_cfg, num_envs, options.terminations)
        self._observe()
        if self._seed is not None:
            env_cfg.seed = self._seed + _RANK_SEEDS * self._ranks[0] + run
        env_cfg.sim.device = self._device(env_cfg.sim.device)
        with self._launch.simulating(env_cfg, self._flags):
            simulation = self._made(queue)
            try:
                yield simulation
            finally:
                simulation.close()

    @property
    def _seed(self) -> int | None:
        return self._env_cfg.seed if self._options.seed is None else self._options.seed

    def _device(self, tasks: str) -> str:
        """As asked for; else the rank's, or the task's, which is a GPU that may not be there."""
        asked, cuda = self._options.device, torch.cuda.is_available()
        if self._rank is not None:
            return self._rank.device(asked, cuda)
        return asked or ("cpu" if tasks.startswith("cuda") and not cuda else tasks)

    def _observe(self) -> None:
        """The student beside the teacher, and the teacher without noise if that is asked for."""
        options = self._options
        if options.has_student:
            group = self._student_group()
            history, drop = options.student_history, options.student_drop
            add_student_group(self._env_cfg, group, options.student_noise, history, drop)
        if not options.teacher_noise:
            policy_group(self._env_cfg, options.task, "teacher_noise").enable_corruption = False

    def _student_group(self) -> Any:
        task, overrides = self._options.student_task, self._options.student_overrides
        if task is None:
            return policy_group(self._env_cfg, self._options.task, "student_history")
        check_task(task, name="student_task")
        env_cfg, _ = self._launch.configs(task, None, overrides)
        return policy_group(env_cfg, task, "student_task")

    def _made(self, queue: MotionQueue | None) -> IsaacLabSimulation:
        """The environment, which reads its motions while it is made."""
        if queue is None:
            return IsaacLabSimulation(self._env(), self._agent_cfg)
        options, choice = self._options, self._options.choice
        steps = 1.0 / (self._env_cfg.sim.dt * self._env_cfg.decimation)  # a second
        with fit_folder(
            os.path.realpath(str(options.motion)),  # as its files were found
            queue.present,
            steps,
            allow_fps=options.allow_fps,
            resample=options.resample,
        ) as (folder, motions):
            queue.take(motions)
            prepare_motion_cfg(self._command, folder, options.acting.start, motions)
            env = self._env()
        left = _trajectories_left(choice.max_trajectories, queue)
        tracker = MosaicMotionTracker(env.unwrapped, queue, choice.steps_per_trajectory, left)
        return IsaacLabSimulation(env, self._agent_cfg, tracker)

    def _env(self) -> Any:
        import gymnasium
        from isaaclab_rl.rsl_rl import RslRlVecEnvWrapper

        with quiet():  # the managers' tables
            return RslRlVecEnvWrapper(
                gymnasium.make(self._options.task, cfg=self._env_cfg, render_mode=None),
                clip_actions=getattr(self._agent_cfg, "clip_actions", None),
            )


def _trajectories_left(max_trajectories: int | None, queue: MotionQueue) -> int | None:
    """How many may still begin."""
    if max_trajectories is None:
        return None
    return max(max_trajectories - queue.completed - queue.fell, 0)
