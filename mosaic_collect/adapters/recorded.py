"""The policy of a store's checkpoint, rebuilt from what the store says, without a simulator."""

from __future__ import annotations

from typing import Any

import torch

from mosaic_collect.adapters.protocol import Policy
from mosaic_collect.adapters.rsl_rl import load_policy
from mosaic_collect.dataset import TrajectoryDataset
from mosaic_collect.errors import InputError, MissingDependencyError


def recorded_policy(
    dataset: TrajectoryDataset, checkpoint: str, device: Any = "cpu"
) -> tuple[Policy, dict[str, int]]:
    """Load a checkpoint into the network that the store's metadata describes.

    Args:
        dataset: Collected by ``mosaic-collect collect``, which notes ``runner_cfg`` and ``groups``.
        checkpoint: An rsl_rl checkpoint; it is a pickle: load only what you trust.
        device: Of the network.

    Returns:
        The policy, and the groups that make up ``observations``, name -> width.

    Raises:
        InputError: The store does not say what network it was, or the checkpoint is of another.
        MissingDependencyError: rsl_rl is not installed.
    """
    told = dataset.metadata
    groups, runner_cfg = told.get("groups"), told.get("runner_cfg")
    if not isinstance(groups, dict) or not isinstance(runner_cfg, dict):
        raise InputError(f"{dataset.path}: does not say runner_cfg and groups; no replay without")
    action_dim = dataset.schema["actions"].dim or 1
    env = _shapes_only(dataset.num_envs, groups, _read_groups(runner_cfg), action_dim, device)
    return load_policy(env, _without_empty(runner_cfg), checkpoint, device), groups


def _read_groups(runner_cfg: dict[str, Any]) -> set[str]:
    """All groups that the config's networks read, the critic's among them."""
    named = runner_cfg.get("obs_groups")
    return {g for groups in named.values() for g in groups} if isinstance(named, dict) else set()


def _without_empty(runner_cfg: dict[str, Any]) -> dict[str, Any]:
    """Leave out networks' options that are None, as mjlab's own runner does."""
    cleaned = dict(runner_cfg)
    for name in ("actor", "critic"):
        if isinstance(cleaned.get(name), dict):
            options = {k: v for k, v in cleaned[name].items() if v is not None}
            recurrent = "rnn_type" in options
            cleaned[name] = {k: v for k, v in options.items() if recurrent or k[:4] != "rnn_"}
    return cleaned


def _shapes_only(
    num_envs: int, groups: dict[str, int], read: set[str], num_actions: int, device: Any
) -> Any:
    """An environment that a runner can be built for, and that nobody can step."""
    try:
        from rsl_rl.env import VecEnv
        from tensordict import TensorDict
    except ImportError as error:
        raise MissingDependencyError("the replay check needs rsl-rl-lib from 3.0 on") from error
    # The critic is built, too, though never used: any width will do for its groups.
    widths = {**dict.fromkeys(read, 1), **groups}
    zeros = {name: torch.zeros(num_envs, width, device=device) for name, width in widths.items()}

    class ShapesOnly(VecEnv):  # type: ignore[misc]
        def __init__(self) -> None:
            self.num_envs, self.num_actions, self.device = num_envs, num_actions, device
            self.max_episode_length = 1
            self.episode_length_buf = torch.zeros(num_envs, dtype=torch.long, device=device)
            self.cfg: dict[str, Any] = {}

        def get_observations(self) -> Any:
            return TensorDict(zeros, batch_size=[num_envs])

        def step(self, actions: torch.Tensor) -> Any:
            raise InputError("this environment has shapes only")

    return ShapesOnly()
