"""A collection, beside an account of it that shares no code with the collector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
from tests.contract.promises import Session, Spy, Witness
from tests.isaaclab import collect_motions
from tests.isaaclab3.inside.session import configs, opened


@dataclass
class PhysicsWitness(Witness):
    """Beside Isaac Lab 3's own physics.

    Attributes:
        env_ids: Kinds of what terms were handed as environments' ids.
    """

    env_ids: set[str] = field(default_factory=set)

    def watch(self, env: Any, *falls: Any) -> None:
        super().watch(env, *falls)
        command = env.command_manager.get_term("motion")
        resample = command._resample_command

        def watched_resample(env_ids: Any) -> None:
            kind = "slice" if isinstance(env_ids, slice) else str(getattr(env_ids, "dtype", "list"))
            self.env_ids.add(kind)
            resample(env_ids)

        command._resample_command = watched_resample


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
        spy, witness = Spy(load_policy(env, agent_cfg, g1.EXPERT)), PhysicsWitness()
        robot = env.unwrapped.command_manager.get_term("motion").robot

        def lift(env_ids: Sequence[int]) -> None:
            """By a metre, which the task's termination calls a fall."""
            if env_ids:
                rows = torch.tensor(env_ids, dtype=torch.int32)
                pose = robot.data.root_link_pose_w.torch[rows.long()].clone()
                pose[:, 2] += 1.0
                robot.write_root_pose_to_sim_index(root_pose=pose, env_ids=rows)

        witness.watch(env.unwrapped, lift, falls)
        origin = {"simulator": "isaaclab", "task": g1.TEACHER, "runner_cfg": agent_cfg.to_dict()}
        store = folder / "expert.zarr"
        queue = collect_motions(env, spy, store, origin, buffer_mb=2)
    return Session(TrajectoryDataset(store), spy, witness, queue)
