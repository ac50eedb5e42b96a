"""The policy of a store's checkpoint, rebuilt from what the store says, without a simulator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from mosaic_collect.adapters.rsl_rl.load import RslRl2, generation, load_policy
from mosaic_collect.adapters.rsl_rl.runner_cfg import check_class_names
from mosaic_collect.adapters.rsl_rl.vec_env import POLICY
from mosaic_collect.checks import needed, whole
from mosaic_collect.collection.groups import Groups, check_recorded, own_field
from mosaic_collect.collection.protocols import Policy
from mosaic_collect.errors import InputError, MissingDependencyError
from mosaic_collect.reading.dataset import TrajectoryDataset

_ACTORS_SETS = ("actor", "policy")  # what 4.x on, and 3.x, call the actor's set of groups


def recorded_policy(
    dataset: TrajectoryDataset,
    checkpoint: str,
    device: Any = "cpu",
    runner_cfg: Mapping[str, Any] | None = None,
    groups: Groups | None = None,
    trust_checkpoint: bool = False,
) -> tuple[Policy, Groups]:
    """Load a checkpoint into the network that the store's metadata describes.

    Args:
        dataset: ``mosaic-collect collect`` and ``scripts/collect_expert_trajectories.py`` note
            ``runner_cfg`` and ``groups`` in its metadata.
        checkpoint: An rsl_rl checkpoint.
        device: Device of the network.
        runner_cfg: The training config; None: the store's.
        groups: The groups that make up ``observations``, name -> width, in order, and those in
            fields of their own, name -> axes; None: the store's, or else one group as wide as
            the observations are, beside those that have such a field.
        trust_checkpoint: Code in the checkpoint may run, and what the training config names beyond
            rsl_rl and mjlab.

    Returns:
        The policy, and the groups.

    Raises:
        InputError: Nobody says what network it was, the checkpoint is of another, there is no such
            device, or code would run that is not trusted.
        MissingDependencyError: rsl_rl is not installed.
    """
    told = dataset.metadata
    config = told.get("runner_cfg") if runner_cfg is None else dict(runner_cfg)
    if not isinstance(config, dict):
        raise InputError(
            f"{dataset.path}: its metadata has no runner_cfg, the training config that says what "
            "network the checkpoint is of: give it with --runner-cfg agent.yaml (or .json)"
        )
    if not trust_checkpoint:
        check_class_names(config)
    _check_device(device)
    read = _groups(dataset, told.get("groups") if groups is None else groups, config)
    # The critic is built, too, though never used: any width will do for its groups.
    known = {**dict.fromkeys(_read_groups(config), 1), **read}
    action_dim = _dim(dataset, "actions")
    env = _shapes_only(dataset.num_envs, known, action_dim, device)
    config = _acting_only(_without_empty(config))
    policy = load_policy(
        env,
        config,
        checkpoint,
        device,
        _runner_class(told),
        trust_checkpoint=trust_checkpoint,
    )
    return policy, read


def _check_device(device: Any) -> None:
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter where torch has no CUDA at all
        words = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"device: expected one that is here, got {device}: {words[0]}") from error


def _groups(dataset: TrajectoryDataset, groups: Any, runner_cfg: Mapping[str, Any]) -> Groups:
    """The actor's groups, as the store holds them."""
    named = _actors_groups(runner_cfg)
    if not groups:
        groups = _likely_groups(dataset, named)
    if not isinstance(groups, Mapping):
        raise InputError(f"groups: expected widths by name, got {groups!r}")
    read = {str(name): _row(row, f"groups: {name}") for name, row in groups.items()}
    if set(read) != set(named):
        raise InputError(
            f"groups: expected {', '.join(named)}, which the actor reads, got {', '.join(read)}"
        )
    check_recorded(dataset.schema, read)
    return read


def _likely_groups(dataset: TrajectoryDataset, named: Iterable[str]) -> Groups:
    """Those that have a field of their own, and one that is all of ``observations``."""
    own = {f.name: f.row_shape for f in dataset.schema.fields if len(f.row_shape) != 1}
    found: dict[str, int | tuple[int, ...]] = {
        name: own[own_field(name)] for name in named if own_field(name) in own
    }
    flat = [name for name in named if name not in found]
    if flat:
        width = _dim(dataset, "observations")
        if len(flat) != 1:
            raise InputError(
                f"groups: expected the widths of {', '.join(flat)}, which add up to {width}: give "
                f"them with --groups {' '.join(f'{name}=WIDTH' for name in named)}"
            )
        found[flat[0]] = width
    return {name: found[name] for name in named}


def _row(row: Any, what: str) -> int | tuple[int, ...]:
    if isinstance(row, (list, tuple)):
        return tuple(whole(axis, what, 1) for axis in row)
    return whole(row, what, 1)


def _dim(dataset: TrajectoryDataset, name: str) -> int:
    if name not in dataset.fields:
        raise InputError(f"{dataset.path}: the replay check needs {name}")
    return dataset.schema[name].width


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
    with needed("the checkpoint's policy needs mjlab", opengl=True):
        try:
            from mjlab.rl import MjlabOnPolicyRunner
        except ImportError:
            return None  # rsl_rl's own reads those of its own generation
    return MjlabOnPolicyRunner


def _shapes_only(
    num_envs: int, groups: Mapping[str, int | tuple[int, ...]], num_actions: int, device: Any
) -> Any:
    """A ``VecEnv`` of the installed rsl_rl that knows shapes and nothing else.

    Args:
        num_envs: Environments, N.
        groups: Name of each observation group -> its width, or the axes of its rows.
        num_actions: Width of an action, A.
        device: Device of the observations.

    Raises:
        InputError: rsl_rl 2.x is installed, whose actors read one group, and it is not among these.
        MissingDependencyError: rsl_rl is not installed.
    """
    tuples = isinstance(generation(), RslRl2)
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
