"""rsl_rl 2.x, MOSAIC's fork among them: one tensor, normalised by the caller."""

from __future__ import annotations

from typing import Any

import torch

from mosaic_collect.adapters.rsl_rl.actor import Actor, trained_shapes
from mosaic_collect.adapters.rsl_rl.actor_critic import forward, load_actor
from mosaic_collect.adapters.rsl_rl.checkpoint import RSL2, RSL23, Checkpoint
from mosaic_collect.adapters.rsl_rl.runners import loading
from mosaic_collect.adapters.rsl_rl.vec_env import POLICY
from mosaic_collect.errors import InputError


def families(runner_class: type[Any] | None) -> tuple[str, ...]:
    """See ``load.Generation``, as for all functions here."""
    return RSL2, RSL23


def prepare(config: dict[str, Any]) -> dict[str, Any]:
    """Without what MOSAIC's fork does for training only."""
    config["reset_noise_std_on_resume"] = False  # it would replace the trained sigma
    if "expert_trajectory_path" in config.get("algorithm", {}):
        config["algorithm"]["expert_trajectory_path"] = None  # it would load the file, to no end
    return config


def actor(runner: Any, checkpoint: Checkpoint, deterministic: bool) -> Actor:
    """The actor behind the runner's normaliser.

    Raises:
        InputError: Besides: the config has a normaliser and the checkpoint none, or the other way;
            or the actor needs MOSAIC's velocity estimator, whose output is not an observation.
    """
    if getattr(runner.alg, "use_estimate_ref_vel", False):
        raise InputError("runner_cfg: an actor with use_estimate_ref_vel is not supported")
    module = runner.alg.policy
    if _is_nested(checkpoint):
        # MOSAIC's residual policy: parts of parts, which only its own runner can put together.
        with loading(checkpoint.path, module), checkpoint.as_file() as path:
            runner.load(path, load_optimizer=False, load_critic=False)
    else:
        load_actor(module, checkpoint)
        _load_normalizer(runner.obs_normalizer, checkpoint)
    normalizer = runner.obs_normalizer.eval()  # in training mode it would learn what it is shown
    return Actor(
        module,
        trained_shapes(runner, [POLICY]),
        lambda rows: forward(module, normalizer(rows[POLICY])),
        deterministic,
    )


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
