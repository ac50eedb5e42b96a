"""What a rollout loop needs of a simulation and of a policy.

    observations = simulation.reset()
    while collecting:
        output = policy.act(observations)               one forward a step
        record(observations, output)                    the very tensors that were acted on
        result = simulation.step(output.actions)
        policy.reset(result.dones)
        observations = result.observations              of done environments: after their reset

One observation object a step: it comes from ``reset`` once and then from each ``step``, and feeds
the policy and the record alike. There is no call that computes observations again, because noise
would be drawn again and histories would advance twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

import torch

from mosaic_collect.reading.terms import Term
from mosaic_collect.store.schema import Field

#: Group name -> tensor ``(num_envs, dim)``, or of images ``(num_envs, *axes)``; a TensorDict is
#: one, too. What else it may hold is not looked at.
Observations: TypeAlias = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class PolicyOutput:
    """What a policy says to one step's observations; all ``(num_envs, num_actions)``.

    Attributes:
        actions: To be taken.
        mean: Mean of the action distribution.
        sigma: Its standard deviation, in the units of the actions.
    """

    actions: torch.Tensor
    mean: torch.Tensor
    sigma: torch.Tensor


@dataclass(frozen=True)
class StepResult:
    """What a simulation says after a step.

    Attributes:
        observations: Observations to act on next; the first of a new episode where one ended.
        dones: Environments that ended an episode with this step, ``(num_envs,)``, bool.
        time_outs: Environments of these that ended by a time-out, ``(num_envs,)``, bool.
        rewards: Rewards of the step, ``(num_envs,)``; None: not known.
        final: Observations before the reset, which count for ``dones``; None: not known.
    """

    observations: Observations
    dones: torch.Tensor
    time_outs: torch.Tensor
    rewards: torch.Tensor | None = None
    final: Observations | None = None


@dataclass(frozen=True)
class Extra:
    """Fields that are recorded together, by one name.

    Attributes:
        fields: The fields.
        before: Reads their values with the observations that the row's action answers.
        after: Reads their values when the row's action was taken.
        terms: Named columns per field, where they are known.
    """

    fields: tuple[Field, ...] = ()
    before: Callable[[Observations], Mapping[str, torch.Tensor]] | None = None
    after: Callable[[StepResult], Mapping[str, torch.Tensor]] | None = None
    terms: Mapping[str, Sequence[Term]] = field(default_factory=dict)


@runtime_checkable
class Policy(Protocol):
    """A policy in evaluation mode, with its normalisers applied."""

    def act(self, observations: Observations) -> PolicyOutput:
        """Answer one step's observations with exactly one forward, so that memories advance once.

        Runs without gradients.

        Raises:
            InputError: An observation group is missing or has another width than in training.
        """

    def reset(self, dones: torch.Tensor) -> None:
        """Forget what recurrent memories hold of these environments.

        Args:
            dones: Shape ``(num_envs,)``, bool.
        """


@runtime_checkable
class Simulation(Protocol):
    """Vectorised environments that reset themselves when an episode ends.

    Attributes:
        num_envs: Environments, N.
        num_actions: Width of an action, A.
        device: Device of observations and actions.
    """

    @property
    def num_envs(self) -> int: ...

    @property
    def num_actions(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def reset(self) -> Observations:
        """Begin new episodes in all environments."""

    def step(self, actions: torch.Tensor) -> StepResult:
        """Take actions ``(num_envs, num_actions)``."""

    def close(self) -> None:
        """Give back what the simulator took; a second call does nothing."""
