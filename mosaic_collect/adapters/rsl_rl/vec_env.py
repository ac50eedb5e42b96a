"""An rsl_rl ``VecEnv`` of any generation as a ``Simulation``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mosaic_collect.collection.protocols import Observations, StepResult
from mosaic_collect.errors import InputError

POLICY = "policy"  # what rsl_rl 2.x calls the actor's observations, its tuple's first tensor


class VecEnvSimulation:
    """The environment behind a wrapper such as Isaac Lab's ``RslRlVecEnvWrapper``.

    Observations are those that ``reset`` and ``step`` return; ``get_observations`` is called only
    for an environment that has no ``reset``, and then once.

    Args:
        env: The wrapper.
    """

    def __init__(self, env: Any) -> None:
        self.env = env
        self._closed = False

    @property
    def num_envs(self) -> int:
        return int(self.env.num_envs)

    @property
    def num_actions(self) -> int:
        return int(self.env.num_actions)

    @property
    def device(self) -> torch.device:
        return torch.device(self.env.device)

    def reset(self) -> Observations:
        reset = getattr(self.env, "reset", None) or self.env.get_observations
        returned = reset()
        first, extras = returned if isinstance(returned, tuple) else (returned, {})
        return observation_groups(first, extras)

    def step(self, actions: torch.Tensor) -> StepResult:
        first, _, dones, extras = self.env.step(actions.to(self.device))
        return StepResult(observation_groups(first, extras), dones.bool(), self._time_outs(extras))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.env.close()

    def _time_outs(self, extras: Mapping[str, Any]) -> torch.Tensor:
        """Wrappers leave them out for tasks of finite horizon; the environment still knows."""
        found = extras.get("time_outs")
        if found is None:
            found = getattr(getattr(self.env, "unwrapped", None), "reset_time_outs", None)
        if found is None:
            raise InputError(
                'env: expected extras["time_outs"] or env.unwrapped.reset_time_outs, got neither: '
                "a fall could not be told from an end by time"
            )
        return torch.as_tensor(found).bool().clone()  # Isaac Lab's next step overwrites its own


def observation_groups(first: Any, extras: Mapping[str, Any]) -> Observations:
    """What an rsl_rl environment returned, as groups.

    Args:
        first: The actor's tensor (2.x) or all groups (a TensorDict or dict).
        extras: The extras of rsl_rl 2.x, with all groups under ``observations``.

    Raises:
        InputError: Another type.
    """
    if isinstance(first, torch.Tensor):
        groups = dict(extras.get("observations", {}))
        groups.setdefault(POLICY, first)
        return groups
    if hasattr(first, "keys"):
        groups_of_first: Observations = first
        return groups_of_first
    raise InputError(f"observations: expected a tensor or groups, got {type(first).__name__}")
