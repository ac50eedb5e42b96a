"""Collecting in mjlab: any of its tasks, with a student's observation group beside the policy's.

Facts about mjlab 1.6: observations of a step are cached, those of done environments are the first
after their reset; the wrapper resets once when it is made.
"""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import mjlab.tasks  # noqa: F401  registers the tasks
import mujoco
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
from mosaic_collect.adapters.mjlab.options import UNMEASURED, MjlabCollectOptions
from mosaic_collect.adapters.rsl_rl.collect import CollectResult, collect_into
from mosaic_collect.adapters.rsl_rl.load import quiet
from mosaic_collect.adapters.rsl_rl.options import DEFAULT_ENVS
from mosaic_collect.adapters.rsl_rl.simulation import MOTION, ManagedSimulation
from mosaic_collect.collection.fitting import fit_motions
from mosaic_collect.collection.groups import ORIGIN, QPOS, QVEL, STUDENT
from mosaic_collect.collection.motion_queue import MotionQueue
from mosaic_collect.collection.motions import find_motions
from mosaic_collect.collection.ranks import RankStore
from mosaic_collect.collection.record import Watch
from mosaic_collect.errors import InputError
from mosaic_collect.store.robot import Robot


def run_collect(
    options: MjlabCollectOptions,
    on_step: Watch | None = None,
    on_end: Callable[[CollectResult], object] | None = None,
) -> CollectResult:
    """Run ``collect_into`` in mjlab."""
    options.check()
    motions = None if options.motion is None else find_motions(options.motion)
    rank_store = RankStore.of(options.output, options.distributed)
    drop = [*options.student_drop]

    def open_simulation(
        queue: MotionQueue | None, num_envs: int, run: int
    ) -> closing[MjlabSimulation]:
        now = replace(
            options,
            num_envs=num_envs,
            seed=rank_store.seed(options.seed or 0, run),
            device=rank_store.device(options.device, torch.cuda.is_available()),
        )
        return closing(MjlabSimulation(now, queue))

    result = collect_into(
        options,
        rank_store,
        open_simulation,
        on_step,
        simulator="mjlab",
        runner_cfg=runner_cfg(options.task),
        observations={
            "teacher_noise": options.teacher_noise,
            "student_history": options.student_history,
            "student_noise": options.student_noise,
            **({} if drop == [*UNMEASURED] else {"student_drop": drop}),
        },
        limits={},
        notes={"seed": options.seed, "passes": options.passes},
        found=motions,
    )
    if on_end is not None:
        on_end(result)
    return result


_NEVER_S = int(1e9)  # as mjlab's own tasks have it in play: a motion's end is what ends it


class MjlabSimulation(ManagedSimulation):
    """Simulation of an mjlab task; the queue takes its motions as the task plays them.

    All that does not fit the task is refused before the simulator is built.
    """

    runner_class = MjlabOnPolicyRunner

    def __init__(self, options: MjlabCollectOptions, queue: MotionQueue | None) -> None:
        config = runner_cfg(options.task)
        # One line per compiled kernel would tear the progress bar: quiet, in Warp's words of today.
        warp.config.quiet, warp.config.log_level = True, getattr(warp, "LOG_WARNING", 30)
        device = options.device or ("cuda:0" if torch.cuda.is_available() else "cpu")
        # Resampled motions lie there until the command has read them.
        with tempfile.TemporaryDirectory(prefix="motions-") as folder:
            cfg = _env_cfg(options, queue, folder)
            with quiet():  # mjlab tells its managers' tables on stdout
                super().__init__(RslRlVecEnvWrapper(ManagerBasedRlEnv(cfg, device=device)), config)
        if queue is not None:
            command: QueuedMotionCommand = self.env.unwrapped.command_manager.get_term(MOTION)
            command.queue = queue
            self.tracker = QueuedMotionTracker(command)

    def state(self) -> dict[str, torch.Tensor]:
        env = self.env.unwrapped
        data = env.sim.data
        return {QPOS: data.qpos[:], QVEL: data.qvel[:], ORIGIN: env.scene.env_origins}

    @property
    def robot_name(self) -> str:
        return str(self.asset.spec.modelname) if self.asset is not None else ""

    @property
    def joint_unit(self) -> str:
        kinds = {int(kind) for kind in self.env.unwrapped.sim.mj_model.jnt_type}
        return "rad" if kinds <= {mujoco.mjtJoint.mjJNT_FREE, mujoco.mjtJoint.mjJNT_HINGE} else ""

    def push(self, velocity: torch.Tensor) -> None:
        robot = self.free_asset
        # The velocity of the base's origin in the world: what is behind it is angular.
        x_and_y = robot.indexing.free_joint_v_adr[:2]
        robot.data.data.qvel[:, x_and_y] += velocity


def runner_cfg(task: str) -> dict[str, Any]:
    """A task's own training config, for an rsl_rl runner; ``InputError`` for an unknown task."""
    if task not in list_tasks():
        raise InputError(f"task: expected one of {', '.join(list_tasks())}, got {task!r}")
    return dataclasses.asdict(load_rl_cfg(task))


def _env_cfg(options: MjlabCollectOptions, queue: MotionQueue | None, folder: str) -> Any:
    cfg = load_env_cfg(options.task, play=True)  # no pushes, starts on the reference
    cfg.scene.num_envs = options.num_envs or DEFAULT_ENVS
    cfg.seed = options.seed
    if (MOTION in cfg.commands) != (queue is not None):
        words = "takes no motion" if queue else "needs motions"
        raise InputError(f"motion: {options.task} {words}")
    if queue is not None:
        _play(cfg, queue, options, folder)
    cfg.observations["actor"].enable_corruption = options.teacher_noise
    if options.student_history:
        if STUDENT in cfg.observations:
            raise InputError(
                f"student_history: {options.task} has a group {STUDENT!r} of its own; 0 records it"
            )
        cfg.observations[STUDENT] = _student_group(cfg.observations["actor"], options)
    return cfg


def _play(cfg: Any, queue: MotionQueue, options: MjlabCollectOptions, folder: str) -> None:
    """Check the motions against robot and step, while there is no simulator yet, and play them."""
    robot = cfg.scene.entities[cfg.commands[MOTION].entity_name].build()
    steps = 1.0 / (cfg.sim.mujoco.timestep * cfg.decimation)  # a second
    into = folder if options.resample else None
    known = Robot(joint_names=robot.joint_names, body_names=robot.body_names)
    fitting = fit_motions(queue.present, steps, robot=known, allow_fps=options.allow_fps, into=into)
    queue.take(fitting)
    # A copy: the wrapper resets once when it is made, and what that draws is not recorded.
    cfg.commands[MOTION] = queued_cfg(cfg.commands[MOTION], queue.copy(), options.start)
    cfg.episode_length_s = _NEVER_S
    # Computed before the command advances, so the environment is still on the last frame.
    cfg.terminations["motion_end"] = TerminationTermCfg(func=_motion_end, time_out=True)


def _motion_end(env: Any) -> torch.Tensor:
    command: QueuedMotionCommand = env.command_manager.get_term(MOTION)
    return command.at_end()


def _student_group(actor: Any, options: MjlabCollectOptions) -> Any:
    """A copy: groups must not share terms, which the manager changes in place."""
    student = copy.deepcopy(actor)
    unknown = set(options.student_drop) - {*student.terms, *UNMEASURED}
    if unknown:
        raise InputError(
            f"student_drop: expected some of {', '.join(student.terms)}, got {sorted(unknown)}"
        )
    for name in options.student_drop:
        student.terms.pop(name, None)
    student.history_length = options.student_history
    student.flatten_history_dim = True
    student.enable_corruption = options.student_noise
    return student
