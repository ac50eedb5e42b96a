"""The replay check: does the checkpoint, given the recorded observations, say what was recorded?

Every stored teacher observation goes through the policy again, block by block, and the mean and
sigma that come out are held against the recorded ones. A shifted row, an observation that was not
the one acted on, noise drawn anew, another checkpoint or a missing normaliser all show.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mosaic_collect.checks import thread_count
from mosaic_collect.collection.groups import Groups, check_recorded, flat_groups, own_field
from mosaic_collect.collection.protocols import Policy
from mosaic_collect.errors import InputError
from mosaic_collect.passes.engine import Engine
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.replay.report import TOLERANCE, Differences, ReplayReport, Step, check_tolerance
from mosaic_collect.store.ranks import Address
from mosaic_collect.store.view import StoreView
from mosaic_collect.store.workers import WorkerPool

_log = logging.getLogger(__name__)
_NEEDED = ("action_mean", "action_sigma", "valid_mask", "trajectory_id")


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
    otherwise for another batch. A recurrent policy is told where trajectories begin.

    Args:
        store: The store.
        policy: Policy of the checkpoint.
        groups: The observation groups that make up ``observations``, name -> width, in order; and
            those in fields of their own, name -> axes of a row.
        device: Device of the policy.
        tolerance: Largest allowed absolute difference, in units of the actions.
        progress: Told the steps checked since the last call.
        engine: A cluster that does it, each of whose threads gets a copy of the policy; None: this
            thread, which does it anyway unless the policy's ``is_recurrent`` is False: a memory
            goes from step to step.

    Raises:
        InputError: The store lacks a field, the groups are not what it holds, the policy's actions
            have another width than the store's, or the tolerance is no number from 0 on.
        ClusterError: The cluster cannot do the work.
    """
    check_tolerance(tolerance)
    dataset = TrajectoryDataset(store)
    fields = _fields(dataset, groups)
    replay = _Replay(dataset.view, fields, policy, groups, device, tolerance)
    tally = _Tally(dataset.num_steps, tolerance)
    for compared in chain.from_iterable(_replayed(replay, dataset, engine)):
        tally.add(compared)
        if progress is not None:
            progress(1)
    return tally.report()


def _replayed(
    replay: _Replay, dataset: TrajectoryDataset, engine: Engine | None
) -> Iterator[Iterable[_Compared]]:
    """Block by block."""
    blocks = range(dataset.state.num_blocks)
    if engine is not None and replay.is_recurrent:
        _log.warning("the policy is recurrent, or may be: it is replayed here, step by step")
    if engine is None or replay.is_recurrent:
        with WorkerPool(thread_count(), "mosaic-replay") as pool:
            for block in blocks:
                yield replay.steps(block, pool)
    else:
        yield from engine.map(replay, blocks, dataset.view.require_seen)


class _Compared(NamedTuple):
    """What was said to a step's valid rows beside what was recorded.

    The differences are relative to a row's largest recorded value, too; and the first environment
    that is off.
    """

    step: Step
    relative_mean: float
    relative_sigma: float
    first_off: int | None


class _Replay:
    """Replays one block; pickles if the policy does, and is one thread's."""

    def __init__(
        self,
        view: StoreView,
        fields: list[str],
        policy: Policy,
        groups: Groups,
        device: Any,
        tolerance: float,
    ) -> None:
        self._view, self._fields, self._policy = view, fields, policy
        self._groups, self._device, self._tolerance = groups, device, tolerance

    @property
    def is_recurrent(self) -> bool:
        """Whether blocks must come one behind the other: unless the policy says otherwise."""
        return bool(getattr(self._policy, "is_recurrent", True))

    def __call__(self, block: int) -> list[_Compared]:
        """All its steps."""
        return list(self.steps(block))

    def steps(self, block: int, pool: Executor | None = None) -> Iterator[_Compared]:
        """Its steps, one by one; chunks are decoded in the pool."""
        steps, envs = self._view.state.steps_of(block), range(self._view.state.num_envs)
        values = {name: self._view.read(name, steps, envs, pool) for name in self._fields}
        last_ids = self._ids_before(steps)
        for at, step in enumerate(steps):
            row = {name: of_field[at] for name, of_field in values.items()}
            new = row["trajectory_id"] != last_ids
            self._policy.reset(torch.as_tensor(new, device=self._device))
            last_ids = row["trajectory_id"]
            output = self._policy.act(_seen(row, self._groups, self._device))
            yield _compare(
                step, row, output.mean.cpu().numpy(), output.sigma.cpu().numpy(), self._tolerance
            )

    def _ids_before(self, steps: range) -> NDArray[np.int64]:
        """Of the last step before these, ``(N,)``."""
        envs = range(self._view.state.num_envs)
        if not steps.start:
            return np.full(len(envs), -1, np.int64)
        (ids,) = self._view.read("trajectory_id", range(steps.start - 1, steps.start), envs)
        return np.asarray(ids)


class _Tally:
    """Gathers the differences."""

    def __init__(self, num_steps: int, tolerance: float) -> None:
        self._tolerance = tolerance
        self._over_steps = Differences(num_steps)
        self._mean = self._sigma = self._relative_mean = self._relative_sigma = 0.0
        self._first: tuple[int, int] | None = None

    def add(self, found: _Compared) -> None:
        """Take one step."""
        step = found.step
        self._over_steps.add(step)
        self._mean, self._sigma = max(self._mean, step.mean), max(self._sigma, step.sigma)
        self._relative_mean = max(self._relative_mean, found.relative_mean)
        self._relative_sigma = max(self._relative_sigma, found.relative_sigma)
        if self._first is None and found.first_off is not None:
            self._first = (step.number, found.first_off)

    def report(self) -> ReplayReport:
        """All of it."""
        over_steps = self._over_steps
        return ReplayReport(
            rows=int(over_steps.rows.sum()),
            rows_off=int(over_steps.rows_off.sum()),
            largest_mean=self._mean,
            largest_sigma=self._sigma,
            relative_mean=self._relative_mean,
            relative_sigma=self._relative_sigma,
            tolerance=self._tolerance,
            first_off=self._first,
            differences=over_steps,
        )


def _compare(
    step: int,
    row: Mapping[str, NDArray[Any]],
    mean: NDArray[Any],
    sigma: NDArray[Any],
    tolerance: float,
) -> _Compared:
    """One step's rows, ``(N, A)`` each."""
    valid = row["valid_mask"]
    of_mean, relative_mean = _differences(mean, row["action_mean"], valid)
    of_sigma, relative_sigma = _differences(sigma, row["action_sigma"], valid)
    off = np.flatnonzero(np.maximum(of_mean, of_sigma) > tolerance)
    largest = (float(each.max(initial=0.0)) for each in (of_mean, of_sigma))
    return _Compared(
        Step(step, len(of_mean), len(off), *largest),
        relative_mean,
        relative_sigma,
        int(np.flatnonzero(valid)[off[0]]) if len(off) else None,
    )


def _differences(
    said: NDArray[Any], recorded: NDArray[Any], valid: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], float]:
    """The largest difference of each valid row, ``(rows,)``, and the largest relative one.

    Infinite where either side is not finite; relative to a row's largest recorded value.
    """
    if said.shape != recorded.shape:
        raise InputError(f"policy: expected actions {recorded.shape}, got {said.shape}")
    recorded = recorded[valid].astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinity less infinity
        difference = np.abs(said[valid] - recorded)
    difference[~np.isfinite(difference)] = np.inf
    each = np.asarray(difference.max(axis=1))
    share = _share(each, np.abs(recorded).max(axis=1))
    return each, float(share.max(initial=0.0))


def _share(each: NDArray[np.float64], largest: NDArray[np.float64]) -> NDArray[np.float64]:
    """Nothing of nothing is nothing; whatever is not finite is infinitely much."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share = each / largest
    share[np.isinf(each)] = np.inf
    share[each == 0] = 0.0
    return share


def _seen(row: Mapping[str, NDArray[Any]], groups: Groups, device: Any) -> dict[str, torch.Tensor]:
    """What the policy saw, group by group; what was recorded as it was is of its own dtype."""
    flat = flat_groups(groups)
    seen = {n: torch.as_tensor(row[own_field(n)], device=device) for n in groups if n not in flat}
    if flat:
        rows = torch.as_tensor(row["observations"], dtype=torch.float32, device=device)
        seen.update(zip(flat, torch.split(rows, list(flat.values()), dim=-1), strict=True))
    return seen


def _fields(dataset: TrajectoryDataset, groups: Groups) -> list[str]:
    """Those that the check reads."""
    flat = flat_groups(groups)
    own = [own_field(name) for name in groups if name not in flat]
    names = [*(["observations"] if flat else []), *own, *_NEEDED]
    missing = [name for name in names if name not in dataset.fields]
    if missing:
        raise InputError(f"{dataset.path}: the replay check needs {', '.join(missing)}")
    check_recorded(dataset.schema, groups)
    return names
