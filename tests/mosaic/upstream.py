"""What MOSAIC's own collector does, written anew from its documented behaviour, faults included.

A test double beside our collector: it keeps everything in lists and saves with NumPy's own pickle.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mosaic_collect import ExpertTrajectoryCollector

N, OBS, ACT, STUDENT = 4, 5, 3, 7


def ours(folder: Path, student: int | None = None, **more: Any) -> ExpertTrajectoryCollector:
    """Our collector, with a store in a folder."""
    options = {"store": folder / "s.zarr", "buffer_mb": 1, **more}
    return ExpertTrajectoryCollector(OBS, ACT, student, **options)


class UpstreamCollector:
    """Lists of CPU tensors; ``cpu()`` of a CPU tensor is that tensor, not a copy."""

    OPTIONAL = ("action_mean", "action_sigma")

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        student_obs_dim: int | None = None,
        max_trajectories: int = 1000,
        device: str = "cpu",
    ) -> None:
        self.obs_dim, self.action_dim, self.student_obs_dim = obs_dim, action_dim, student_obs_dim
        self.max_trajectories, self.device = max_trajectories, device
        self.clear()

    def clear(self) -> None:
        self.rows: dict[str, list[torch.Tensor]] = {}
        self.masks: list[torch.Tensor] = []
        self.num_steps = self.num_trajectories = 0

    def add_step(
        self,
        observations: torch.Tensor,
        actions: torch.Tensor,
        action_mean: torch.Tensor | None = None,
        action_sigma: torch.Tensor | None = None,
        student_observations: torch.Tensor | None = None,
        valid_mask: torch.Tensor | None = None,
    ) -> None:
        if self.num_trajectories >= self.max_trajectories:
            return
        row = {"observations": observations, "actions": actions}
        row["action_mean"] = actions if action_mean is None else action_mean
        row["action_sigma"] = (
            torch.full_like(actions, 0.01) if action_sigma is None else action_sigma
        )
        if student_observations is not None and self.student_obs_dim is not None:
            row["student_observations"] = student_observations
        for key, value in row.items():
            self.rows.setdefault(key, []).append(value.cpu())
        if valid_mask is None:
            self.num_steps += len(actions)
        else:
            self.masks.append(valid_mask.cpu().bool())
            self.num_steps += int(valid_mask.bool().sum())

    def mark_trajectory_end(self, count: int = 1) -> None:
        self.num_trajectories += count

    def save(self, save_path: str) -> None:
        np.save(save_path, np.array(self.content(), dtype=object), allow_pickle=True)

    def content(self) -> dict[str, Any]:
        found: dict[str, Any] = {k: torch.stack(v).numpy() for k, v in self.rows.items()}
        if self.masks:
            if len(self.masks) != len(self.rows["observations"]):
                raise ValueError("valid_mask count does not match collected steps.")
            found["valid_mask"] = torch.stack(self.masks).numpy()
        dims = {"observations": self.obs_dim}
        if self.student_obs_dim is not None:
            dims["student_observations"] = self.student_obs_dim
        found["metadata"] = {
            "num_trajectories": self.num_trajectories,
            "num_steps": self.num_steps,
            "obs_dim_dict": dims,
            "action_dim": self.action_dim,
            "has_valid_mask": bool(self.masks),
        }
        return found

    def get_statistics(self) -> dict[str, Any]:
        held = [t for tensors in (*self.rows.values(), self.masks) for t in tensors]
        return {
            "num_trajectories": self.num_trajectories,
            "num_steps": self.num_steps,
            "avg_steps_per_trajectory": self.num_steps / max(1, self.num_trajectories),
            "obs_dim": self.obs_dim,
            "student_obs_dim": self.student_obs_dim,
            "action_dim": self.action_dim,
            "memory_usage_mb": sum(t.nbytes for t in held) / 1024 / 1024,
        }
