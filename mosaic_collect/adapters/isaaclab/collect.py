"""Collecting in a registered task of Isaac Lab, of whichever generation.

With motions the collector says when trajectories begin and end, so the task's events and its
episodes' length are left out: MOSAIC's command places the robot. Without, the task is as it is
trained: its events are what resets it.

Episodes begin such that no termination fires on a command nobody computed. ``env.reset()`` resets
the command but does not compute it, and ``step`` computes terminations first. So what a command
sets only when it is computed, such as MOSAIC's ``body_pos_relative_w``, is zero or of an earlier
episode in the step behind an explicit reset: a termination on bodies ends every environment there,
though none fell. A reset within a step has the command computed right behind it:

    env.reset()      no motions are handed out
    env.step(zeros)  the collector's termination ends every environment, by time
                     each gets its first motion; then the command is computed: frame 1
    env.step(...)    the first recorded row

Nothing here imports Isaac Lab before ``launch.installed`` has said which one it is.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import torch

from mosaic_collect.adapters.isaaclab.cfg import (
    add_student_group,
    entry,
    policy_group,
    prepare_env_cfg,
    prepare_motion_cfg,
)
from mosaic_collect.adapters.isaaclab.launch import (
    RSL_RL_CFG,
    Launch,
    check_task,
    installed,
    launcher_flags,
    register_tasks,
)
from mosaic_collect.adapters.isaaclab.motion import MosaicMotionTracker
from mosaic_collect.adapters.isaaclab.options import IsaacLabCollectOptions
from mosaic_collect.adapters.rsl_rl.collect import CollectResult, collect_into
from mosaic_collect.adapters.rsl_rl.load import quiet
from mosaic_collect.adapters.rsl_rl.runner_cfg import config_dict, json_safe
from mosaic_collect.adapters.rsl_rl.simulation import MOTION, ManagedSimulation
from mosaic_collect.collection.fitting import fit_folder
from mosaic_collect.collection.groups import ORIGIN, QPOS, QVEL
from mosaic_collect.collection.motion_queue import MotionQueue
from mosaic_collect.collection.motions import Motion, find_motions
from mosaic_collect.collection.protocols import Observations
from mosaic_collect.collection.ranks import RankStore
from mosaic_collect.collection.record import Watch
from mosaic_collect.errors import InputError


def run_collect(
    options: IsaacLabCollectOptions,
    on_step: Watch | None = None,
    on_end: Callable[[CollectResult], object] | None = None,
    *,
    flags: argparse.Namespace | None = None,
    found: Sequence[Motion] | None = None,
) -> CollectResult:
    """``mosaic_collect.run_collect`` in a registered task of whichever generation is installed.

    Isaac Sim may end the process behind ``on_end``. ``flags`` are parsed flags of Isaac Lab's
    launcher; None: those of ``options.launcher``. ``found`` are the motions at ``options.motion``,
    if they were read before.
    """
    options.check()
    if found is None and options.motion is not None:
        found = find_motions(os.path.realpath(options.motion))  # as MOSAIC resolves it
    rank_store = RankStore.of(options.output, options.distributed)
    launch = installed()
    flags = launcher_flags(launch, options.launcher) if flags is None else flags
    if rank_store.rank is not None and options.device is None and torch.cuda.is_available():
        flags.distributed = True  # Kit and the simulation take the local rank's device
    with launch.session(flags):
        task = _Task(options, rank_store, found, launch, flags)
        rows = options.steps_per_trajectory
        result = collect_into(
            task.options,
            rank_store,
            task.opened,
            on_step,
            simulator="isaaclab",
            runner_cfg=json_safe(config_dict(task.agent_cfg)),
            observations=_observations(options),
            limits={} if rows is None else {"steps_per_env": rows},
            notes={"seed": task.seed, "passes": options.passes, **json_safe(options.notes)},
            found=found,
            motions=None if found is None else options.chosen(found),
        )
        if on_end is not None:
            on_end(result)
    return result


def _observations(options: IsaacLabCollectOptions) -> dict[str, Any]:
    # What the first stores did not contain is stored only where it is not the default.
    later = {
        "teacher_noise": (options.teacher_noise, True),
        "student_drop": ([*options.student_drop], []),
        "student_overrides": ([*options.student_overrides], []),
        "overrides": ([*options.overrides], []),
    }
    return {
        "student_task": options.student_task,
        "student_history": options.student_history,
        "student_noise": options.student_noise,
        **{name: value for name, (value, usual) in later.items() if value != usual},
    }


_RANK_SEEDS = 1000  # further from one another than a store has runs


class _Task:
    """A registered task of Isaac Lab, within the session of a launcher with its flags."""

    def __init__(
        self,
        options: IsaacLabCollectOptions,
        rank_store: RankStore,
        motions: Sequence[Motion] | None,
        launch: Launch,
        flags: argparse.Namespace,
    ) -> None:
        self._rank_store, self._launch, self._flags = rank_store, launch, flags
        register_tasks(options.tasks_module)
        check_task(options.task, RSL_RL_CFG)
        self._env_cfg, self.agent_cfg = launch.configs(options.task, RSL_RL_CFG, options.overrides)
        self._command = entry(getattr(self._env_cfg, "commands", None), MOTION)
        if motions is not None and self._command is None:
            raise InputError(f"motion: {options.task} takes no motion")
        if motions is None and hasattr(self._command, "motion"):
            raise InputError(f"motion: {options.task} needs motions")
        checkpoint = options.checkpoint or options.find_checkpoint(self.agent_cfg)
        self.options = replace(options, checkpoint=checkpoint)
        self.seed = self._env_cfg.seed if options.seed is None else options.seed

    @contextmanager
    def opened(
        self, queue: MotionQueue | None, num_envs: int, run: int
    ) -> Iterator[IsaacLabSimulation]:
        env_cfg, options, seed = self._env_cfg, self.options, self.seed
        if queue is None:
            env_cfg.scene.num_envs = num_envs
        else:
            prepare_env_cfg(env_cfg, num_envs, options.terminations)
        history, drop = options.student_history, options.student_drop
        if options.student_task or history is not None or drop:
            group = self._student_group()
            add_student_group(env_cfg, group, options.student_noise, history, drop)
        if not options.teacher_noise:
            policy_group(env_cfg, options.task, "teacher_noise").enable_corruption = False
        if seed is not None:
            env_cfg.seed = seed + _RANK_SEEDS * self._rank_store.ranks[0] + run
        env_cfg.sim.device = self._device(env_cfg.sim.device)
        if "final_observations" in options.extra_names and hasattr(env_cfg, "compute_final_obs"):
            env_cfg.compute_final_obs = True  # Isaac Lab 3
        with (
            self._launch.simulating(env_cfg, self._flags),
            closing(self._made(queue)) as simulation,
        ):
            yield simulation

    def _device(self, tasks: str) -> str:
        """Device that was asked for; else the rank's, or the task's unless that GPU is missing."""
        asked, cuda = self.options.device, torch.cuda.is_available()
        if self._rank_store.rank is not None:
            return self._rank_store.device(asked, cuda)
        return asked or ("cpu" if tasks.startswith("cuda") and not cuda else tasks)

    def _student_group(self) -> Any:
        task, overrides = self.options.student_task, self.options.student_overrides
        if task is None:
            return policy_group(self._env_cfg, self.options.task, "student_history")
        check_task(task, name="student_task")
        env_cfg, _ = self._launch.configs(task, None, overrides)
        return policy_group(env_cfg, task, "student_task")

    def _made(self, queue: MotionQueue | None) -> IsaacLabSimulation:
        """The environment, which reads its motions while it is made."""
        if queue is None:
            return IsaacLabSimulation(self._env(), self.agent_cfg)
        options = self.options
        steps = 1.0 / (self._env_cfg.sim.dt * self._env_cfg.decimation)  # a second
        with fit_folder(
            os.path.realpath(str(options.motion)),  # as its files were found
            queue.present,
            steps,
            allow_fps=options.allow_fps,
            resample=options.resample,
        ) as (folder, motions):
            queue.take(motions)
            prepare_motion_cfg(self._command, folder, options.start, motions)
            env = self._env()
        limits = options.steps_per_trajectory, options.max_trajectories
        tracker = MosaicMotionTracker(env.unwrapped, queue, *limits)
        return IsaacLabSimulation(env, self.agent_cfg, tracker)

    def _env(self) -> Any:
        import gymnasium
        from isaaclab_rl.rsl_rl import RslRlVecEnvWrapper

        with quiet():  # the managers' tables
            return RslRlVecEnvWrapper(
                gymnasium.make(self.options.task, cfg=self._env_cfg, render_mode=None),
                clip_actions=getattr(self.agent_cfg, "clip_actions", None),
            )


def _torch(values: Any) -> torch.Tensor:
    """Isaac Lab 3 has arrays of Warp's, which hold a tensor."""
    tensor: torch.Tensor = getattr(values, "torch", values)
    return tensor


class IsaacLabSimulation(ManagedSimulation):
    """Simulation of a task of Isaac Lab, whose episodes begin in a step if it has motions."""

    @property
    def robot_name(self) -> str:
        spawn = getattr(getattr(self.asset, "cfg", None), "spawn", None)
        path = getattr(spawn, "usd_path", None) or getattr(spawn, "asset_path", None) or ""
        return os.path.splitext(os.path.basename(path))[0]

    @property
    def joint_unit(self) -> str:
        """Unit of the joints' positions, by the kinds of joints in the first environment."""
        env = self.env.unwrapped
        stage, paths = getattr(env.sim, "stage", None), getattr(env.scene, "env_prim_paths", None)
        if stage is None or not paths:
            return ""
        from pxr import Usd, UsdPhysics

        prims = list(Usd.PrimRange(stage.GetPrimAtPath(paths[0]), Usd.TraverseInstanceProxies()))
        slide, turn = (
            any(prim.IsA(kind) for prim in prims)
            for kind in (UsdPhysics.PrismaticJoint, UsdPhysics.RevoluteJoint)
        )
        return "rad" if turn and not slide else ""

    def state(self) -> Mapping[str, torch.Tensor]:
        """State in MuJoCo's form, of Isaac Lab 3: joints in the order of ``robot.joint_names``."""
        data: Any = getattr(self.asset, "data", None)
        if not hasattr(getattr(data, "joint_pos", None), "torch"):
            return {}  # Isaac Lab 2, whose quaternions have another order
        qpos, qvel = [data.joint_pos.torch], [data.joint_vel.torch]
        if not self.asset.is_fixed_base:
            rotation = data.root_link_quat_w.torch.roll(1, dims=1)  # x y z w to w x y z
            qpos = [data.root_link_pos_w.torch, rotation, *qpos]
            # MuJoCo's angular velocity of a free base is in the base's own frame.
            qvel = [data.root_link_lin_vel_w.torch, data.root_link_ang_vel_b.torch, *qvel]
        origins = self.env.unwrapped.scene.env_origins
        return {QPOS: torch.cat(qpos, 1), QVEL: torch.cat(qvel, 1), ORIGIN: _torch(origins)}

    def push(self, velocity: torch.Tensor) -> None:
        robot = self.free_asset
        rows = velocity.any(dim=1).nonzero()[:, 0].to(torch.int32)
        if not len(rows):
            return
        moving = _torch(robot.data.root_vel_w)[rows]
        moving[:, :2] += velocity[rows]
        # Of 3, which takes tensors by this name; 2.x has the other alone.
        write = getattr(robot, "write_root_velocity_to_sim_index", None)
        (write or robot.write_root_velocity_to_sim)(root_velocity=moving, env_ids=rows)

    def reset(self) -> Observations:
        """Begin each environment's next motion, at frame 1 as in training."""
        tracker = self.tracker
        if not isinstance(tracker, MosaicMotionTracker):
            return super().reset()
        tracker.hands_out = False
        super().reset()
        tracker.hands_out = True
        tracker.restart[:] = True
        begun = self.step(torch.zeros(self.num_envs, self.num_actions, device=self.device))
        tracker.restart[:] = False
        return begun.observations
