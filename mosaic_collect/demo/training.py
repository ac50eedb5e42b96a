"""Train a student: plain regression of what the expert would do on what the student sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import torch
from torch import nn

from mosaic_collect.reading.dataset import TrajectoryDataset

SEEN, LABEL = "student_observations", "action_mean"
_BATCH = 1024


def new_student(mean: torch.Tensor, std: torch.Tensor, num_actions: int) -> nn.Module:
    """A small network behind its normaliser, from ``(N, student_obs_dim)`` to ``(N, num_actions)``.

    Args:
        mean: Of the observations, ``(student_obs_dim,)``.
        std: Of the observations.
        num_actions: Width of an action.
    """
    normalizer = nn.BatchNorm1d(len(mean), affine=False).eval()
    normalizer.running_mean = mean
    normalizer.running_var = (std + 0.01) ** 2  # what hardly moves stays small
    layers = (nn.Linear(len(mean), 256), nn.ELU(), nn.Linear(256, 128), nn.ELU())
    return nn.Sequential(normalizer, *layers, nn.Linear(128, num_actions))


def train_student(
    store: str, updates: int, seed: int = 0, on_update: Callable[[], object] | None = None
) -> nn.Module:
    """Train on all valid pairs of a store.

    Args:
        store: With ``student_observations`` and ``action_mean``.
        updates: Of 1,024 pairs each.
        seed: Of weights and order.
        on_update: Called after each.
    """
    dataset = TrajectoryDataset(store)
    valid = dataset.read("valid_mask")
    seen, label = (torch.from_numpy(dataset.read(name)[valid]) for name in (SEEN, LABEL))
    return train_on(seen, label, updates, seed, on_update)


def train_on(
    seen: torch.Tensor,
    label: torch.Tensor,
    updates: int,
    seed: int = 0,
    on_update: Callable[[], object] | None = None,
) -> nn.Module:
    """Train on pairs in memory, ``(M, student_obs_dim)`` and ``(M, num_actions)``."""
    torch.manual_seed(seed)
    student = new_student(seen.mean(0), seen.std(0), label.shape[1])
    optimizer = torch.optim.Adam(student.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    for rows in islice(_batches(len(seen)), updates):
        loss = nn.functional.mse_loss(student(seen[rows]), label[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if on_update is not None:
            on_update()
    return student.eval()


def _batches(pairs: int) -> Iterator[torch.Tensor]:
    """Each pair once, in another order each time, and again."""
    while True:
        order = torch.randperm(pairs)
        for start in range(0, max(pairs - _BATCH, 0) + 1, _BATCH):
            yield order[start : start + _BATCH]
