"""What the algorithm of MOSAIC's fork does with expert pairs, written anew from its behaviour.

A test double: a network, both losses, the switches, the loading of a whole file and the drawing of
rows of it. Everything else of the update is left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn


class Algorithm:
    """The attributes have the fork's names."""

    def __init__(
        self,
        num_obs: int,
        num_actions: int,
        *,
        seed: int = 0,
        expert_trajectory_path: str | None = None,
        lambda_off_policy: float = 0.5,
        lambda_off_policy_decay: float = 0.99,
        off_policy_batch_size: int = 256,
        expert_allow_repeat_sampling: bool = False,
        expert_loss_type: str = "mse",
        device: str = "cpu",
    ) -> None:
        torch.manual_seed(seed)
        self.device = device
        self.policy = nn.Sequential(
            nn.Linear(num_obs, 32), nn.ELU(), nn.Linear(32, num_actions)
        ).to(device)
        self.std = nn.Parameter(torch.full((num_actions,), 0.5, device=device))
        self.optimizer = torch.optim.Adam([*self.policy.parameters(), self.std], lr=3e-3)
        self.gpu_global_rank, self.gpu_world_size = 0, 1
        self.hybrid = True
        self.expert_trajectory_path = expert_trajectory_path
        self.lambda_off_policy_current = lambda_off_policy
        self.lambda_off_policy_decay = lambda_off_policy_decay
        self.off_policy_batch_size = off_policy_batch_size
        self.expert_allow_repeat_sampling = expert_allow_repeat_sampling
        self.expert_loss_type = expert_loss_type
        self.use_off_policy_bc = expert_trajectory_path is not None
        self.expert_data: dict[str, torch.Tensor] | None = None
        self.summaries: list[bool] = []
        if self.use_off_policy_bc:
            self._load_expert_trajectories()

    def _load_expert_trajectories(self) -> None:
        """All of the file, flat, on the device; the student's observations if there are some.

        A view takes no copy, and fails where memory is not in C order.
        """
        assert isinstance(self.expert_trajectory_path, str)
        assert self.expert_trajectory_path.endswith(".npy")
        data = np.load(self.expert_trajectory_path, allow_pickle=True).item()
        names = {n: n for n in ("observations", "actions", "action_mean", "action_sigma")}
        if "student_observations" in data:
            names["observations"] = "student_observations"
        self.expert_data = {
            key: torch.from_numpy(data[name]).to(self.device).view(-1, data[name].shape[-1])
            for key, name in names.items()
        }

    def _print_init_summary(self) -> None:
        self.summaries.append(self.use_off_policy_bc)

    def _sample_expert_batch(self) -> dict[str, torch.Tensor] | None:
        if not self.use_off_policy_bc or self.expert_data is None:
            return None
        total, size = len(self.expert_data["actions"]), self.off_policy_batch_size
        if self.expert_allow_repeat_sampling:
            rows = torch.randint(0, total, (size,))
        else:
            rows = torch.randperm(total)[: min(size, total)]
        return {key: values[rows] for key, values in self.expert_data.items()}

    def update(self, mini_batches: int = 4) -> dict[str, Any]:
        """One iteration: the mean loss of its mini-batches."""
        losses = []
        for _ in range(mini_batches):
            loss = torch.zeros(())
            if self.use_off_policy_bc and self.lambda_off_policy_current > 0:
                batch = self._sample_expert_batch()
                if batch is not None and "observations" in batch:
                    loss = self._loss(batch)
                    self.optimizer.zero_grad()
                    (self.lambda_off_policy_current * loss).backward()
                    self.optimizer.step()
            losses.append(loss.item())
        if self.use_off_policy_bc:
            self.lambda_off_policy_current *= self.lambda_off_policy_decay
        return {
            "bc_off_policy": sum(losses) / mini_batches,
            "lambda_off_policy": self.lambda_off_policy_current,
        }

    def _loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        mean = self.policy(batch["observations"])
        if self.expert_loss_type == "mse":
            return nn.functional.mse_loss(mean, batch["action_mean"])
        ours = torch.distributions.Normal(mean, self.std.expand_as(mean))
        theirs = torch.distributions.Normal(batch["action_mean"], batch["action_sigma"])
        return torch.distributions.kl_divergence(ours, theirs).mean()
