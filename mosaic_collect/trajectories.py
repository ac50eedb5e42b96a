"""Which trajectory each environment is in: the writer's account."""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.metadata import StoreState


class Trajectories:
    """Ids per environment; a new one after each end and after a resume, none used twice.

    Attributes:
        ids: int64 ``(num_envs,)``, the id that each environment's next step will have.
        next_id: The least id never used.
        ended: Trajectories that were ended, over the store's whole life.
    """

    def __init__(self, state: StoreState) -> None:
        first = state.next_trajectory_id
        self.ids: NDArray[np.int64] = np.arange(first, first + state.num_envs, dtype=np.int64)
        self.next_id = first + state.num_envs
        self.ended = state.num_trajectories
        self._begun = np.zeros(state.num_envs, dtype=bool)

    def step(self) -> None:
        """A step was added for every environment."""
        self._begun[:] = True

    def end(self, envs: NDArray[np.int64]) -> NDArray[np.int64]:
        """End the trajectories of these environments that have a step.

        Returns:
            The environments that were ended, shape ``(k,)``.
        """
        ended = envs[self._begun[envs]]
        self.ids[ended] = np.arange(self.next_id, self.next_id + len(ended))
        self.next_id += len(ended)
        self.ended += len(ended)
        self._begun[ended] = False
        return ended

    def open_bitmap(self) -> str:
        """Environments within a trajectory, as ``Run.open_envs`` has it."""
        return base64.b64encode(np.packbits(self._begun, bitorder="little").tobytes()).decode()
