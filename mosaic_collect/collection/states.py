"""The simulator's own state at each row, so that the robot can be seen again.

    row t: observations, state ──▶ push, step ──▶ row t + 1

It is read once a row, with the observations that were acted on and before anything moves on: the
simulator overwrites it in place, and the writer has copied it by then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch

from mosaic_collect.collection.protocols import Observations, PolicyOutput, Simulation
from mosaic_collect.collection.rollout import Rows
from mosaic_collect.errors import InputError
from mosaic_collect.store.schema import Field

#: Fields of a state: generalised positions and velocities as the simulator orders them, and where
#: each environment's own origin lies in the world, m.
QPOS, QVEL, ORIGIN = "qpos", "qvel", "env_origin"


@runtime_checkable
class StatefulSimulation(Simulation, Protocol):
    """A simulation whose state can be read."""

    def state(self) -> Mapping[str, torch.Tensor]:
        """What it is in now: ``(num_envs, width)`` float32 of each field of a state."""


class States:
    """The simulation's state beside each row.

    Args:
        simulation: Has been reset.

    Attributes:
        fields: Fields that ``beside`` adds to a row.

    Raises:
        InputError: The simulation tells no state.
    """

    def __init__(self, simulation: Simulation) -> None:
        if not isinstance(simulation, StatefulSimulation):
            raise InputError("record_states: expected a simulation that tells its state, this one "
                             "does not")  # fmt: skip
        self._simulation = simulation
        self.fields = tuple(
            Field(name=name, dim=values.shape[1]) for name, values in simulation.state().items()
        )

    def beside(self, rows: Rows) -> Rows:
        """The same rows, with ``fields``."""

        def more(observations: Observations, output: PolicyOutput) -> Mapping[str, torch.Tensor]:
            return {**rows(observations, output), **self._simulation.state()}

        return more
