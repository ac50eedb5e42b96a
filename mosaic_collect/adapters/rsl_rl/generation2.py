"""Policies of rsl_rl 2.x, MOSAIC's fork among them: one tensor, normalised by the caller."""

from __future__ import annotations

import os
from typing import Any

import torch

from mosaic_collect.adapters.rsl_rl.actor_critic import ActorCriticPolicy, load_actor
from mosaic_collect.adapters.rsl_rl.checkpoint import RSL2, RSL23, Checkpoint
from mosaic_collect.adapters.rsl_rl.runners import (
    build_runner,
    config_dict,
    loading,
    trained_shapes,
)
from mosaic_collect.errors import InputError

GROUP = "policy"  # what these versions call the actor's observations


def load_policy(
    env: Any,
    runner_cfg: Any,
    checkpoint_path: str | os.PathLike[str],
    device: Any = "cpu",
    runner_class: type[Any] | None = None,
    deterministic: bool = True,
) -> ActorCriticPolicy:
    """The actor of a checkpoint; arguments and errors as ``rsl_rl.load_policy``'s.

    Raises:
        InputError: Besides: the config has a normaliser and the checkpoint none, or the other way;
            or the actor needs MOSAIC's velocity estimator, whose output is not an observation.
    """
    checkpoint = Checkpoint.read(checkpoint_path)
    checkpoint.require((RSL2, RSL23), "rsl_rl 2.x")
    config = _for_acting(config_dict(runner_cfg))
    runner = build_runner(env, config, device, runner_class)
    if getattr(runner.alg, "use_estimate_ref_vel", False):
        raise InputError("runner_cfg: an actor with use_estimate_ref_vel is not supported")
    module = runner.alg.policy
    if _is_nested(checkpoint):
        # MOSAIC's residual policy: parts of parts, which only its own runner can put together.
        with loading(checkpoint.path, module):
            runner.load(checkpoint.path, load_optimizer=False, load_critic=False)
    else:
        load_actor(module, checkpoint)
        _load_normalizer(runner.obs_normalizer, checkpoint)
    normalizer = runner.obs_normalizer.eval()  # in training mode it would learn what it is shown
    return ActorCriticPolicy(
        module, trained_shapes(runner, [GROUP]), lambda rows: normalizer(rows[GROUP]), deterministic
    )


def _for_acting(config: dict[str, Any]) -> dict[str, Any]:
    """Without what MOSAIC's fork does for training only."""
    config["reset_noise_std_on_resume"] = False  # it would replace the trained sigma
    if "expert_trajectory_path" in config.get("algorithm", {}):
        config["algorithm"]["expert_trajectory_path"] = None  # it would load the file, to no end
    return config


def _is_nested(checkpoint: Checkpoint) -> bool:
    return any(isinstance(v, dict) for v in checkpoint.state("model_state_dict").values())


def _load_normalizer(normalizer: torch.nn.Module, checkpoint: Checkpoint) -> None:
    learned = checkpoint.state("obs_norm_state_dict")
    wanted = bool(normalizer.state_dict())
    if wanted != bool(learned):
        found = "has" if learned else "lacks"
        raise InputError(
            f"checkpoint {checkpoint.path} {found} obs_norm_state_dict, but runner_cfg says "
            f"empirical_normalization={wanted}: actions would be wrong"
        )
    with loading(checkpoint.path, normalizer):
        normalizer.load_state_dict(learned)
