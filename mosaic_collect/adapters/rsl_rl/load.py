"""The actor of a checkpoint: what is common to all generations of rsl_rl, and what is not."""

from __future__ import annotations

import importlib
import os
from importlib.util import find_spec
from typing import Any, Protocol

from mosaic_collect.adapters.rsl_rl import generation2, generation3, generation5
from mosaic_collect.adapters.rsl_rl.actor import Actor
from mosaic_collect.adapters.rsl_rl.checkpoint import Checkpoint
from mosaic_collect.adapters.rsl_rl.runner_cfg import config_dict
from mosaic_collect.adapters.rsl_rl.runners import NO_RSL_RL, build_runner
from mosaic_collect.adapters.rsl_rl.safe_load import weights_only
from mosaic_collect.errors import MissingDependencyError


class Generation(Protocol):
    """What a module says of one generation."""

    def families(self, runner_class: type[Any] | None) -> tuple[str, ...]:
        """Of which checkpoints it reads the actor; its own family stands first."""

    def prepare(self, config: dict[str, Any]) -> dict[str, Any]:
        """The config of a runner that acts and does not train; it may be changed in place."""

    def actor(self, runner: Any, checkpoint: Checkpoint, deterministic: bool) -> Actor:
        """Load the actor, with its normaliser, into a fresh runner.

        Raises:
            InputError: The checkpoint does not fit.
        """


def generation() -> Generation:
    """The module that fits the installed rsl_rl, told from its parts.

    Its version would not do: forks keep or change it as they like.

    Raises:
        MissingDependencyError: rsl_rl is not installed.
    """
    if find_spec("rsl_rl") is None:
        raise MissingDependencyError(NO_RSL_RL)
    if find_spec("rsl_rl.models") is not None:
        return generation5
    # The function through which 3.x picks observation groups.
    utils = importlib.import_module("rsl_rl.utils")
    return generation3 if hasattr(utils, "resolve_obs_groups") else generation2


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
        runner_cfg: Of the training, as a dict or a config object; not changed.
        checkpoint: Written by a runner's ``save``: its path, or as it was read. No code in it runs.
        device: Of the environment and the networks.
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
