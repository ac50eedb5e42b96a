"""Which trajectory each environment is in: the writer's account."""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.metadata import StoreState


@dataclass(frozen=True)
class Trajectories:
    """Ids per environment; a new one after each end and after a resume, none used twice.

    A value, replaced as a whole: an interrupt finds the account before an end or the one after it.

    Attributes:
        ids: int64 ``(num_envs,)``, the id that each environment's next step will have.
        begins: int64 ``(num_envs,)``, the step from which each has that id.
        next_id: The least id never used.
        ended: Trajectories that were ended, over the store's whole life.
    """

    ids: NDArray[np.int64]
    begins: NDArray[np.int64]
    next_id: int
    ended: int

    @classmethod
    def after(cls, state: StoreState) -> Trajectories:
        """New ids for all, from the step at which the store ends."""
        first, num_envs = state.next_trajectory_id, state.num_envs
        return cls(
            ids=np.arange(first, first + num_envs, dtype=np.int64),
            begins=np.full(num_envs, state.committed_steps, dtype=np.int64),
            next_id=first + num_envs,
            ended=state.num_trajectories,
        )

    def open_at(self, num_steps: int) -> NDArray[np.bool_]:
        """Which environments' trajectories have a step by then, bool ``(num_envs,)``."""
        return self.begins < num_steps

    def ending(self, envs: NDArray[np.int64], num_steps: int) -> Trajectories:
        """The account once these environments' trajectories, open by then, have ended there."""
        ids, begins = self.ids.copy(), self.begins.copy()
        ids[envs] = np.arange(self.next_id, self.next_id + len(envs))
        begins[envs] = num_steps
        return replace(
            self,
            ids=ids,
            begins=begins,
            next_id=self.next_id + len(envs),
            ended=self.ended + len(envs),
        )

    def open_bitmap(self, num_steps: int) -> str:
        """Environments within a trajectory by then, as ``Run.open_envs`` has it."""
        bits = np.packbits(self.open_at(num_steps), bitorder="little")
        return base64.b64encode(bits.tobytes()).decode()
