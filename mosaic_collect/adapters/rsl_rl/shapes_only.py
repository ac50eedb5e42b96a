"""An environment that a runner can be built for, and that nobody can step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mosaic_collect.adapters.rsl_rl import generation2
from mosaic_collect.adapters.rsl_rl.load import generation
from mosaic_collect.adapters.rsl_rl.vec_env import POLICY
from mosaic_collect.errors import InputError, MissingDependencyError


def shapes_only(
    num_envs: int, groups: Mapping[str, int | tuple[int, ...]], num_actions: int, device: Any
) -> Any:
    """A ``VecEnv`` of the installed rsl_rl that knows shapes and nothing else.

    Args:
        num_envs: Environments, N.
        groups: Name of each observation group -> its width, or the axes of its rows.
        num_actions: Width of an action, A.
        device: Of the observations.

    Raises:
        InputError: rsl_rl 2.x is installed, whose actors read one group, and it is not among these.
        MissingDependencyError: rsl_rl is not installed.
    """
    tuples = generation() is generation2
    if tuples and POLICY not in groups:
        raise InputError(f"groups: rsl_rl 2.x reads {POLICY!r}, got {', '.join(groups)}")
    rows = {name: (row,) if isinstance(row, int) else row for name, row in groups.items()}
    zeros = {name: torch.zeros(num_envs, *row, device=device) for name, row in rows.items()}
    observed = (zeros[POLICY], {"observations": zeros}) if tuples else _tensordict(zeros, num_envs)
    from rsl_rl.env import VecEnv

    class ShapesOnly(VecEnv):  # type: ignore[misc]
        def __init__(self) -> None:
            self.num_envs, self.num_actions, self.device = num_envs, num_actions, device
            self.max_episode_length = 1
            self.episode_length_buf = torch.zeros(num_envs, dtype=torch.long, device=device)
            self.cfg: dict[str, Any] = {}

        @property
        def unwrapped(self) -> ShapesOnly:
            return self

        def get_observations(self) -> Any:
            return observed

        def reset(self) -> Any:
            raise InputError("this environment has shapes only")

        def step(self, actions: torch.Tensor) -> Any:
            raise InputError("this environment has shapes only")

    return ShapesOnly()


def _tensordict(groups: dict[str, torch.Tensor], num_envs: int) -> Any:
    try:
        from tensordict import TensorDict
    except ImportError as error:
        raise MissingDependencyError(
            "rsl_rl from 3.0 on needs tensordict: pip install tensordict"
        ) from error
    return TensorDict(groups, batch_size=[num_envs])
