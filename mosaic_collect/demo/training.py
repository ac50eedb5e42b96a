"""Train a student: plain regression of what the expert would do on what the student sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator

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
    torch.manual_seed(seed)
    seen, label = _pairs(store)
    student = new_student(seen.mean(0), seen.std(0), label.shape[1])
    optimizer = torch.optim.Adam(student.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    batches = _batches(len(seen))
    for _ in range(updates):
        rows = next(batches)
        loss = ((student(seen[rows]) - label[rows]) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if on_update is not None:
            on_update()
    return student.eval()


def _pairs(store: str) -> tuple[torch.Tensor, torch.Tensor]:
    dataset = TrajectoryDataset(store)
    valid = dataset.read("valid_mask")
    seen, label = (torch.from_numpy(dataset.read(n)[valid]) for n in (SEEN, LABEL))
    return seen, label


def _batches(pairs: int) -> Iterator[torch.Tensor]:
    """Each pair once, in another order each time, and again."""
    while True:
        order = torch.randperm(pairs)
        for start in range(0, max(pairs - _BATCH, 0) + 1, _BATCH):
            yield order[start : start + _BATCH]
