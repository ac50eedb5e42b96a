"""The policy of a store's checkpoint, rebuilt from what the store says, without a simulator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from mosaic_collect.adapters.rsl_rl.load import load_policy
from mosaic_collect.adapters.rsl_rl.shapes_only import shapes_only
from mosaic_collect.checks import whole
from mosaic_collect.collection.protocols import Policy
from mosaic_collect.errors import InputError
from mosaic_collect.reading.dataset import TrajectoryDataset

_ACTORS_SETS = ("actor", "policy")  # what 4.x on, and 3.x, call the actor's set of groups


def recorded_policy(
    dataset: TrajectoryDataset,
    checkpoint: str,
    device: Any = "cpu",
    runner_cfg: Mapping[str, Any] | None = None,
    groups: Mapping[str, int] | None = None,
) -> tuple[Policy, dict[str, int]]:
    """Load a checkpoint into the network that the store's metadata describes.

    Args:
        dataset: ``mosaic-collect collect`` and ``scripts/collect_expert_trajectories.py`` note
            ``runner_cfg`` and ``groups`` in its metadata.
        checkpoint: An rsl_rl checkpoint; it is a pickle: load only what you trust.
        device: Of the network.
        runner_cfg: The training config; None: the store's.
        groups: The groups that make up ``observations``, name -> width, in order; None: the
            store's, or else one group as wide as they are.

    Returns:
        The policy, and the groups.

    Raises:
        InputError: Nobody says what network it was, the checkpoint is of another, or there is no
            such device.
        MissingDependencyError: rsl_rl is not installed.
    """
    told = dataset.metadata
    config = told.get("runner_cfg") if runner_cfg is None else dict(runner_cfg)
    if not isinstance(config, dict):
        raise InputError(
            f"{dataset.path}: its metadata has no runner_cfg, the training config that says what "
            "network the checkpoint is of: give it with --runner-cfg agent.yaml (or .json)"
        )
    _check_device(device)
    widths = _widths(dataset, told.get("groups") if groups is None else groups, config)
    # The critic is built, too, though never used: any width will do for its groups.
    known = {**dict.fromkeys(_read_groups(config), 1), **widths}
    action_dim = _dim(dataset, "actions")
    env = shapes_only(dataset.num_envs, known, action_dim, device)
    config = _acting_only(_without_empty(config))
    return load_policy(env, config, checkpoint, device, _runner_class(told)), widths


def _check_device(device: Any) -> None:
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter where torch has no CUDA at all
        words = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"device: expected one that is here, got {device}: {words[0]}") from error


def _widths(
    dataset: TrajectoryDataset, groups: Any, runner_cfg: Mapping[str, Any]
) -> dict[str, int]:
    """The actor's groups, which together are as wide as the recorded observations."""
    width, named = _dim(dataset, "observations"), _actors_groups(runner_cfg)
    if not groups:
        if len(named) != 1:
            raise InputError(
                f"groups: expected the widths of {', '.join(named)}, which add up to {width}: give "
                f"them with --groups {' '.join(f'{name}=WIDTH' for name in named)}"
            )
        groups = {named[0]: width}
    if not isinstance(groups, Mapping):
        raise InputError(f"groups: expected widths by name, got {groups!r}")
    widths = {str(name): whole(w, f"groups: {name}", 1) for name, w in groups.items()}
    if set(widths) != set(named):
        raise InputError(
            f"groups: expected {', '.join(named)}, which the actor reads, got {', '.join(widths)}"
        )
    if sum(widths.values()) != width:
        raise InputError(f"groups: expected {widths} to add up to {width}")
    return widths


def _dim(dataset: TrajectoryDataset, name: str) -> int:
    if name not in dataset.fields:
        raise InputError(f"{dataset.path}: the replay check needs {name}")
    return dataset.schema[name].dim or 1


def _actors_groups(runner_cfg: Mapping[str, Any]) -> tuple[str, ...]:
    sets = _sets(runner_cfg)
    return _listed(next((sets[name] for name in _ACTORS_SETS if name in sets), "policy"))


def _read_groups(runner_cfg: Mapping[str, Any]) -> Iterable[str]:
    """All groups that the config's networks read, the critic's among them."""
    return [name for groups in _sets(runner_cfg).values() for name in _listed(groups)]


def _sets(runner_cfg: Mapping[str, Any]) -> Mapping[str, Any]:
    sets = runner_cfg.get("obs_groups") or {}
    if not isinstance(sets, Mapping):
        raise InputError(f"runner_cfg: expected obs_groups with lists by name, got {sets!r}")
    return sets


def _listed(groups: str | Iterable[str]) -> tuple[str, ...]:
    return (groups,) if isinstance(groups, str) else tuple(groups)


def _without_empty(runner_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out networks' options that are None, as mjlab's own runner does."""
    cleaned = dict(runner_cfg)
    for name in ("actor", "critic"):
        if isinstance(cleaned.get(name), dict):
            options = {k: v for k, v in cleaned[name].items() if v is not None}
            recurrent = "rnn_type" in options
            cleaned[name] = {k: v for k, v in options.items() if recurrent or k[:4] != "rnn_"}
    return cleaned


def _acting_only(runner_cfg: dict[str, Any]) -> dict[str, Any]:
    """Leave out what only training needs, and what would need the simulator or further files."""
    algorithm = runner_cfg.get("algorithm")
    if not isinstance(algorithm, dict):
        return runner_cfg
    if algorithm.get("class_name") == "MOSAIC":
        # It would load teachers and expert data. How the actor is built does not depend on it.
        if algorithm.get("use_estimate_ref_vel"):
            raise InputError("runner_cfg: an actor with use_estimate_ref_vel is not supported")
        return {**runner_cfg, "algorithm": {"class_name": "PPO"}}
    unused = {name: None for name in ("rnd_cfg", "symmetry_cfg") if name in algorithm}
    return {**runner_cfg, "algorithm": {**algorithm, **unused}}


def _runner_class(told: Mapping[str, Any]) -> Any:
    """The runner of mjlab reads older generations' checkpoints, too, and so did its collection."""
    if told.get("simulator") != "mjlab":
        return None
    try:
        from mjlab.rl import MjlabOnPolicyRunner
    except ImportError:
        return None  # rsl_rl's own reads those of its own generation
    return MjlabOnPolicyRunner
