"""The replay check: does the checkpoint, given the recorded observations, say what was recorded?

Every stored teacher observation goes through the policy again, block by block, and the mean and
sigma that come out are held against the recorded ones. A shifted row, an observation that was not
the one acted on, noise drawn anew, another checkpoint or a missing normaliser all show.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mosaic_collect.collection.groups import Groups, check_recorded, flat_groups, own_field
from mosaic_collect.collection.protocols import Policy
from mosaic_collect.errors import InputError
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.replay.differences import TOLERANCE, Differences, check_tolerance

_NEEDED = ("action_mean", "action_sigma", "valid_mask", "trajectory_id")


@dataclass(frozen=True)
class ReplayReport:
    """What the check found, over valid rows.

    Attributes:
        rows: Checked.
        rows_off: Whose mean or sigma is further off than the tolerance.
        largest_mean: Largest absolute difference of the mean.
        largest_sigma: Of sigma.
        relative_mean: Largest difference of a row's mean as a share of that row's largest recorded
            value.
        relative_sigma: Of sigma.
        tolerance: Allowed absolute difference.
        first_off: (step, env) of the first row that is off; None if none is.
        differences: Over the steps, for a plot.
    """

    rows: int
    rows_off: int
    largest_mean: float
    largest_sigma: float
    relative_mean: float
    relative_sigma: float
    tolerance: float
    first_off: tuple[int, int] | None
    differences: Differences

    @property
    def ok(self) -> bool:
        """Whether rows were checked and none is off."""
        return self.rows > 0 and not self.rows_off

    @property
    def verdict(self) -> str:
        """In words, with counts."""
        if self.ok:
            return f"ok, {self.rows:,} valid rows"
        if not self.rows:
            return "NO VALID ROWS, so nothing is proven"
        step, env = self.first_off or (0, 0)
        return (
            f"{self.rows_off:,} OF {self.rows:,} valid ROWS OFF, the first at step {step:,}, "
            f"env {env:,}"
        )

    @property
    def figures(self) -> str:
        """The largest differences in words."""
        return (
            f"largest difference of mean {self.largest_mean:.1e} (relative "
            f"{self.relative_mean:.1e}), of sigma {self.largest_sigma:.1e} (relative "
            f"{self.relative_sigma:.1e})"
        )


def replay_check(
    store: str | os.PathLike[str],
    policy: Policy,
    groups: Groups,
    device: Any = "cpu",
    tolerance: float = TOLERANCE,
    progress: Callable[[int], object] | None = None,
) -> ReplayReport:
    """Recompute mean and sigma of every valid row of a store.

    Each step goes through the policy as it did then, all N environments at once: kernels may round
    otherwise for another batch. A recurrent policy is told where trajectories begin.

    Args:
        store: The store.
        policy: Of the checkpoint.
        groups: The observation groups that make up ``observations``, name -> width, in order; and
            those in fields of their own, name -> axes of a row.
        device: Of the policy.
        tolerance: Largest allowed absolute difference, in units of the actions.
        progress: Told the steps checked since the last call.

    Raises:
        InputError: The store lacks a field, the groups are not what it holds, the policy's actions
            have another width than the store's, or the tolerance is no number from 0 on.
    """
    check_tolerance(tolerance)
    dataset = TrajectoryDataset(store)
    fields = _fields(dataset, groups)
    tally = _Tally(dataset.num_steps, tolerance)
    last_ids = np.full(dataset.num_envs, -1, np.int64)
    size = dataset.state.block_steps if dataset.num_steps else 1
    for start in range(0, dataset.num_steps, size):
        stop = min(start + size, dataset.num_steps)
        block = {name: dataset.read(name, start, stop) for name in fields}
        for step in range(stop - start):
            row = {name: values[step] for name, values in block.items()}
            policy.reset(torch.as_tensor(row["trajectory_id"] != last_ids, device=device))
            last_ids = row["trajectory_id"]
            output = policy.act(_seen(row, groups, device))
            tally.add(start + step, row, output.mean.cpu().numpy(), output.sigma.cpu().numpy())
            if progress is not None:
                progress(1)
    return tally.report()


class _Tally:
    """Gathers the differences."""

    def __init__(self, num_steps: int, tolerance: float) -> None:
        self._tolerance = tolerance
        self._over_steps = Differences(num_steps)
        self._mean, self._sigma = _Largest(), _Largest()
        self._first: tuple[int, int] | None = None

    def add(
        self, step: int, row: Mapping[str, NDArray[Any]], mean: NDArray[Any], sigma: NDArray[Any]
    ) -> None:
        """Compare one step's rows, ``(N, A)`` each."""
        valid = row["valid_mask"]
        of_mean = self._mean.take(mean, row["action_mean"], valid)
        of_sigma = self._sigma.take(sigma, row["action_sigma"], valid)
        off = np.maximum(of_mean, of_sigma) > self._tolerance
        self._over_steps.add(step, of_mean, of_sigma, off)
        if self._first is None and off.any():
            self._first = (step, int(np.flatnonzero(valid)[off][0]))

    def report(self) -> ReplayReport:
        """All of it."""
        over_steps = self._over_steps
        return ReplayReport(
            rows=int(over_steps.rows.sum()),
            rows_off=int(over_steps.rows_off.sum()),
            largest_mean=self._mean.absolute,
            largest_sigma=self._sigma.absolute,
            relative_mean=self._mean.relative,
            relative_sigma=self._sigma.relative,
            tolerance=self._tolerance,
            first_off=self._first,
            differences=over_steps,
        )


class _Largest:
    """The largest difference so far, absolute and as a share of a row's largest recorded value."""

    def __init__(self) -> None:
        self.absolute = self.relative = 0.0

    def take(
        self, said: NDArray[Any], recorded: NDArray[Any], valid: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """The largest difference of each valid row, ``(rows,)``.

        Infinite where either side is not finite.
        """
        if said.shape != recorded.shape:
            raise InputError(f"policy: expected actions {recorded.shape}, got {said.shape}")
        recorded = recorded[valid].astype(np.float64)
        with np.errstate(invalid="ignore"):  # infinity less infinity
            difference = np.abs(said[valid] - recorded)
        difference[~np.isfinite(difference)] = np.inf
        each = np.asarray(difference.max(axis=1))
        self.absolute = max(self.absolute, float(each.max(initial=0.0)))
        share = _share(each, np.abs(recorded).max(axis=1))
        self.relative = max(self.relative, float(share.max(initial=0.0)))
        return each


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
