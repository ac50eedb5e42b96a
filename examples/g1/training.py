"""Train a student: plain regression of what the expert would do on what the student sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice

import torch
from torch import nn

from mosaic_collect.sampling.loader import BatchLoader
from mosaic_collect.sampling.source import Stores

SEEN, LABEL = "student_observations", "action_mean"
_BATCH = 1024
_POOL_MB = 256


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
    stores: Stores,
    updates: int,
    seed: int = 0,
    on_update: Callable[[], object] | None = None,
    steps: slice | None = None,
) -> nn.Module:
    """Train on all valid pairs of stores of any size.

    Args:
        stores: With ``student_observations`` and ``action_mean``.
        updates: Of 1,024 pairs each.
        seed: Of weights and order.
        on_update: Called after each.
        steps: Of every store; None: all.
    """
    torch.manual_seed(seed)
    loader = BatchLoader(
        stores, _BATCH, [SEEN, LABEL], seed=seed, shuffle_buffer_mb=_POOL_MB, steps=steps
    )
    (mean, std), (label, _) = loader.moments(SEEN, LABEL).values()
    student = new_student(mean, std, len(label))
    fit(student, _endless(loader), updates, on_update)
    return student


def fit(
    student: nn.Module,
    batches: Iterable[Mapping[str, torch.Tensor]],
    updates: int,
    on_update: Callable[[], object] | None = None,
) -> None:
    """Train a new student on so many batches."""
    optimizer = torch.optim.Adam(student.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    for batch in islice(batches, updates):
        loss = nn.functional.mse_loss(student(batch[SEEN]), batch[LABEL])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if on_update is not None:
            on_update()


def _endless(loader: BatchLoader) -> Iterator[Mapping[str, torch.Tensor]]:
    """Epoch after epoch."""
    while True:
        yield from loader
