"""A collection on the toy task, beside an account of it that shares no code with the collector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mosaic_collect import TrajectoryDataset
from mosaic_collect.adapters.isaaclab.cfg import (
    add_student_group,
    prepare_env_cfg,
    prepare_motion_cfg,
)
from mosaic_collect.collection.acting import AS_TRAINED, Acting
from mosaic_collect.collection.protocols import Observations, PolicyOutput
from tests.contract.inside.toy import PolicyCfg, make, task_cfg
from tests.contract.promises import Session, Spy, Witness
from tests.isaaclab import collect_motions

HISTORY = 3
ORIGIN: Mapping[str, Any] = {
    "simulator": "isaaclab",
    "task": "toy",
    "checkpoint": {"path": "none.pt", "sha256": "0"},
    "observations": {},
}


class Pilot:
    """A policy by a rule."""

    shapes: Mapping[str, tuple[int, ...]] = {"policy": (5,)}

    def act(self, observations: Observations) -> PolicyOutput:
        seen = observations["policy"]
        mean = 0.01 * (seen[:, 2:4] - seen[:, :2])
        return PolicyOutput(mean, mean, torch.full_like(mean, 0.3))

    def reset(self, dones: torch.Tensor) -> None:
        pass


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
    shuffled: bool = False,
    acting: Acting = AS_TRAINED,
    **options: Any,
) -> Session:
    """Collect into ``folder``'s store; options are ``collect_motions``'s."""
    torch.manual_seed(0)
    env = toy_env(motions, num_envs, shuffled=shuffled, start=acting.start)
    spy, witness, scene = Spy(Pilot()), Witness(), env.unwrapped.scene

    def fall(env_ids: Sequence[int]) -> None:
        scene.fall[:] = False
        scene.fall[list(env_ids)] = True

    witness.watch(env.unwrapped, fall, falls or {})
    store = folder / "expert.zarr"
    queue = collect_motions(env, spy, store, ORIGIN, acting=acting, **options)
    return Session(TrajectoryDataset(store), spy, witness, queue)
