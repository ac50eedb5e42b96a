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

from dataclasses import replace

import torch

from mosaic_collect.collection.acting import Acting
from mosaic_collect.collection.groups import STUDENT
from mosaic_collect.collection.protocols import (
    Extra,
    Observations,
    Policy,
    PolicyOutput,
    Simulation,
    StepResult,
)
from mosaic_collect.collection.student import Student, load_student
from mosaic_collect.errors import InputError
from mosaic_collect.store.schema import Field

#: Standard deviation of the noise that was added to each action of the row, in its units.
ACTION_NOISE = Field(name="action_noise")
#: Whether the row's action, but for the noise, is the student's.
STUDENT_ACTED = Field(name="student_acted", dtype="bool")


class PerturbedPolicy:
    """A ``Policy`` with the mean and sigma of another one, and other actions."""

    def __init__(self, policy: Policy, simulation: Simulation, acting: Acting, seed: int) -> None:
        self._policy, self._acting, self.shapes = policy, acting, policy.shapes
        self._num_envs, self._device = simulation.num_envs, simulation.device
        self._generator = torch.Generator(self._device).manual_seed(seed)
        self._student: Student | None = None
        if acting.student_path is not None:
            dims = simulation.group_dims
            if STUDENT not in dims:
                raise InputError(
                    f"act_by: expected a group {STUDENT!r} to act on, got {', '.join(dims)}"
                )
            widths = dims[STUDENT], simulation.num_actions
            self._student = load_student(acting, self._num_envs, *widths, self._device)
        self._scale = self._uniform() * acting.action_noise
        self._row: dict[str, torch.Tensor] = {}
        wanted = {ACTION_NOISE: acting.action_noise, STUDENT_ACTED: self._student}
        fields = tuple(field for field, value in wanted.items() if value)
        self.extra = Extra(fields, before=lambda observations: self._row)

    def act(self, observations: Observations) -> PolicyOutput:
        output = self._policy.act(observations)
        actions = output.actions
        if self._student is not None:
            acts = self._uniform() < self._acting.student_share
            said = self._student(observations[STUDENT])
            actions = torch.where(acts[:, None], said.to(actions.dtype), actions)
            self._row[STUDENT_ACTED.name] = acts
        if self._acting.action_noise:
            device, dtype = actions.device, actions.dtype
            noise = torch.randn(
                actions.shape, generator=self._generator, device=device, dtype=dtype
            )
            actions = actions + self._scale[:, None] * noise
            self._row[ACTION_NOISE.name] = self._scale
        return replace(output, actions=actions)

    def reset(self, dones: torch.Tensor) -> None:
        """Forget, and draw a scale for the next trajectories of these environments."""
        self._policy.reset(dones)
        if self._acting.action_noise:
            drawn = self._uniform() * self._acting.action_noise
            self._scale = torch.where(dones, drawn, self._scale)

    def _uniform(self) -> torch.Tensor:
        return torch.rand(self._num_envs, generator=self._generator, device=self._device)


#: What was added to the base's velocity behind the row, m/s along x and y of the world.
PUSH = Field(name="push", dim=2)
#: Of an environment to be pushed in a step: every half second of 50 Hz, on average.
CHANCE = 1 / 25


class Pushes:
    """Steps a simulation and pushes its environments, each at times of its own.

    The standard deviation of each trajectory, m/s, is drawn uniformly from 0 to ``largest``; with 0
    nothing is pushed, nor drawn. A simulation that cannot push is refused here.
    """

    def __init__(self, simulation: Simulation, largest: float, seed: int) -> None:
        self._simulation, self._largest = simulation, largest
        self.extra = Extra()
        if largest:
            self.extra = Extra((PUSH,), before=lambda observations: {PUSH.name: self._velocity})
            self._generator = torch.Generator(simulation.device).manual_seed(seed)
            simulation.push(torch.zeros(simulation.num_envs, 2, device=simulation.device))
            self._scale = largest * self._uniform()
            self._velocity = self._draw()

    def step(self, actions: torch.Tensor) -> StepResult:
        """Push, and take actions ``(num_envs, num_actions)``."""
        if not self._largest:
            return self._simulation.step(actions)
        self._simulation.push(self._velocity)
        result = self._simulation.step(actions)
        self._scale = torch.where(result.dones, self._largest * self._uniform(), self._scale)
        self._velocity = self._draw()
        return result

    def _draw(self) -> torch.Tensor:
        """The next push of each environment; zeros for most."""
        like = self._scale[:, None].expand(-1, 2)
        kicks = torch.randn(like.shape, generator=self._generator, device=like.device)
        return torch.where((self._uniform() < CHANCE)[:, None], like * kicks, 0.0)

    def _uniform(self) -> torch.Tensor:
        num_envs, device = self._simulation.num_envs, self._simulation.device
        return torch.rand(num_envs, generator=self._generator, device=device)
