"""rsl_rl 3.x: TensorDict observations, normalisers inside the policy."""

from __future__ import annotations

from typing import Any

from mosaic_collect.adapters.rsl_rl.actor import Actor, trained_shapes
from mosaic_collect.adapters.rsl_rl.actor_critic import forward, load_actor
from mosaic_collect.adapters.rsl_rl.checkpoint import RSL3, RSL23, Checkpoint


def families(runner_class: type[Any] | None) -> tuple[str, ...]:
    """See ``load.Generation``, as for all functions here."""
    return RSL3, RSL23


def prepare(config: dict[str, Any]) -> dict[str, Any]:
    """As it is."""
    return config


def actor(runner: Any, checkpoint: Checkpoint, deterministic: bool) -> Actor:
    """The actor, whose normaliser is part of it."""
    module = runner.alg.policy
    load_actor(module, checkpoint)
    shapes = trained_shapes(runner, module.obs_groups["policy"])
    return Actor(module, shapes, lambda rows: forward(module, rows), deterministic)
