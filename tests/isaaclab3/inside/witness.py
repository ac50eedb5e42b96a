"""A collection, beside an account of it that shares no code with the collector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples.g1 import isaaclab as g1
from examples.g1.isaaclab.motions import write_motions
from mosaic_collect import TrajectoryDataset
from mosaic_collect.adapters.isaaclab.cfg import (
    add_student_group,
    prepare_env_cfg,
    prepare_motion_cfg,
)
from mosaic_collect.adapters.rsl_rl.load import load_policy
from mosaic_collect.collection.motion_queue import MotionQueue
from mosaic_collect.collection.origin import Origin, file_identity
from mosaic_collect.collection.protocols import Observations, PolicyOutput
from mosaic_collect.collection.rollout import STUDENT
from tests.isaaclab import collect_motions
from tests.isaaclab3.inside.session import configs, opened


class Spy:
    """A policy that notes what it acts on."""

    def __init__(self, policy: Any) -> None:
        self._policy, self.shapes = policy, policy.shapes
        self.acted: list[torch.Tensor] = []

    def act(self, observations: Observations) -> PolicyOutput:
        self.acted.append(observations["policy"].clone())
        return self._policy.act(observations)

    def reset(self, dones: torch.Tensor) -> None:
        self._policy.reset(dones)


@dataclass
class Witness:
    """What the environment itself said; row t is before, or of, step t.

    The step right behind an explicit reset begins the episodes, and is no row.

    Attributes:
        motions: Each environment's motion, by its file's own number.
        frames: The command's frame.
        over: Whether the command shows a copy of the last frame.
        students, teachers: The groups that were returned before the step.
        dones, failed: Environments that the step ended, and by a fall.
        env_ids: Kinds of what terms were handed as environments' ids.
    """

    motions: list[list[int]] = field(default_factory=list)
    frames: list[list[int]] = field(default_factory=list)
    over: list[list[bool]] = field(default_factory=list)
    students: list[torch.Tensor] = field(default_factory=list)
    teachers: list[torch.Tensor] = field(default_factory=list)
    dones: list[list[bool]] = field(default_factory=list)
    failed: list[list[bool]] = field(default_factory=list)
    env_ids: set[str] = field(default_factory=set)
    _begins: bool = False

    def watch(self, env: Any, falls: Mapping[int, Sequence[int]]) -> None:
        """Look over the environment's shoulder; before given steps, lift robots off the ground."""
        command, step, reset = env.command_manager.get_term("motion"), env.step, env.reset
        resample = command._resample_command
        paths = command.motion_dir_loader.motion_paths
        numbers = [int(Path(path).stem.split("_")[1]) for path in paths]

        def watched_resample(env_ids: Any) -> None:
            kind = "slice" if isinstance(env_ids, slice) else str(getattr(env_ids, "dtype", "list"))
            self.env_ids.add(kind)
            resample(env_ids)

        def watched_reset(*args: Any, **kwargs: Any) -> Any:
            self._begins = True
            return reset(*args, **kwargs)

        def watched_step(actions: torch.Tensor) -> Any:
            if not self._begins:
                self.motions.append([numbers[i] for i in command.env_motion_indices.tolist()])
                self.frames.append(command.time_steps.tolist())
                self.over.append(command.motion_end_buf.tolist())
                self.teachers.append(self._latest["policy"])
                self.students.append(self._latest[STUDENT])
                lift(command.robot, falls.get(len(self.dones), ()))
            returned = step(actions)
            self._latest = {name: returned[0][name].clone() for name in ("policy", STUDENT)}
            if not self._begins:
                self.dones.append((returned[2] | returned[3]).tolist())
                self.failed.append((returned[2] & ~returned[3]).tolist())
            self._begins = False
            return returned

        env.step, env.reset, command._resample_command = (
            watched_step,
            watched_reset,
            watched_resample,
        )


def lift(robot: Any, env_ids: Sequence[int]) -> None:
    """By a metre, which the task's termination calls a fall."""
    if env_ids:
        rows = torch.tensor(env_ids, dtype=torch.int32)
        pose = robot.data.root_link_pose_w.torch[rows.long()].clone()
        pose[:, 2] += 1.0
        robot.write_root_pose_to_sim_index(root_pose=pose, env_ids=rows)


@dataclass
class Session:
    """What came of a collection."""

    data: TrajectoryDataset
    spy: Spy
    witness: Witness
    queue: MotionQueue

    def read(self, name: str) -> np.ndarray[Any, Any]:
        return self.data.read(name)


def collected(
    folder: Path,
    lengths: list[int],
    num_envs: int,
    falls: Mapping[int, Sequence[int]],
    student: str = "presets=default",
) -> Session:
    """Each motion once, by the expert, with noise on, beside a student of five frames."""
    motions = write_motions(folder / "motions", lengths)
    env_cfg, agent_cfg = configs(g1.TEACHER)
    add_student_group(env_cfg, configs(g1.STUDENT, [student])[0].observations.policy)
    prepare_motion_cfg(env_cfg.commands.motion, motions)
    prepare_env_cfg(env_cfg, num_envs)
    with opened(env_cfg, motions, num_envs) as env:
        spy, witness = Spy(load_policy(env, agent_cfg, g1.EXPERT)), Witness()
        witness.watch(env.unwrapped, falls)
        origin = Origin(
            simulator="isaaclab",
            task=g1.TEACHER,
            checkpoint=file_identity(g1.EXPERT),
            runner_cfg=agent_cfg.to_dict(),
            observations={},
        )
        store = folder / "expert.zarr"
        queue = collect_motions(env, spy, store, origin, buffer_mb=2)
    return Session(TrajectoryDataset(store), spy, witness, queue)
