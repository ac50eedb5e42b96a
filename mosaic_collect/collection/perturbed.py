"""Perturbations of a collection: action noise, a student that acts, and pushes; labels stay.

    observations ──▶ policy ──▶ mean, sigma ───────────────────────────▶ recorded, unchanged
                        └─────▶ actions ──┬─ or the student's ── + noise ──▶ executed, recorded
    student's group ──▶ student ──────────┘

    row t: observations, actions, push ──▶ the push is added ──▶ step ──▶ row t + 1
                                           to the base's velocity

Noise moves a body by its actions only, and a push does not. The row stores the push that comes
between it and the next one. All random numbers here come from generators of their own: the
simulation's numbers stay what they are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch

from mosaic_collect.collection.acting import Acting
from mosaic_collect.collection.protocols import (
    Extra,
    Observations,
    Policy,
    PolicyOutput,
    Simulation,
    StepResult,
)
from mosaic_collect.collection.rollout import STUDENT
from mosaic_collect.collection.student import Student
from mosaic_collect.errors import InputError
from mosaic_collect.store.schema import Field

#: Standard deviation of the noise that was added to each action of the row, in its units.
ACTION_NOISE = Field(name="action_noise")
#: Whether the row's action, but for the noise, is the student's.
STUDENT_ACTED = Field(name="student_acted", dtype="bool")


class PerturbedPolicy:
    """A ``Policy`` that says what another one says, and acts as it is asked to.

    Args:
        policy: Labels; its own actions are disturbed.
        acting: How.
        student: Acts in its share of the steps; None: nobody but the policy.
        num_envs: Environments, N.
        device: Device of observations and actions.
        seed: Seed of all random numbers of this class.

    Attributes:
        extra: Fields of a row, ``(N,)`` each.
    """

    def __init__(
        self,
        policy: Policy,
        acting: Acting,
        student: Student | None,
        num_envs: int,
        device: torch.device,
        seed: int,
    ) -> None:
        self._policy, self._acting, self._student = policy, acting, student
        self._generator = torch.Generator(device).manual_seed(seed)
        self._num_envs, self._device = num_envs, device
        self._scale = self._uniform() * acting.action_noise
        self._row: dict[str, torch.Tensor] = {}
        wanted = (ACTION_NOISE, bool(acting.action_noise)), (STUDENT_ACTED, student is not None)
        fields = tuple(field for field, is_wanted in wanted if is_wanted)
        self.extra = Extra(fields, before=lambda observations: self._row)

    def act(self, observations: Observations) -> PolicyOutput:
        output = self._policy.act(observations)
        actions = output.actions
        if self._student is not None:
            acts = self._uniform() < self._acting.share
            said = self._student(observations[STUDENT])
            actions = torch.where(acts[:, None], said.to(actions.dtype), actions)
            self._row[STUDENT_ACTED.name] = acts
        if self._acting.action_noise:
            actions = actions + self._scale[:, None] * self._normal(actions)
            self._row[ACTION_NOISE.name] = self._scale
        return replace(output, actions=actions)

    def reset(self, dones: torch.Tensor) -> None:
        """Their next trajectories have a scale of their own, too."""
        self._policy.reset(dones)
        if self._acting.action_noise:
            drawn = self._uniform() * self._acting.action_noise
            self._scale = torch.where(dones, drawn, self._scale)

    def _uniform(self) -> torch.Tensor:
        return torch.rand(self._num_envs, generator=self._generator, device=self._device)

    def _normal(self, like: torch.Tensor) -> torch.Tensor:
        return torch.randn(
            like.shape, generator=self._generator, device=like.device, dtype=like.dtype
        )


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


class PushedSimulation:
    """A ``Simulation`` whose environments are pushed, each at times of its own.

    Args:
        simulation: Asked once, so that one that cannot push is refused before all else.
        largest: Standard deviation, m/s; each trajectory's own is drawn uniformly from 0 to it.
            0: nothing is pushed, nor drawn.
        seed: Seed of all random numbers of this class.

    Attributes:
        extra: Fields of a row.

    Raises:
        InputError: The simulation cannot push.
    """

    def __init__(self, simulation: Simulation, largest: float, seed: int) -> None:
        self._simulation, self._largest = simulation, largest
        self.num_envs, self.num_actions = simulation.num_envs, simulation.num_actions
        self.device = simulation.device
        self.extra = Extra()
        if largest:
            self.extra = Extra((PUSH,), before=lambda observations: {PUSH.name: self._velocity})
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
