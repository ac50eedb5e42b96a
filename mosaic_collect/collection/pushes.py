"""Pushes while recording: noise moves a body by its actions only, and a push does not.

    row t: observations, actions, push ──▶ the push is added ──▶ step ──▶ row t + 1
                                           to the base's velocity

The row tells the push that comes between it and the next one. Everything random here has a
generator of its own: the simulation's numbers stay what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch

from mosaic_collect.collection.protocols import Observations, PolicyOutput, Simulation, StepResult
from mosaic_collect.collection.rollout import Rows
from mosaic_collect.errors import InputError
from mosaic_collect.store.schema import Field

#: What was added to the base's velocity behind the row, m/s along x and y of the world.
PUSH = Field(name="push", dim=2)
#: Of an environment to be pushed in a step: every half second of 50 Hz, on average.
CHANCE = 1 / 25


@runtime_checkable
class PushableSimulation(Simulation, Protocol):
    """A simulation whose robots can be pushed."""

    def push(self, velocity: torch.Tensor) -> None:
        """Add to the velocity of each environment's base, at once.

        Args:
            velocity: Shape ``(num_envs, 2)``, m/s along x and y of the world; where it is zero,
                nothing is touched.

        Raises:
            InputError: The robot is fixed to its world, or there is none.
        """


class Pushed:
    """A ``Simulation`` whose environments are pushed, each at times of its own.

    Args:
        simulation: Asked once, so that one that cannot push is refused before all else.
        largest: Standard deviation, m/s; each trajectory's own is drawn uniformly from 0 to it.
            0: nothing is pushed, nor drawn.
        seed: Of everything random here.

    Attributes:
        fields: What ``beside`` adds to a row.

    Raises:
        InputError: The simulation cannot push.
    """

    def __init__(self, simulation: Simulation, largest: float, seed: int) -> None:
        self._simulation, self._largest = simulation, largest
        self.num_envs, self.num_actions = simulation.num_envs, simulation.num_actions
        self.device = simulation.device
        self.fields: tuple[Field, ...] = (PUSH,) if largest else ()
        if largest:
            self._generator = torch.Generator(self.device).manual_seed(seed)
            self._push(torch.zeros(self.num_envs, 2, device=self.device))
            self._scale = self._scales()
            self._velocity = self._draw()

    def reset(self) -> Observations:
        return self._simulation.reset()

    def step(self, actions: torch.Tensor) -> StepResult:
        if not self._largest:
            return self._simulation.step(actions)
        self._push(self._velocity)
        result = self._simulation.step(actions)
        self._scale = torch.where(result.dones, self._scales(), self._scale)
        self._velocity = self._draw()
        return result

    def close(self) -> None:
        self._simulation.close()

    def beside(self, rows: Rows) -> Rows:
        """The same rows, with ``fields`` of the step that comes."""

        def more(observations: Observations, output: PolicyOutput) -> Mapping[str, torch.Tensor]:
            return {**rows(observations, output), PUSH.name: self._velocity}

        return more if self._largest else rows

    def _push(self, velocity: torch.Tensor) -> None:
        if not isinstance(self._simulation, PushableSimulation):
            raise InputError("push: expected a simulation that can push its robots, this cannot")
        self._simulation.push(velocity)

    def _scales(self) -> torch.Tensor:
        return self._largest * self._uniform()

    def _draw(self) -> torch.Tensor:
        """Of each environment, its next push; zeros for most."""
        kicks = torch.randn(self.num_envs, 2, generator=self._generator, device=self.device)
        pushed = self._uniform() < CHANCE
        return torch.where(pushed[:, None], self._scale[:, None] * kicks, 0.0)

    def _uniform(self) -> torch.Tensor:
        return torch.rand(self.num_envs, generator=self._generator, device=self.device)
