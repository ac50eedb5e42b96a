"""The policy of a store's checkpoint, rebuilt from the store's metadata, without a simulator."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from types import SimpleNamespace
from typing import Any

import torch

from mosaic_collect.adapters.rsl_rl.load import POLICY, generation, load_policy
from mosaic_collect.adapters.rsl_rl.runner_cfg import check_class_names
from mosaic_collect.checks import needed, whole
from mosaic_collect.collection.groups import Groups, check_recorded, own_field
from mosaic_collect.collection.protocols import Policy
from mosaic_collect.errors import InputError
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.text import shown

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
        dataset: A store; its collection noted ``runner_cfg`` and ``groups`` in its metadata.
        checkpoint: An rsl_rl checkpoint.
        device: Device of the network.
        runner_cfg: The training config; None: the store's.
        groups: The groups that make up ``observations``, name -> width, in order, and those in
            fields of their own, name -> axes; None: the store's, or else one group as wide as
            the observations are, beside those that have such a field.
        trust_checkpoint: Let code run that the checkpoint holds, or that the training config names
            beyond rsl_rl and mjlab.

    Raises:
        InputError: The store has no training config, the checkpoint is of another network, there is
            no such device, or code would run that is not trusted.
        MissingDependencyError: rsl_rl is not installed.
    """
    metadata = dataset.metadata
    config = metadata.get("runner_cfg") if runner_cfg is None else dict(runner_cfg)
    if not isinstance(config, dict):
        raise InputError(
            f"{dataset.path}: its metadata has no runner_cfg, the training config that says what "
            "network the checkpoint is of: give it with --runner-cfg agent.yaml (or .json)"
        )
    if not trust_checkpoint:
        check_class_names(config)
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter where torch has no CUDA at all
        words = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"device: expected one that is here, got {device}: {words[0]}") from error
    sets = _group_sets(config)
    actor = next((sets[name] for name in _ACTORS_SETS if name in sets), ("policy",))
    read = _groups(dataset, metadata.get("groups") if groups is None else groups, actor)
    # The critic is built, too, though never used: any width will do for its groups.
    known = {**dict.fromkeys(chain.from_iterable(sets.values()), 1), **read}
    policy = load_policy(
        _shapes_only(dataset.num_envs, known, _width(dataset, "actions"), device),
        _acting_only(config),
        checkpoint,
        device,
        _runner_class(metadata),
        trust_checkpoint=trust_checkpoint,
    )
    return policy, read


def _group_sets(runner_cfg: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Names of the groups that each of the config's networks reads."""
    sets = runner_cfg.get("obs_groups") or {}
    if isinstance(sets, Mapping):
        found = {
            name: [each] if isinstance(each, str) else each or [] for name, each in sets.items()
        }
        if all(_is_list(each) and all(isinstance(n, str) for n in each) for each in found.values()):
            return {name: tuple(each) for name, each in found.items()}
    raise InputError(f"runner_cfg: expected obs_groups with lists by name, got {shown(sets)}")


def _groups(dataset: TrajectoryDataset, groups: Any, actor: tuple[str, ...]) -> Groups:
    """The actor's groups, as the store holds them."""
    groups = groups or _likely_groups(dataset, actor)
    if not isinstance(groups, Mapping):
        raise InputError(f"groups: expected widths by name, got {groups!r}")
    read: dict[str, int | tuple[int, ...]] = {}
    for name, row in groups.items():
        axes = [whole(a, f"groups: {name}", 1) for a in (row if _is_list(row) else [row])]
        read[str(name)] = tuple(axes) if _is_list(row) else axes[0]
    if set(read) != set(actor):
        raise InputError(
            f"groups: expected {', '.join(actor)}, which the actor reads, got {', '.join(read)}"
        )
    check_recorded(dataset.schema, read)
    return read


def _is_list(row: Any) -> bool:
    return isinstance(row, (list, tuple))


def _likely_groups(dataset: TrajectoryDataset, actor: tuple[str, ...]) -> Groups:
    """Those that have a field of their own, and one that is all of ``observations``."""
    own = {f.name: f.row_shape for f in dataset.schema.fields if len(f.row_shape) != 1}
    flat = [name for name in actor if own_field(name) not in own]
    if len(flat) > 1:
        raise InputError(
            f"groups: expected the widths of {', '.join(flat)}, which add up to "
            f"{_width(dataset, 'observations')}: give them with --groups "
            f"{' '.join(f'{name}=WIDTH' for name in actor)}"
        )
    return {n: _width(dataset, "observations") if n in flat else own[own_field(n)] for n in actor}


def _width(dataset: TrajectoryDataset, name: str) -> int:
    if name not in dataset.fields:
        raise InputError(f"{dataset.path}: the replay check needs {name}")
    return dataset.schema[name].width


def _acting_only(runner_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what only training needs, and what would need the simulator or further files.

    Networks' options that are None go, too, as mjlab's own runner has it.
    """
    config = dict(runner_cfg)
    for name in ("actor", "critic"):
        if isinstance(config.get(name), dict):
            options = {k: v for k, v in config[name].items() if v is not None}
            recurrent = "rnn_type" in options
            config[name] = {k: v for k, v in options.items() if recurrent or k[:4] != "rnn_"}
    algorithm = config.get("algorithm")
    if not isinstance(algorithm, dict):
        return config
    if algorithm.get("class_name") == "MOSAIC":
        # It would load teachers and expert data. How the actor is built does not depend on it.
        if algorithm.get("use_estimate_ref_vel"):
            raise InputError("runner_cfg: an actor with use_estimate_ref_vel is not supported")
        return {**config, "algorithm": {"class_name": "PPO"}}
    unused = {name: None for name in ("rnd_cfg", "symmetry_cfg") if name in algorithm}
    return {**config, "algorithm": {**algorithm, **unused}}


def _runner_class(metadata: Mapping[str, Any]) -> Any:
    """The runner of mjlab reads older generations' checkpoints, too, and so did its collection."""
    if metadata.get("simulator") != "mjlab":
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
    """A ``VecEnv`` of the installed rsl_rl that knows shapes and nothing else."""
    rows = {name: (row,) if isinstance(row, int) else row for name, row in groups.items()}
    zeros = {name: torch.zeros(num_envs, *row, device=device) for name, row in rows.items()}
    observed: Any
    if generation() == 2:
        if POLICY not in zeros:
            raise InputError(f"groups: rsl_rl 2.x reads {POLICY!r}, got {', '.join(groups)}")
        observed = zeros[POLICY], {"observations": zeros}
    else:
        with needed("rsl_rl from 3.0 on needs tensordict: pip install tensordict"):
            from tensordict import TensorDict
        observed = TensorDict(zeros, batch_size=[num_envs])
    env = SimpleNamespace(num_envs=num_envs, num_actions=num_actions, device=device, cfg={})
    env.unwrapped, env.get_observations = env, lambda: observed
    return env
