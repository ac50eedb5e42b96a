"""Collecting in mjlab: any of its tasks, with a student's observation group beside the policy's.

Facts about mjlab 1.6: observations of a step are cached, those of done environments are the first
after their reset; the wrapper resets once when it is made.

mjlab's motion command follows a queue (written against tasks/tracking/mdp/commands.py). All motions
lie end to end in one array; an environment's ``time_steps`` points into it:

    frame   0 ......... 125 126 ............ 300
            └ motion 0 ───┘ └ motion 1 ───────┘      time_steps = start of its motion + frame

A termination on a motion's last frame resets the environment, and the reset asks the queue for the
next motion. So an environment never runs past its motion's end, where mjlab would teleport it
without a word.
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
from mjlab.tasks.tracking.mdp import MotionCommandCfg
from mjlab.tasks.tracking.mdp.commands import MotionCommand, MotionLoader

from mosaic_collect.adapters.mjlab.options import UNMEASURED, MjlabCollectOptions
from mosaic_collect.adapters.rsl_rl.collect import CollectResult, collect_into
from mosaic_collect.adapters.rsl_rl.load import quiet
from mosaic_collect.adapters.rsl_rl.options import DEFAULT_ENVS
from mosaic_collect.adapters.rsl_rl.simulation import MOTION, ManagedSimulation
from mosaic_collect.collection.acting import FIRST
from mosaic_collect.collection.fitting import fit_motions
from mosaic_collect.collection.groups import ORIGIN, QPOS, QVEL, STUDENT
from mosaic_collect.collection.motion_queue import MotionQueue
from mosaic_collect.collection.motions import ARRAYS, Motion, find_motions
from mosaic_collect.collection.protocols import MotionTracker
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
            command: QueuedMotionCommand = self.motion_command
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


_NO_RESAMPLING_S = 1.0e9  # a timer would put a robot on another motion, without a word


class QueuedMotionCommand(MotionCommand):  # type: ignore[misc]
    """``MotionCommand`` over several motions, assigned by a queue at every reset.

    Attributes:
        queue: Queue of the next reset; may be replaced by one of the same motions.
        motion_ids: The motion that each environment follows, ``(N,)`` int32.
        idle: Environments without a motion to follow, ``(N,)`` bool.
    """

    def __init__(self, cfg: Any, env: Any, queue: MotionQueue, start: str = FIRST) -> None:
        super().__init__(cfg, env)
        self.queue, self._start = queue, start
        loaded = [self._load(m) for m in queue.present]
        for name in ARRAYS:
            setattr(self.motion, name, torch.cat([getattr(one, name) for one in loaded]))
        # None of one that an earlier run knew and that is gone; nobody will follow it.
        here = {m.sha256 for m in queue.present}
        steps = [m.frames if m.sha256 in here else 0 for m in queue.motions]
        lengths = torch.tensor(steps, device=self.device)
        self.motion.time_step_total = int(lengths.sum())
        self.ends = torch.cumsum(lengths, 0)
        self.starts = self.ends - lengths
        self._any_motion = queue.motions.index(queue.present[0])
        self.motion_ids = torch.zeros(self.num_envs, dtype=torch.int32, device=self.device)
        self.idle = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)

    def _load(self, motion: Motion) -> Any:
        """A motion's arrays, of as many frames as it was when it was looked at."""
        loaded = MotionLoader(motion.file, self.body_indexes, self.device)
        if loaded.time_step_total != motion.frames:
            raise InputError(
                f"motion: {motion.path} has changed since it was looked at: expected "
                f"{motion.frames} frames, got {loaded.time_step_total}"
            )
        return loaded

    @property
    def frames(self) -> torch.Tensor:
        """Frame of its motion that each environment follows, ``(N,)`` int32."""
        frames: torch.Tensor = self.time_steps - self.starts[self.motion_ids.long()]
        return frames.to(torch.int32)

    def at_end(self) -> torch.Tensor:
        """Environments on their motion's last frame, ``(N,)`` bool."""
        last: torch.Tensor = self.ends[self.motion_ids.long()] - 1
        at_end: torch.Tensor = self.time_steps >= last
        return at_end

    def _uniform_sampling(self, env_ids: torch.Tensor) -> None:
        """Start on a frame of the queue's next motion, where mjlab would draw one of its own."""
        drawn = [self.queue.next() for _ in range(len(env_ids))]
        motions = torch.tensor(drawn, dtype=torch.int32, device=self.device)
        self.idle[env_ids] = motions < 0
        # An idle environment goes on with some motion that is there; its rows do not count.
        self.motion_ids[env_ids] = torch.where(motions < 0, self._any_motion, motions)
        motions = self.motion_ids[env_ids].long()
        self.time_steps[env_ids] = self.starts[motions] + self._first_frames(motions)

    def _first_frames(self, motions: torch.Tensor) -> torch.Tensor:
        """Frame 0 of each motion, or any but its last, on which a trajectory would have no row."""
        if self._start == FIRST:
            return torch.zeros_like(motions)
        choices = (self.ends - self.starts)[motions] - 1
        drawn: torch.Tensor = (torch.rand(len(motions), device=self.device) * choices).long()
        return drawn.clamp(max=choices - 1).clamp(min=0)  # rand is below 1, its product may not be


def queued_cfg(cfg: MotionCommandCfg, queue: MotionQueue, start: str = FIRST) -> Any:
    """The command's config, built as a ``QueuedMotionCommand`` that starts on the reference."""

    class QueuedMotionCommandCfg(type(cfg)):  # type: ignore[misc]
        def build(self, env: Any) -> QueuedMotionCommand:
            return QueuedMotionCommand(self, env, queue, start)

    fields = {name: getattr(cfg, name) for name in cfg.__dataclass_fields__}
    fields.update(
        motion_file=queue.present[0].file,
        sampling_mode="uniform",  # the branch whose hook is overridden
        resampling_time_range=(_NO_RESAMPLING_S, _NO_RESAMPLING_S),
        joint_position_range=(0.0, 0.0),
        pose_range={},
        velocity_range={},
        debug_vis=False,
    )
    return QueuedMotionCommandCfg(**fields)


class QueuedMotionTracker(MotionTracker):
    """The ``EpisodeTracker`` of a ``QueuedMotionCommand``."""

    def __init__(self, command: QueuedMotionCommand) -> None:
        super().__init__(command.queue)
        self._command = command

    def active(self) -> torch.Tensor:
        return ~self._command.idle

    def following(self) -> tuple[torch.Tensor, ...]:
        command = self._command
        return command.motion_ids.clone(), command.frames, command.at_end()
