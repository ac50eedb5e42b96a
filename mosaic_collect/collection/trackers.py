"""What each environment is at while a rollout goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mosaic_collect.collection.motion_queue import MotionQueue
from mosaic_collect.collection.protocols import StepResult
from mosaic_collect.store.schema import Field


class EpisodeTracker:
    """Tracks what each environment is at; this one is for tasks without motions: all are at work.

    Attributes:
        fields: The extra fields that ``describe`` returns.
    """

    fields: tuple[Field, ...] = ()

    def __init__(self, num_envs: int, device: torch.device) -> None:
        self._all = torch.ones(num_envs, dtype=torch.bool, device=device)

    def ledger(self) -> Mapping[str, Any]:
        """Metadata to begin with; ``settle`` returns what changes of it."""
        return {}

    def active(self) -> torch.Tensor:
        """Environments whose next row counts, ``(N,)`` bool; the others idle."""
        return self._all

    def has_work(self) -> bool:
        """Whether an environment records, or will without being reset by the collector."""
        return bool(self.active().any())

    def describe(self) -> Mapping[str, torch.Tensor]:
        """Extra fields of the next row, ``(N,)`` each."""
        return {}

    def settle(self, result: StepResult) -> Mapping[str, Any]:
        """Count what ended; returns metadata that are true with these ends only."""
        return {}


class MotionTracker(EpisodeTracker):
    """Base of the trackers of motions; each simulator's own knows who follows which."""

    fields = (Field(name="motion_id", dtype="int32"), Field(name="motion_frame", dtype="int32"))

    def __init__(self, queue: MotionQueue) -> None:
        self.queue = queue

    def ledger(self) -> Mapping[str, Any]:
        return self.queue.ledger()

    def finish(
        self, motions: torch.Tensor, ended: torch.Tensor, completed: torch.Tensor
    ) -> Mapping[str, Any]:
        """Tell the queue how trajectories ended; returns what changed of the ledger.

        Args:
            motions: Each environment's motion by its id, ``(N,)``.
            ended: Environments whose trajectory ended, ``(N,)`` bool.
            completed: Environments of these that reached the motion's end, ``(N,)`` bool.
        """
        if not bool(ended.any()):
            return {}
        for motion, done in zip(motions[ended].tolist(), completed[ended].tolist(), strict=True):
            self.queue.finish(motion, done)
        return {"motion_counts": self.queue.counts()}
