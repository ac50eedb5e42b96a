"""Policies of rsl_rl 4.x and 5.x: an actor model that holds its normaliser and distribution."""

from __future__ import annotations

import os
from typing import Any

import torch

from mosaic_collect.adapters.rsl_rl.checkpoint import (
    RSL3,
    RSL4,
    RSL5,
    RSL23,
    Checkpoint,
    check_keys,
)
from mosaic_collect.adapters.rsl_rl.runners import (
    Shapes,
    build_runner,
    loading,
    policy_output,
    select,
    trained_shapes,
)
from mosaic_collect.collection.protocols import Observations, PolicyOutput
from mosaic_collect.errors import InputError


class ModelPolicy:
    """An actor model in evaluation mode.

    Args:
        model: Of ``runner.alg.get_policy()``, stochastic.
        shapes: The observation groups that it reads.
        deterministic: Act by the mean; if not, by a sample.

    Raises:
        InputError: The model has no distribution, so there is no sigma to record.
    """

    def __init__(self, model: Any, shapes: Shapes, deterministic: bool = True) -> None:
        # 5.x keeps a distribution or None, 4.x a flag.
        if not getattr(model, "stochastic", model.distribution is not None):
            raise InputError("actor: expected one with an action distribution, got a plain network")
        self.shapes = dict(shapes)
        self._model = model.eval()
        self._deterministic = deterministic

    def act(self, observations: Observations) -> PolicyOutput:
        rows = select(observations, self.shapes)
        with torch.no_grad():
            sample = self._model(rows, stochastic_output=True)
            mean, sigma = self._model.output_mean, self._model.output_std
        return policy_output(sample, mean, sigma, self._deterministic)

    def reset(self, dones: torch.Tensor) -> None:
        with torch.no_grad():
            self._model.reset(dones.bool())


def load_policy(
    env: Any,
    runner_cfg: Any,
    checkpoint_path: str | os.PathLike[str],
    device: Any = "cpu",
    runner_class: type[Any] | None = None,
    deterministic: bool = True,
) -> ModelPolicy:
    """The actor of a checkpoint; critic, optimiser and iteration are left where they are.

    Args:
        env: An rsl_rl ``VecEnv``; asked for observations once, so call this before the first reset.
        runner_cfg: Of the training, with ``actor``, ``critic``, ``obs_groups``; not changed.
        checkpoint_path: Written by a runner's ``save``. It is a pickle: load only what you trust.
        device: Of the environment and the networks.
        runner_class: Such as mjlab's ``MjlabOnPolicyRunner``; None: rsl_rl's ``OnPolicyRunner``.
            One with a ``load`` of its own may migrate older checkpoints.
        deterministic: Act by the mean; if not, by samples.

    Raises:
        InputError: The checkpoint is of another family or does not fit the config.
        MissingDependencyError: rsl_rl is not installed.
    """
    checkpoint = Checkpoint.read(checkpoint_path)
    runner = build_runner(env, runner_cfg, device, runner_class)
    model = runner.alg.get_policy()
    own = _family(model)
    migrates = _has_own_load(type(runner))
    families = (own, RSL3, RSL23, RSL4) if migrates else (own,)
    checkpoint.require(dict.fromkeys(families), f"rsl_rl {own}")
    if checkpoint.family == own:
        check_keys(checkpoint.path, model.state_dict(), checkpoint.state("actor_state_dict"))
    with loading(checkpoint.path, model):
        runner.load(
            checkpoint.path, load_cfg={"actor": True}, strict=True, map_location=str(device)
        )
    groups = (*model.obs_groups, *getattr(model, "obs_groups_2d", ()))
    return ModelPolicy(model, trained_shapes(runner, groups), deterministic)


def _family(model: Any) -> str:
    return RSL4 if hasattr(model, "stochastic") else RSL5


def _has_own_load(runner_class: type[Any]) -> bool:
    from rsl_rl.runners import OnPolicyRunner

    return runner_class.load is not OnPolicyRunner.load
