"""Policies of whichever rsl_rl is installed.

| rsl_rl | observations | module |
| --- | --- | --- |
| 2.x, MOSAIC's fork | tuple ``(tensor, extras)`` | ``generation2`` |
| 3.x | TensorDict | ``generation3`` |
| 4.x, 5.x | TensorDict | ``generation5`` |
"""

from __future__ import annotations

import importlib
import os
from importlib.util import find_spec
from typing import Any

from mosaic_collect.collection.protocols import Policy
from mosaic_collect.errors import MissingDependencyError


def generation() -> str:
    """Which module of this package fits the installed rsl_rl, told from its parts.

    Its version would not do: forks keep or change it as they like.

    Raises:
        MissingDependencyError: rsl_rl is not installed.
    """
    if find_spec("rsl_rl") is None:
        raise MissingDependencyError("loading a policy needs rsl_rl: pip install rsl-rl-lib")
    if find_spec("rsl_rl.models") is not None:
        return "generation5"
    # The function through which 3.x picks observation groups.
    utils = importlib.import_module("rsl_rl.utils")
    return "generation3" if hasattr(utils, "resolve_obs_groups") else "generation2"


def load_policy(
    env: Any,
    runner_cfg: Any,
    checkpoint_path: str | os.PathLike[str],
    device: Any = "cpu",
    runner_class: type[Any] | None = None,
    deterministic: bool = True,
) -> Policy:
    """The actor of a checkpoint, with its normaliser; the critic need not fit.

    Args:
        env: An rsl_rl ``VecEnv``; asked for observations once, so call this before the first reset.
        runner_cfg: Of the training, as a dict or a config object; not changed.
        checkpoint_path: Written by a runner's ``save``. It is a pickle: load only what you trust.
        device: Of the environment and the networks.
        runner_class: A subclass of rsl_rl's ``OnPolicyRunner``; None: that itself.
        deterministic: Act by the mean; if not, by samples.

    Raises:
        InputError: The checkpoint is of another family or does not fit the config; the message
            names the keys found and expected.
        MissingDependencyError: rsl_rl is not installed.
    """
    module = importlib.import_module(f"mosaic_collect.adapters.rsl_rl.{generation()}")
    policy: Policy = module.load_policy(
        env, runner_cfg, checkpoint_path, device, runner_class, deterministic
    )
    return policy
