"""Which trajectory each environment is in: the writer's account."""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.metadata import StoreState
from mosaic_collect.schema import GOES_ON


@dataclass(frozen=True)
class Trajectories:
    """Ids per environment; a new one after each end and after a resume, none used twice.

    A value, replaced as a whole: an interrupt finds the account before an end or the one after it.

    Attributes:
        ids: int64 ``(num_envs,)``, the id that each environment's next step will have.
        begins: int64 ``(num_envs,)``, the step from which each has that id.
        ends: uint8 ``(num_envs,)``, how each environment's trajectory before that one ended;
            ``GOES_ON`` if none did since the writer was opened.
        next_id: The least id never used.
        ended: Trajectories that were ended, over the store's whole life.
    """

    ids: NDArray[np.int64]
    begins: NDArray[np.int64]
    ends: NDArray[np.uint8]
    next_id: int
    ended: int

    @classmethod
    def after(cls, state: StoreState) -> Trajectories:
        """New ids for all, from the step at which the store ends."""
        first, num_envs = state.next_trajectory_id, state.num_envs
        return cls(
            ids=np.arange(first, first + num_envs, dtype=np.int64),
            begins=np.full(num_envs, state.committed_steps, dtype=np.int64),
            ends=np.full(num_envs, GOES_ON, dtype=np.uint8),
            next_id=first + num_envs,
            ended=state.num_trajectories,
        )

    def open_at(self, num_steps: int) -> NDArray[np.bool_]:
        """Which environments' trajectories have a step by then, bool ``(num_envs,)``."""
        return self.begins < num_steps

    def ended_at(self, num_steps: int) -> NDArray[np.int64]:
        """Environments whose trajectories ended with the last of so many steps."""
        return np.flatnonzero((self.begins == num_steps) & (self.ends != GOES_ON))

    def ending(
        self, envs: NDArray[np.int64], ends: NDArray[np.uint8], num_steps: int
    ) -> Trajectories:
        """The account once these environments' trajectories, open by then, have so ended there."""
        ids, begins, all_ends = self.ids.copy(), self.begins.copy(), self.ends.copy()
        ids[envs] = np.arange(self.next_id, self.next_id + len(envs))
        begins[envs], all_ends[envs] = num_steps, ends
        return replace(
            self,
            ids=ids,
            begins=begins,
            ends=all_ends,
            next_id=self.next_id + len(envs),
            ended=self.ended + len(envs),
        )

    def open_bitmap(self, num_steps: int) -> str:
        """Environments within a trajectory by then, as ``Run.open_envs`` has it."""
        bits = np.packbits(self.open_at(num_steps), bitorder="little")
        return base64.b64encode(bits.tobytes()).decode()
