"""What building and loading an rsl_rl runner takes in every generation."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, TypeAlias

import torch

from mosaic_collect.adapters.rsl_rl.checkpoint import listed
from mosaic_collect.collection.protocols import Observations, PolicyOutput
from mosaic_collect.errors import InputError, MissingDependencyError, MosaicCollectError

#: What runners raise while they look classes up by name and hand options on to them.
_UNBUILDABLE = (NameError, AttributeError, TypeError, ValueError, ImportError, FileNotFoundError)
_log = logging.getLogger(__name__)


def build_runner(env: Any, runner_cfg: Any, device: Any, runner_class: type[Any] | None) -> Any:
    """A fresh runner for inference.

    It asks the environment for observations once, so build it before the simulation's first reset.

    Args:
        env: An rsl_rl ``VecEnv``.
        runner_cfg: A dict, or a config object with ``to_dict`` or dataclass fields; not changed.
        device: Where the networks are.
        runner_class: A subclass of ``OnPolicyRunner``; None: that itself.

    Raises:
        InputError: The config is of another type, or not one that this rsl_rl can build.
        MissingDependencyError: rsl_rl is not installed.
    """
    config = config_dict(runner_cfg)
    # The runner keeps room for a rollout of training, gigabytes for many environments.
    config["num_steps_per_env"] = 1
    with quiet(), _alone():
        try:
            return (runner_class or _default_class())(env, config, None, str(device))
        except MosaicCollectError:
            raise
        except KeyError as error:
            raise InputError(
                f"runner_cfg: this rsl_rl's runner expects {error}; found {listed(config)}"
            ) from error
        except _UNBUILDABLE as error:
            kind = type(error).__name__
            raise InputError(f"runner_cfg: this rsl_rl cannot build it: {kind}: {error}") from error


def config_dict(runner_cfg: Any) -> dict[str, Any]:
    """A deep copy as a dict: runners take keys out of what they are given.

    Raises:
        InputError: Neither a mapping nor a config object.
    """
    if isinstance(runner_cfg, Mapping):
        return copy.deepcopy(dict(runner_cfg))
    if callable(getattr(runner_cfg, "to_dict", None)):
        return copy.deepcopy(dict(runner_cfg.to_dict()))
    if is_dataclass(runner_cfg) and not isinstance(runner_cfg, type):
        return asdict(runner_cfg)
    raise InputError(
        f"runner_cfg: expected a dict or a config object, got {type(runner_cfg).__name__}"
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What rsl_rl prints goes to this module's log, at level DEBUG."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        for line in printed.getvalue().splitlines():
            _log.debug("rsl_rl: %s", line)


@contextlib.contextmanager
def loading(path: str, network: Any) -> Iterator[None]:
    """Turn what torch and rsl_rl raise for a checkpoint that does not fit into an InputError."""
    try:
        with quiet():
            yield
    except InputError:
        raise
    except (KeyError, RuntimeError, ValueError) as error:
        words = " ".join(str(error).split())  # torch says a line for each parameter
        raise InputError(
            f"checkpoint {path} does not fit the configured policy: {words}; expected the keys "
            f"{listed(network.state_dict())}"
        ) from error


#: Group name -> what one environment's value must look like, such as ``(154,)``.
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


def trained_shapes(runner: Any, groups: Iterable[str]) -> Shapes:
    """What the runner was built for, per group, read from its storage."""
    stored = runner.alg.storage.observations  # (steps, num_envs, ...), one tensor or a TensorDict
    if isinstance(stored, torch.Tensor):
        return {name: tuple(stored.shape[2:]) for name in groups}
    return {name: tuple(stored[name].shape[2:]) for name in groups}


def select(observations: Observations, shapes: Shapes) -> dict[str, torch.Tensor]:
    """The groups that a policy reads.

    Raises:
        InputError: One is missing or of another shape than in training.
    """
    missing = [name for name in shapes if name not in observations.keys()]  # noqa: SIM118  TensorDict
    if missing:
        raise InputError(
            f"observations: expected the groups {listed(shapes)}, "
            f"got {listed(map(str, observations.keys()))}"
        )
    rows = {name: observations[name] for name in shapes}
    for name, value in rows.items():
        if tuple(value.shape[1:]) != shapes[name]:
            raise InputError(
                f"observations: expected {name!r} of shape (num_envs, "
                f"{', '.join(map(str, shapes[name]))}), got {tuple(value.shape)}"
            )
    return rows


def policy_output(
    sample: torch.Tensor, mean: torch.Tensor, sigma: torch.Tensor, deterministic: bool
) -> PolicyOutput:
    """What a stochastic forward left behind; sigma may be a view of a parameter."""
    mean = mean.detach()
    return PolicyOutput(mean if deterministic else sample.detach(), mean, sigma.detach())


def _default_class() -> Any:
    try:
        from rsl_rl.runners import OnPolicyRunner
    except ImportError as error:
        raise MissingDependencyError("loading a policy needs rsl_rl: pip install rsl-rl-lib") from (
            error
        )
    return OnPolicyRunner


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Hide torchrun's world: a collecting rank exchanges no gradients, so it joins no group."""
    world = os.environ.pop("WORLD_SIZE", None)
    try:
        yield
    finally:
        if world is not None:
            os.environ["WORLD_SIZE"] = world
