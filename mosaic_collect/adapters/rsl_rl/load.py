"""The actor of a checkpoint: what is common to all generations of rsl_rl, and what is not."""

from __future__ import annotations

import importlib
import os
from importlib.util import find_spec
from typing import Any, Protocol

import torch

from mosaic_collect.adapters.rsl_rl.actor import Actor, Forward, trained_shapes
from mosaic_collect.adapters.rsl_rl.checkpoint import (
    RSL2,
    RSL3,
    RSL4,
    RSL5,
    RSL23,
    Checkpoint,
    check_keys,
    weights_only,
)
from mosaic_collect.adapters.rsl_rl.runner_cfg import config_dict
from mosaic_collect.adapters.rsl_rl.runners import NO_RSL_RL, build_runner, loading
from mosaic_collect.adapters.rsl_rl.vec_env import POLICY
from mosaic_collect.errors import InputError, MissingDependencyError

#: Parts of the module that say nothing about actions: values, and a student's teacher.
_NOT_ACTING = ("critic", "memory_c.", "teacher.", "memory_t.")


class Generation(Protocol):
    """How the policies of one generation of rsl_rl are loaded."""

    def families(self, runner_class: type[Any] | None) -> tuple[str, ...]:
        """Of which checkpoints it reads the actor; its own family stands first."""

    def prepare(self, config: dict[str, Any]) -> dict[str, Any]:
        """The config of a runner that acts and does not train; it may be changed in place."""

    def actor(self, runner: Any, checkpoint: Checkpoint, deterministic: bool) -> Actor:
        """Load the actor, with its normaliser, into a fresh runner.

        Raises:
            InputError: The checkpoint does not fit.
        """


def load_policy(
    env: Any,
    runner_cfg: Any,
    checkpoint: str | os.PathLike[str] | Checkpoint,
    device: Any = "cpu",
    runner_class: type[Any] | None = None,
    deterministic: bool = True,
    trust_checkpoint: bool = False,
) -> Actor:
    """The actor of a checkpoint, with its normaliser; the critic need not fit.

    Args:
        env: An rsl_rl ``VecEnv``; asked for observations once, so call this before the first reset.
        runner_cfg: Training config, a dict or a config object; not changed.
        checkpoint: Written by a runner's ``save``: its path, or as it was read. No code in it runs.
        device: Device of the environment and the networks.
        runner_class: A subclass of rsl_rl's ``OnPolicyRunner``; None: that itself. From 4.x on one
            with a ``load`` of its own, such as mjlab's, may migrate older checkpoints.
        deterministic: Act by the mean; if not, by samples.
        trust_checkpoint: Code in the checkpoint may run, and in those that ``runner_cfg`` names.

    Raises:
        InputError: The checkpoint is of another family or does not fit the config; the message
            names the keys found and expected. Or it holds more than tensors and plain values, which
            are named. Or the actor has no distribution, or needs MOSAIC's velocity estimator, whose
            output is not an observation.
        MissingDependencyError: rsl_rl is not installed.
    """
    own = generation()
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = Checkpoint.read(checkpoint, trust_checkpoint)
    checkpoint.require(own.families(runner_class))
    config = own.prepare(config_dict(runner_cfg))
    with weights_only(trust_checkpoint):
        runner = build_runner(env, config, device, runner_class)
        return own.actor(runner, checkpoint, deterministic)


def generation() -> Generation:
    """The generation of the installed rsl_rl, recognised by its parts.

    Its version would not do: forks keep or change it as they like.

    Raises:
        MissingDependencyError: rsl_rl is not installed.
    """
    if find_spec("rsl_rl") is None:
        raise MissingDependencyError(NO_RSL_RL)
    if find_spec("rsl_rl.models") is not None:
        return RslRl5()
    # The function through which 3.x picks observation groups.
    utils = importlib.import_module("rsl_rl.utils")
    return RslRl3() if hasattr(utils, "resolve_obs_groups") else RslRl2()


class RslRl2:
    """rsl_rl 2.x, MOSAIC's fork among them: one tensor, normalised by the caller."""

    def families(self, runner_class: type[Any] | None) -> tuple[str, ...]:
        """Of which checkpoints it reads the actor."""
        return RSL2, RSL23

    def prepare(self, config: dict[str, Any]) -> dict[str, Any]:
        """Without what MOSAIC's fork does for training only."""
        config["reset_noise_std_on_resume"] = False  # it would replace the trained sigma
        if "expert_trajectory_path" in config.get("algorithm", {}):
            config["algorithm"]["expert_trajectory_path"] = (
                None  # it would load the file, to no end
            )
        return config

    def actor(self, runner: Any, checkpoint: Checkpoint, deterministic: bool) -> Actor:
        """The actor behind the runner's normaliser.

        Raises:
            InputError: Only one of config and checkpoint has a normaliser; or the actor needs
                MOSAIC's velocity estimator, whose output is not an observation.
        """
        if getattr(runner.alg, "use_estimate_ref_vel", False):
            raise InputError("runner_cfg: an actor with use_estimate_ref_vel is not supported")
        module = runner.alg.policy
        if _is_nested(checkpoint):
            # MOSAIC's residual policy: parts of parts, which only its own runner can put together.
            with loading(checkpoint.path, module), checkpoint.as_file() as path:
                runner.load(path, load_optimizer=False, load_critic=False)
        else:
            _load_actor(module, checkpoint)
            _load_normalizer(runner.obs_normalizer, checkpoint)
        normalizer = (
            runner.obs_normalizer.eval()
        )  # in training mode it would learn what it is shown
        return Actor(
            module,
            trained_shapes(runner, [POLICY]),
            lambda rows: _ask_module(module, normalizer(rows[POLICY])),
            deterministic,
        )


class RslRl3:
    """rsl_rl 3.x: TensorDict observations, normalisers inside the policy."""

    def families(self, runner_class: type[Any] | None) -> tuple[str, ...]:
        """Of which checkpoints it reads the actor."""
        return RSL3, RSL23

    def prepare(self, config: dict[str, Any]) -> dict[str, Any]:
        """As it is."""
        return config

    def actor(self, runner: Any, checkpoint: Checkpoint, deterministic: bool) -> Actor:
        """The actor, whose normaliser is part of it."""
        module = runner.alg.policy
        _load_actor(module, checkpoint)
        shapes = trained_shapes(runner, module.obs_groups["policy"])
        return Actor(module, shapes, lambda rows: _ask_module(module, rows), deterministic)


class RslRl5:
    """rsl_rl 4.x and 5.x: an actor model that holds its normaliser and distribution."""

    def families(self, runner_class: type[Any] | None) -> tuple[str, ...]:
        """Older ones, too, if the runner has a ``load`` of its own, which may migrate them."""
        older = (RSL3, RSL23, RSL4) if _has_own_load(runner_class) else ()
        return tuple(dict.fromkeys((_own_family(), *older)))

    def prepare(self, config: dict[str, Any]) -> dict[str, Any]:
        """As it is."""
        return config

    def actor(self, runner: Any, checkpoint: Checkpoint, deterministic: bool) -> Actor:
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


def _ask_module(module: Any, observations: Any) -> Forward:
    """Ask an actor-critic module once."""
    # act, not act_inference: it leaves mean and sigma behind, and each call of either advances a
    # recurrent memory.
    sample = module.act(observations)
    return sample, module.action_mean, module.action_std


def _load_actor(module: Any, checkpoint: Checkpoint) -> None:
    """Load all of ``module`` that acts; its critic stays as it is, so any critic will do.

    Raises:
        InputError: The checkpoint's actor has other parameters than the module's.
    """
    own = module.state_dict()
    found = {
        k: v
        for k, v in checkpoint.state("model_state_dict").items()
        if not k.startswith(_NOT_ACTING)
    }
    acting = [key for key in own if not key.startswith(_NOT_ACTING)]
    check_keys(checkpoint.path, acting, found)
    with loading(checkpoint.path, module):
        module.load_state_dict({**own, **found})


def _own_family() -> str:
    return RSL4 if find_spec("rsl_rl.modules.distribution") is None else RSL5


def _has_own_load(runner_class: type[Any] | None) -> bool:
    if runner_class is None:
        return False
    from rsl_rl.runners import OnPolicyRunner

    return runner_class.load is not OnPolicyRunner.load
