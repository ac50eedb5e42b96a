"""A collection on the toy task, beside an account of it that shares no code with the collector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mosaic_collect import TrajectoryDataset
from mosaic_collect.adapters.isaaclab.cfg import (
    add_student_group,
    prepare_env_cfg,
    prepare_motion_cfg,
)
from mosaic_collect.adapters.isaaclab.options import MotionOptions
from mosaic_collect.collection.acting import AS_TRAINED, Acting
from mosaic_collect.collection.motion_queue import MotionQueue
from mosaic_collect.collection.origin import Origin
from mosaic_collect.collection.protocols import Observations, PolicyOutput
from mosaic_collect.collection.rollout import STUDENT
from tests.contract.inside.toy import PolicyCfg, make, task_cfg
from tests.isaaclab import collect_motions

HISTORY = 3
ORIGIN = Origin(
    simulator="isaaclab",
    task="toy",
    checkpoint={"path": "none.pt", "sha256": "0"},
    runner_cfg={},
    observations={},
)


class Pilot:
    """A policy that notes what it acts on."""

    shapes: Mapping[str, tuple[int, ...]] = {"policy": (5,)}

    def __init__(self) -> None:
        self.acted: list[torch.Tensor] = []

    def act(self, observations: Observations) -> PolicyOutput:
        seen = observations["policy"]
        self.acted.append(seen.clone())
        mean = 0.01 * (seen[:, 2:4] - seen[:, :2])
        return PolicyOutput(mean, mean, torch.full_like(mean, 0.3))

    def reset(self, dones: torch.Tensor) -> None:
        pass


@dataclass
class Witness:
    """What the environment itself said, step by step; row t is before, or of, step t.

    The step right behind an explicit reset is told apart: it begins the episodes, and is no row.

    Attributes:
        begun: Environments that each such step ended.
        motions: The command's motion of each environment, by its file's own number.
        frames: The command's frame.
        over: Whether the command shows a copy of the last frame.
        students: The student group that was returned before the step.
        dones: Environments that the step ended.
        failed: Those that it ended by a fall.
    """

    motions: list[list[int]] = field(default_factory=list)
    frames: list[list[int]] = field(default_factory=list)
    over: list[list[bool]] = field(default_factory=list)
    students: list[torch.Tensor] = field(default_factory=list)
    dones: list[list[bool]] = field(default_factory=list)
    failed: list[list[bool]] = field(default_factory=list)
    begun: list[list[bool]] = field(default_factory=list)

    def watch(self, env: Any, falls: Mapping[int, list[int]]) -> None:
        """Look over the environment's shoulder; at given steps, let environments fall."""
        command, step, reset = env.command_manager.get_term("motion"), env.step, env.reset

        def watched_reset(*args: Any, **kwargs: Any) -> Any:
            observations, extras = reset(*args, **kwargs)
            self._begins = True
            return observations, extras

        def watched_step(actions: torch.Tensor) -> Any:
            if self._begins:
                self._begins = False
                returned = step(actions)
                self._latest = returned[0][STUDENT].clone()
                self.begun.append((returned[2] | returned[3]).tolist())
                return returned
            names = [Path(p).stem for p in command.motion_dir_loader.motion_paths]
            numbers = [int(name.split("_")[1]) for name in names]
            self.motions.append([numbers[i] for i in command.env_motion_indices.tolist()])
            self.frames.append(command.time_steps.tolist())
            self.over.append(command.motion_end_buf.tolist())
            self.students.append(self._latest)
            env.scene.fall[:] = False
            env.scene.fall[falls.get(len(self.dones), [])] = True
            returned = step(actions)
            self._latest = returned[0][STUDENT].clone()
            self.dones.append((returned[2] | returned[3]).tolist())
            self.failed.append((returned[2] & ~returned[3]).tolist())
            return returned

        env.step, env.reset = watched_step, watched_reset


@dataclass
class Session:
    """What came of a collection."""

    data: TrajectoryDataset
    pilot: Pilot
    witness: Witness
    queue: MotionQueue

    def read(self, name: str) -> np.ndarray[Any, Any]:
        return self.data.read(name)


def toy_env(
    motions: str, num_envs: int, *, shuffled: bool = False, start: str = "first", **student: Any
) -> Any:
    """The toy task as the script would set it up."""
    cfg = task_cfg(num_envs)
    cfg.commands.motion.shuffled = shuffled
    prepare_motion_cfg(cfg.commands.motion, motions, start)
    prepare_env_cfg(cfg, num_envs)
    add_student_group(cfg, PolicyCfg(), **{"history": HISTORY, **student})
    return make(cfg)


def run(
    folder: Path,
    motions: str,
    num_envs: int = 4,
    falls: Mapping[int, list[int]] | None = None,
    *,
    resume: bool = False,
    shuffled: bool = False,
    origin: Origin = ORIGIN,
    acting: Acting = AS_TRAINED,
    max_steps: int | None = None,
    allow_fps: bool = False,
    **options: Any,
) -> Session:
    """Collect into ``folder``'s store."""
    torch.manual_seed(0)
    env = toy_env(motions, num_envs, shuffled=shuffled, start=acting.start)
    pilot, witness = Pilot(), Witness()
    witness.watch(env.unwrapped, falls or {})
    store = folder / "expert.zarr"
    queue = collect_motions(
        env,
        pilot,
        store,
        origin,
        MotionOptions(**options),
        max_steps=max_steps,
        allow_fps=allow_fps,
        resume=resume,
        acting=acting,
        buffer_mb=1,
    )
    return Session(TrajectoryDataset(store), pilot, witness, queue)
