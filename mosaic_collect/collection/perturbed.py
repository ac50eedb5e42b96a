"""Perturbations of a collection: action noise, a student that acts, and pushes; labels stay.

    observations ──▶ policy ──▶ mean, sigma ───────────────────────────▶ recorded, unchanged
                        └─────▶ actions ──┬─ or the student's ── + noise ──▶ executed, recorded
    student's group ──▶ student ──────────┘

    row t: observations, actions, push ──▶ the push is added ──▶ step ──▶ row t + 1
                                           to the base's velocity

The row stores the push that comes between it and the next one. All random numbers come from
generators of their own, so the simulation draws what it would draw without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from mosaic_collect.collection.acting import AS_TRAINED, Acting
from mosaic_collect.collection.groups import STUDENT
from mosaic_collect.collection.protocols import (
    FieldReader,
    Observations,
    Policy,
    PolicyOutput,
    Simulation,
    StepResult,
)
from mosaic_collect.collection.student import load_student
from mosaic_collect.store.schema import Field

#: Standard deviation of the noise that was added to each action of the row, in its units.
ACTION_NOISE = Field(name="action_noise")
#: Whether the row's action, but for the noise, is the student's.
STUDENT_ACTED = Field(name="student_acted", dtype="bool")
#: What was added to the base's velocity behind the row, m/s along x and y of the world.
PUSH = Field(name="push", dim=2)
#: Of an environment to be pushed in a step: every half second of 50 Hz, on average.
CHANCE = 1 / 25


class Perturbation:
    """A policy and a simulation, between which actions are changed and environments pushed.

    Mean and sigma stay the policy's. The standard deviations of noise and pushes are drawn for each
    trajectory, uniformly from 0 to those of ``acting``; each environment is pushed at times of its
    own. A simulation that cannot do what is asked is refused here. ``seeds`` are those of noise and
    student, and of pushes.
    """

    def __init__(
        self,
        policy: Policy,
        simulation: Simulation,
        acting: Acting = AS_TRAINED,
        seeds: Sequence[int] = (0, 0),
    ) -> None:
        self._policy, self.simulation, self._acting = policy, simulation, acting
        self._noise = _Scale(simulation, acting.action_noise, seeds[0])
        self._push = _Scale(simulation, acting.push, seeds[1])
        student = acting.student_path
        self._student = None if student is None else load_student(acting, simulation)
        self._row: dict[str, torch.Tensor] = {}
        if acting.push:
            simulation.push(torch.zeros(simulation.num_envs, 2, device=simulation.device))
            self._draw_pushes()
        wanted = (
            (ACTION_NOISE, acting.action_noise),
            (STUDENT_ACTED, student),
            (PUSH, acting.push),
        )
        self.reader = FieldReader(
            tuple(field for field, value in wanted if value), before=lambda observations: self._row
        )

    def act(self, observations: Observations) -> PolicyOutput:
        """Answer observations as the policy does, with other actions."""
        output = self._policy.act(observations)
        actions = output.actions
        if self._student is not None:
            acts = self._noise.uniform() < self._acting.student_share
            said = self._student(observations[STUDENT])
            actions = torch.where(acts[:, None], said.to(actions.dtype), actions)
            self._row[STUDENT_ACTED.name] = acts
        if self._acting.action_noise:
            actions = actions + self._noise.normal(actions.shape[1], actions.dtype)
            self._row[ACTION_NOISE.name] = self._noise.scale
        return replace(output, actions=actions)

    def step(self, actions: torch.Tensor) -> StepResult:
        """Push, and take actions ``(num_envs, num_actions)``."""
        if self._acting.push:
            self.simulation.push(self._row[PUSH.name])
        return self.simulation.step(actions)

    def reset(self, dones: torch.Tensor) -> None:
        """Forget these environments, ``(num_envs,)`` bool, and draw for what comes next."""
        self._policy.reset(dones)
        if self._acting.action_noise:
            self._noise.redraw(dones)
        if self._acting.push:
            self._push.redraw(dones)
            self._draw_pushes()

    def _draw_pushes(self) -> None:
        """Draw the next push of each environment; zeros for most."""
        kicks = self._push.normal(2)
        comes = self._push.uniform() < CHANCE
        self._row[PUSH.name] = torch.where(comes[:, None], kicks, 0.0)


class _Scale:
    """A standard deviation per environment, uniform from 0 to ``largest``, and noise of it."""

    def __init__(self, simulation: Simulation, largest: float, seed: int) -> None:
        self._num_envs, self._device = simulation.num_envs, simulation.device
        self._largest = largest
        self._generator = torch.Generator(self._device).manual_seed(seed)
        self.scale = largest * self.uniform()

    def uniform(self) -> torch.Tensor:
        """Draw a number from 0 to 1 per environment."""
        return torch.rand(self._num_envs, generator=self._generator, device=self._device)

    def normal(self, dim: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Draw noise of shape ``(num_envs, dim)``."""
        size, rng = (self._num_envs, dim), self._generator
        noise = torch.randn(size, generator=rng, device=self._device, dtype=dtype)
        return self.scale[:, None] * noise

    def redraw(self, dones: torch.Tensor) -> None:
        """Draw the scale of the next trajectories of these environments, ``(num_envs,)`` bool."""
        self.scale = torch.where(dones, self._largest * self.uniform(), self.scale)
