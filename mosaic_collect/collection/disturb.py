"""The policy of a collection: it labels as it was trained, and acts as it is asked to.

    observations ──▶ policy ──▶ mean, sigma ───────────────────────────▶ recorded, unchanged
                        └─────▶ actions ──┬─ or the student's ── + noise ──▶ executed, recorded
    student's group ──▶ student ──────────┘

Everything random here has a generator of its own: the simulation's numbers stay what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from mosaic_collect.collection.acting import Acting
from mosaic_collect.collection.protocols import Observations, Policy, PolicyOutput
from mosaic_collect.collection.rollout import STUDENT, Rows
from mosaic_collect.collection.student import Student
from mosaic_collect.store.schema import Field

#: Standard deviation of the noise that was added to each action of the row, in its units.
ACTION_NOISE = Field(name="action_noise")
#: Whether the row's action, but for the noise, is the student's.
STUDENT_ACTED = Field(name="student_acted", dtype="bool")


class Disturbed:
    """A ``Policy`` that says what another one says, and acts as it is asked to.

    Args:
        policy: Labels; its own actions are disturbed.
        acting: How.
        student: Acts in its share of the steps; None: nobody but the policy.
        num_envs: Environments, N.
        device: Of observations and actions.
        seed: Of everything random here.

    Attributes:
        fields: What ``beside`` adds to a row, ``(N,)`` each.
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
        self.fields: tuple[Field, ...] = ()
        if acting.action_noise:
            self.fields += (ACTION_NOISE,)
        if student is not None:
            self.fields += (STUDENT_ACTED,)

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

    def beside(self, rows: Rows) -> Rows:
        """The same rows, with ``fields`` of the step that was acted on last."""

        def more(observations: Observations, output: PolicyOutput) -> Mapping[str, torch.Tensor]:
            return {**rows(observations, output), **self._row}

        return more

    def _uniform(self) -> torch.Tensor:
        return torch.rand(self._num_envs, generator=self._generator, device=self._device)

    def _normal(self, like: torch.Tensor) -> torch.Tensor:
        return torch.randn(
            like.shape, generator=self._generator, device=like.device, dtype=like.dtype
        )
