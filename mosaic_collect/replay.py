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

from mosaic_collect.adapters.protocol import Policy
from mosaic_collect.dataset import TrajectoryDataset
from mosaic_collect.errors import InputError

TOLERANCE = 1e-5
_NEEDED = ("observations", "action_mean", "action_sigma")


@dataclass(frozen=True)
class ReplayReport:
    """What the check found, over valid rows.

    Attributes:
        rows: Checked.
        rows_off: Whose mean or sigma is further off than the tolerance.
        largest_mean: Largest absolute difference of the mean.
        largest_sigma: Of sigma.
        tolerance: Allowed.
        first_off: (step, env) of the first row that is off; None if none is.
    """

    rows: int
    rows_off: int
    largest_mean: float
    largest_sigma: float
    tolerance: float
    first_off: tuple[int, int] | None

    @property
    def ok(self) -> bool:
        """Whether rows were checked and none is off."""
        return self.rows > 0 and not self.rows_off


def replay_check(
    store: str | os.PathLike[str],
    policy: Policy,
    groups: Mapping[str, int],
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
        groups: The observation groups that make up ``observations``, name -> width, in order.
        device: Of the policy.
        tolerance: Largest allowed absolute difference.
        progress: Told the steps checked since the last call.

    Raises:
        InputError: The store lacks a field, or the widths do not add up.
    """
    dataset = TrajectoryDataset(store)
    _check_fields(dataset, groups)
    tally = _Tally(tolerance)
    last_ids = np.full(dataset.num_envs, -1, np.int64)
    size = dataset.state.block_steps if dataset.num_steps else 1
    for start in range(0, dataset.num_steps, size):
        stop = min(start + size, dataset.num_steps)
        block = {n: dataset.read(n, start, stop) for n in (*_NEEDED, "valid_mask", "trajectory_id")}
        for step in range(stop - start):
            row = {name: values[step] for name, values in block.items()}
            policy.reset(torch.as_tensor(row["trajectory_id"] != last_ids, device=device))
            last_ids = row["trajectory_id"]
            output = policy.act(_split(torch.as_tensor(row["observations"], device=device), groups))
            tally.add(start + step, row, output.mean.cpu().numpy(), output.sigma.cpu().numpy())
        if progress is not None:
            progress(stop - start)
    return tally.report()


class _Tally:
    """Gathers the differences."""

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self._rows = self._off = 0
        self._mean = self._sigma = 0.0
        self._first: tuple[int, int] | None = None

    def add(
        self, step: int, row: Mapping[str, NDArray[Any]], mean: NDArray[Any], sigma: NDArray[Any]
    ) -> None:
        """Compare one step's rows, ``(N, A)`` each."""
        valid = row["valid_mask"]
        of_mean = _distance(mean, row["action_mean"])
        of_sigma = _distance(sigma, row["action_sigma"])
        off = valid & (np.maximum(of_mean, of_sigma) > self._tolerance)
        self._rows += int(np.count_nonzero(valid))
        self._off += int(np.count_nonzero(off))
        self._mean = max(self._mean, float(of_mean[valid].max(initial=0.0)))
        self._sigma = max(self._sigma, float(of_sigma[valid].max(initial=0.0)))
        if self._first is None and off.any():
            self._first = (step, int(np.flatnonzero(off)[0]))

    def report(self) -> ReplayReport:
        """All of it."""
        return ReplayReport(
            self._rows, self._off, self._mean, self._sigma, self._tolerance, self._first
        )


def _distance(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Largest absolute difference of each row; infinite where either is not finite."""
    difference = np.abs(one.astype(np.float64) - other)
    return np.asarray(np.nan_to_num(difference, nan=np.inf).max(axis=1))


def _split(observations: torch.Tensor, groups: Mapping[str, int]) -> dict[str, torch.Tensor]:
    parts = torch.split(observations, list(groups.values()), dim=-1)
    return dict(zip(groups, parts, strict=True))


def _check_fields(dataset: TrajectoryDataset, groups: Mapping[str, int]) -> None:
    missing = [name for name in _NEEDED if name not in dataset.fields]
    if missing:
        raise InputError(f"{dataset.path}: the replay check needs {', '.join(missing)}")
    width = dataset.schema["observations"].dim
    if sum(groups.values()) != width:
        raise InputError(f"observations: expected {dict(groups)} to add up to {width}")
