"""mjlab as a simulation: any of its tasks, with a student's observation group beside the policy's.

Facts about mjlab 1.6: observations of a step are cached, those of done environments are the first
after their reset; the wrapper resets once when it is made.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

import mjlab.tasks  # noqa: F401  registers the tasks
import torch
import warp
from mjlab.envs import ManagerBasedRlEnv
from mjlab.managers.termination_manager import TerminationTermCfg
from mjlab.rl import MjlabOnPolicyRunner, RslRlVecEnvWrapper
from mjlab.tasks.registry import list_tasks, load_env_cfg, load_rl_cfg

from mosaic_collect.adapters.mjlab.motion import (
    QueuedMotionCommand,
    QueuedMotionTracker,
    queued_cfg,
)
from mosaic_collect.adapters.rsl_rl.actor import Actor
from mosaic_collect.adapters.rsl_rl.load import load_policy
from mosaic_collect.adapters.rsl_rl.managed import ManagedSimulation
from mosaic_collect.adapters.rsl_rl.runners import quiet
from mosaic_collect.collection.motions import MotionQueue
from mosaic_collect.collection.rollout import STUDENT
from mosaic_collect.collection.trackers import EpisodeTracker, EveryEpisode
from mosaic_collect.errors import InputError

#: Terms that a robot cannot measure without an estimator, so a student does without them.
UNMEASURED = ("motion_anchor_pos_b", "base_lin_vel")
_MOTION = "motion"


@dataclass(frozen=True, kw_only=True)
class MjlabOptions:
    """How an mjlab task is made.

    Attributes:
        task: Its registered name.
        num_envs: Environments, N.
        device: "cpu" or a CUDA device.
        seed: Of noise and randomisation.
        teacher_noise: Whether the policy's observations are noisy, as in training.
        student_history: Frames that the student sees; 0: no student group is made.
        student_noise: Whether the student's observations are noisy.
        student_drop: Terms of the policy's group that the student does not get.
    """

    task: str
    num_envs: int
    device: str = "cpu"
    seed: int = 0
    teacher_noise: bool = True
    student_history: int = 5
    student_noise: bool = True
    student_drop: tuple[str, ...] = UNMEASURED


class MjlabSimulation(ManagedSimulation):
    """An mjlab task as ``mosaic_collect.collection.record.GroupedSimulation``.

    Args:
        options: How to make it.
        queue: Motions for a tracking task; None for a task without a motion command.

    Raises:
        InputError: No such task, or motions where they have no place, or none where they do.
    """

    def __init__(self, options: MjlabOptions, queue: MotionQueue | None) -> None:
        self.options = options
        warp.config.quiet = True  # a line a compiled kernel would tear the progress bar apart
        cfg = _env_cfg(options, queue)
        with quiet():  # mjlab tells its managers' tables on stdout
            super().__init__(RslRlVecEnvWrapper(ManagerBasedRlEnv(cfg, device=options.device)))
        self._queue = queue

    def tracker(self) -> EpisodeTracker:
        """Of its episodes; its environments get the queue's motions from their next reset on."""
        if self._queue is None:
            return EveryEpisode(self.num_envs, self.device)
        command: QueuedMotionCommand = self.env.unwrapped.command_manager.get_term(_MOTION)
        command.queue = self._queue
        return QueuedMotionTracker(command)

    def policy(self, checkpoint: str) -> Actor:
        """The checkpoint's actor, acting by its mean.

        Raises:
            InputError: The checkpoint is not of this task's policy.
        """
        device = self.options.device
        config = runner_cfg(self.options.task)
        return load_policy(self.env, config, checkpoint, device, MjlabOnPolicyRunner)


def runner_cfg(task: str) -> dict[str, Any]:
    """A task's own training config, for an rsl_rl runner.

    Raises:
        InputError: No such task.
    """
    _check_task(task)
    return dataclasses.asdict(load_rl_cfg(task))


def _check_task(task: str) -> None:
    if task not in list_tasks():
        raise InputError(f"task: expected one of {', '.join(list_tasks())}, got {task!r}")


def _env_cfg(options: MjlabOptions, queue: MotionQueue | None) -> Any:
    _check_task(options.task)
    cfg = load_env_cfg(options.task, play=True)  # no pushes, starts on the reference
    cfg.scene.num_envs = options.num_envs
    cfg.seed = options.seed
    _set_motion(cfg, options.task, queue)
    cfg.observations["actor"].enable_corruption = options.teacher_noise
    if options.student_history and STUDENT not in cfg.observations:
        cfg.observations[STUDENT] = _student_group(cfg.observations["actor"], options)
    return cfg


def _set_motion(cfg: Any, task: str, queue: MotionQueue | None) -> None:
    tracks = _MOTION in cfg.commands
    if tracks != (queue is not None):
        raise InputError(f"motion: {task} {'needs motions' if tracks else 'takes no motion'}")
    if queue is not None:
        # A copy: the wrapper resets once when it is made, and what that draws is not recorded.
        cfg.commands[_MOTION] = queued_cfg(cfg.commands[_MOTION], queue.copy())
        # Computed before the command advances, so the environment is still on the last frame.
        cfg.terminations["motion_end"] = TerminationTermCfg(func=_motion_end, time_out=True)


def _motion_end(env: Any) -> torch.Tensor:
    command: QueuedMotionCommand = env.command_manager.get_term(_MOTION)
    return command.at_end()


def _student_group(actor: Any, options: MjlabOptions) -> Any:
    """A copy: groups must not share terms, which the manager changes in place."""
    student = copy.deepcopy(actor)
    for name in options.student_drop:
        student.terms.pop(name, None)
    student.history_length = options.student_history
    student.flatten_history_dim = True
    student.enable_corruption = options.student_noise
    return student
