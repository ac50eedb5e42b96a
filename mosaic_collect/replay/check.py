"""The replay check: does the checkpoint answer the recorded observations as it was recorded?

Every stored teacher observation goes through the policy again, block by block, and its mean and
sigma are compared with the recorded ones. A shifted row, an observation that was not the one acted
on, noise drawn anew, another checkpoint or a missing normaliser all show.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from mosaic_collect.checks import thread_count
from mosaic_collect.collection.groups import Groups, check_recorded, flat_groups, own_field
from mosaic_collect.collection.protocols import Policy
from mosaic_collect.errors import InputError
from mosaic_collect.passes.engine import Engine
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.table import Table
from mosaic_collect.replay.report import STEP, TOLERANCE, ReplayReport, check_tolerance
from mosaic_collect.store.ranks import Address
from mosaic_collect.store.workers import WorkerPool

_log = logging.getLogger(__name__)
_NEEDED = ("action_mean", "action_sigma", "valid_mask", "trajectory_id")
#: Values of one ``STEP``.
_Step: TypeAlias = tuple[int, int, int, float, float, float, float]


def replay_check(
    store: Address,
    policy: Policy,
    groups: Groups,
    device: Any = "cpu",
    tolerance: float = TOLERANCE,
    progress: Callable[[int], object] | None = None,
    engine: Engine | None = None,
) -> ReplayReport:
    """Recompute mean and sigma of every valid row of a store.

    Each step goes through the policy as it did then, all N environments at once: kernels may round
    otherwise for another batch. A recurrent policy is reset where trajectories begin.

    Args:
        store: The store.
        policy: Policy of the checkpoint.
        groups: The observation groups that make up ``observations``, name -> width, in order; and
            those in fields of their own, name -> axes of a row.
        device: Device of the policy.
        tolerance: Largest allowed absolute difference, in units of the actions.
        progress: Called with the number of steps checked since the last call.
        engine: Cluster that replays the blocks; each of its threads gets a copy of the policy.
            None: this thread, which does it anyway unless the policy's ``is_recurrent`` is False: a
            memory goes from step to step.

    Raises:
        InputError: The store lacks a field, the groups are not what it holds, the policy's actions
            have another width than the store's, or the tolerance is no number from 0 on.
        ClusterError: The cluster cannot do the work.
    """
    check_tolerance(tolerance)
    dataset = TrajectoryDataset(store)
    fields = _fields(dataset, groups)
    replay = partial(_replay, dataset.view, fields, policy, groups, device, tolerance)
    blocks, steps = range(dataset.state.num_blocks), np.zeros(dataset.num_steps, STEP)
    if engine is not None and getattr(policy, "is_recurrent", True):
        _log.warning("the policy is recurrent, or may be: it is replayed here, step by step")
        engine = None
    with WorkerPool(thread_count(), "mosaic-replay") as pool:
        here = (replay(block, pool) for block in blocks)
        there = partial(_replay_all, replay)
        found = here if engine is None else engine.map(there, blocks, dataset.view.require_seen)
        for at, compared in enumerate(chain.from_iterable(found)):
            steps[at] = compared
            if progress is not None:
                progress(1)
    return ReplayReport.of(steps, tolerance)


def _replay_all(replay: Callable[[int], Iterator[_Step]], block: int) -> list[_Step]:
    """All steps of a block, for an engine."""
    return list(replay(block))


def _replay(
    view: Table,
    fields: Sequence[str],
    policy: Policy,
    groups: Groups,
    device: Any,
    tolerance: float,
    block: int,
    pool: Executor | None = None,
) -> Iterator[_Step]:
    """Compare a block's steps one by one; chunks are decoded in the pool."""
    steps, envs = view.state.steps_of(block), range(view.state.num_envs)
    values = {name: view.read(name, steps, envs, pool) for name in fields}
    last_ids: Any = -1
    if steps.start:
        (last_ids,) = view.read("trajectory_id", range(steps.start - 1, steps.start), envs)
    for at in range(len(steps)):
        row = {name: of_field[at] for name, of_field in values.items()}
        new = row["trajectory_id"] != last_ids
        policy.reset(torch.as_tensor(new, device=device))
        last_ids = row["trajectory_id"]
        output = policy.act(_observations(row, groups, device))
        yield _compare(row, output.mean.cpu().numpy(), output.sigma.cpu().numpy(), tolerance)


def _compare(
    row: Mapping[str, NDArray[Any]], mean: NDArray[Any], sigma: NDArray[Any], tolerance: float
) -> _Step:
    """Compare one step's rows, ``(N, A)`` each."""
    valid = np.flatnonzero(row["valid_mask"])
    if not len(valid):
        return 0, 0, -1, np.nan, np.nan, np.nan, np.nan
    of_mean, relative_mean = _differences(mean, row["action_mean"], valid)
    of_sigma, relative_sigma = _differences(sigma, row["action_sigma"], valid)
    off = valid[np.maximum(of_mean, of_sigma) > tolerance]
    counts = len(valid), len(off), int(off[0]) if len(off) else -1
    return *counts, of_mean.max(), of_sigma.max(), relative_mean.max(), relative_sigma.max()


def _differences(
    computed: NDArray[Any], recorded: NDArray[Any], valid: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Largest difference of each valid row, and that relative to the row's largest value.

    Infinite where either side is not finite, and relative to zero; no difference is none of zero.
    """
    if computed.shape != recorded.shape:
        raise InputError(f"policy: expected actions {recorded.shape}, got {computed.shape}")
    recorded = recorded[valid].astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = np.abs(computed[valid] - recorded).max(axis=1)
        difference[~np.isfinite(difference)] = np.inf
        relative = difference / np.abs(recorded).max(axis=1)
    relative[np.isinf(difference)] = np.inf
    relative[difference == 0] = 0.0
    return difference, relative


def _observations(
    row: Mapping[str, NDArray[Any]], groups: Groups, device: Any
) -> dict[str, torch.Tensor]:
    """The recorded observations group by group; groups in fields of their own keep their dtype."""
    flat = flat_groups(groups)
    found = {n: torch.as_tensor(row[own_field(n)], device=device) for n in groups if n not in flat}
    if flat:
        rows = torch.as_tensor(row["observations"], dtype=torch.float32, device=device)
        found.update(zip(flat, torch.split(rows, list(flat.values()), dim=-1), strict=True))
    return found


def _fields(dataset: TrajectoryDataset, groups: Groups) -> list[str]:
    """List the fields that the check reads."""
    flat = flat_groups(groups)
    own = [own_field(name) for name in groups if name not in flat]
    names = [*(["observations"] if flat else []), *own, *_NEEDED]
    missing = [name for name in names if name not in dataset.fields]
    if missing:
        raise InputError(f"{dataset.path}: the replay check needs {', '.join(missing)}")
    check_recorded(dataset.schema, groups)
    return names
