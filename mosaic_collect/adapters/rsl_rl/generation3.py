"""Policies of rsl_rl 3.x: TensorDict observations, normalisers inside the policy."""

from __future__ import annotations

import os
from typing import Any

from mosaic_collect.adapters.rsl_rl.actor_critic import ActorCriticPolicy, load_actor
from mosaic_collect.adapters.rsl_rl.checkpoint import RSL3, RSL23, Checkpoint
from mosaic_collect.adapters.rsl_rl.runners import build_runner, trained_shapes


def load_policy(
    env: Any,
    runner_cfg: Any,
    checkpoint_path: str | os.PathLike[str],
    device: Any = "cpu",
    runner_class: type[Any] | None = None,
    deterministic: bool = True,
) -> ActorCriticPolicy:
    """The actor of a checkpoint; arguments and errors as ``rsl_rl.load_policy``'s."""
    checkpoint = Checkpoint.read(checkpoint_path)
    checkpoint.require((RSL3, RSL23), "rsl_rl 3.x")
    runner = build_runner(env, runner_cfg, device, runner_class)
    module = runner.alg.policy
    load_actor(module, checkpoint)
    shapes = trained_shapes(runner, module.obs_groups["policy"])
    return ActorCriticPolicy(module, shapes, lambda rows: rows, deterministic)
