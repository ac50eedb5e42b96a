"""What the scripts that make experts share: an actor is regressed on a teacher, and saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict

Policy = Callable[[TensorDict], torch.Tensor]
"""Maps observations of N environments to actions (N, 29)."""


def regress(
    actor: Any,
    as_input: Callable[[torch.Tensor], TensorDict],
    seen: torch.Tensor,
    labels: torch.Tensor,
    steps: int,
) -> float:
    """Fit the mean of rsl_rl's actor to labels, its normaliser to all observations.

    Args:
        actor: The actor.
        as_input: Makes the actor's input of rows of ``seen``.
        seen: Observations (S, 160).
        labels: Actions to learn (S, 29).
        steps: Number of gradient steps.

    Returns:
        Root mean square error of the last tenth of the steps.
    """
    actor.train()
    actor.obs_normalizer.count.zero_()  # an update then forgets what was before
    actor.update_normalization(as_input(seen))
    optimizer = torch.optim.Adam(actor.mlp.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=1e-5)
    losses = []
    for _ in range(steps):
        pick = torch.randint(len(seen), (512,))
        loss = (actor(as_input(seen[pick])) - labels[pick]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    last = losses[-max(1, steps // 10) :]
    return float((sum(last) / len(last)) ** 0.5)


def save_actor(runner: Any, path: Path, infos: Any = None) -> None:
    """Save an rsl_rl checkpoint without the untrained critic and the optimiser.

    Read it with ``runner.load(path, load_cfg={"actor": True}, ...)``.
    """
    runner.save(str(path), infos)
    checkpoint = torch.load(path, map_location="cpu", weights_only=False)
    torch.save({key: checkpoint[key] for key in ("actor_state_dict", "iter", "infos")}, path)
