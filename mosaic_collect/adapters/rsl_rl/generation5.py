"""rsl_rl 4.x and 5.x: an actor model that holds its normaliser and distribution."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from mosaic_collect.adapters.rsl_rl.actor import Actor, Forward, trained_shapes
from mosaic_collect.adapters.rsl_rl.checkpoint import (
    RSL3,
    RSL4,
    RSL5,
    RSL23,
    Checkpoint,
    check_keys,
)
from mosaic_collect.adapters.rsl_rl.runners import loading
from mosaic_collect.errors import InputError


def families(runner_class: type[Any] | None) -> tuple[str, ...]:
    """Older ones, too, if the runner has a ``load`` of its own, which may migrate them."""
    older = (RSL3, RSL23, RSL4) if _has_own_load(runner_class) else ()
    return tuple(dict.fromkeys((_own_family(), *older)))


def prepare(config: dict[str, Any]) -> dict[str, Any]:
    """As it is."""
    return config


def actor(runner: Any, checkpoint: Checkpoint, deterministic: bool) -> Actor:
    """The actor; critic, optimiser and iteration are left where they are.

    Raises:
        InputError: Besides: the model has no distribution, so there is no sigma to record.
    """
    model = runner.alg.get_policy()
    if checkpoint.family == _own_family():
        check_keys(checkpoint.path, model.state_dict(), checkpoint.state("actor_state_dict"))
    with loading(checkpoint.path, model), checkpoint.as_file() as path:
        runner.load(path, load_cfg={"actor": True}, strict=True, map_location=runner.device)
    # 5.x keeps a distribution or None, 4.x a flag.
    if not getattr(model, "stochastic", model.distribution is not None):
        raise InputError("actor: expected one with an action distribution, got a plain network")

    def forward(rows: Any) -> Forward:
        sample = model(rows, stochastic_output=True)
        return sample, model.output_mean, model.output_std

    groups = (*model.obs_groups, *getattr(model, "obs_groups_2d", ()))
    return Actor(model, trained_shapes(runner, groups), forward, deterministic)


def _own_family() -> str:
    return RSL4 if find_spec("rsl_rl.modules.distribution") is None else RSL5


def _has_own_load(runner_class: type[Any] | None) -> bool:
    if runner_class is None:
        return False
    from rsl_rl.runners import OnPolicyRunner

    return runner_class.load is not OnPolicyRunner.load
