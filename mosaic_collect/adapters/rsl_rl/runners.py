"""What building and loading an rsl_rl runner takes in every generation."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator
from typing import Any

from mosaic_collect.adapters.rsl_rl.checkpoint import listed
from mosaic_collect.errors import InputError, MissingDependencyError, MosaicCollectError

NO_RSL_RL = "loading a policy needs rsl_rl: pip install rsl-rl-lib"
#: What runners raise while they look classes up by name and hand options on to them.
_UNBUILDABLE = (NameError, AttributeError, TypeError, ValueError, ImportError, FileNotFoundError)
_log = logging.getLogger(__name__)


def build_runner(
    env: Any, config: dict[str, Any], device: Any, runner_class: type[Any] | None
) -> Any:
    """A fresh runner for inference.

    It asks the environment for observations once, so build it before the simulation's first reset.

    Args:
        env: An rsl_rl ``VecEnv``.
        config: Training config; the runner takes it apart.
        device: Device of the networks.
        runner_class: A subclass of ``OnPolicyRunner``; None: that itself.

    Raises:
        InputError: The config is not one that this rsl_rl can build.
        MissingDependencyError: rsl_rl is not installed.
    """
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


def _default_class() -> Any:
    try:
        from rsl_rl.runners import OnPolicyRunner
    except ImportError as error:
        raise MissingDependencyError(NO_RSL_RL) from error
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
