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
from typing import Any, Protocol, TypeAlias

import torch

from mosaic_collect.collection.motion_queue import MotionQueue
from mosaic_collect.errors import InputError
from mosaic_collect.reading.terms import Term
from mosaic_collect.store.robot import Robot
from mosaic_collect.store.schema import Field

#: Group name -> tensor ``(num_envs, dim)``, or of images ``(num_envs, *axes)``; a TensorDict is
#: one, too. What else it may hold is not looked at.
Observations: TypeAlias = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class PolicyOutput:
    """Answer of a policy to one step's observations; all ``(num_envs, num_actions)``.

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
    """Result of a simulation's step.

    Attributes:
        observations: Observations to act on next; the first of a new episode where one ended.
        dones: Environments that ended an episode with this step, ``(num_envs,)``, bool.
        time_outs: Environments of these that ended by a time-out, ``(num_envs,)``, bool.
        rewards: Rewards of the step, ``(num_envs,)``.
        final: Observations before the reset, which count for ``dones``; None: not known.
    """

    observations: Observations
    dones: torch.Tensor
    time_outs: torch.Tensor
    rewards: torch.Tensor
    final: Observations | None = None


@dataclass(frozen=True)
class FieldReader:
    """Reads some fields of each row.

    Attributes:
        fields: The fields.
        before: Reads values with the observations that the row's action answers.
        after: Reads values when the row's action was taken.
        terms: Named columns per field, where they are known.
    """

    fields: tuple[Field, ...] = ()
    before: Callable[[Observations], Mapping[str, torch.Tensor]] = lambda observations: {}
    after: Callable[[StepResult], Mapping[str, torch.Tensor]] | None = None
    terms: Mapping[str, Sequence[Term]] = field(default_factory=dict)


class Policy(Protocol):
    """A policy in evaluation mode, with its normalisers applied."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of one environment's row per group, in the order in which it reads the groups."""

    def act(self, observations: Observations) -> PolicyOutput:
        """Answer one step's observations with exactly one forward, so that memories advance once.

        Runs without gradients. A group that is missing or has another width than in training is an
        ``InputError``.
        """

    def reset(self, dones: torch.Tensor) -> None:
        """Forget what recurrent memories hold of these environments, ``(num_envs,)`` bool."""


class Simulation(Protocol):
    """Vectorised environments that reset themselves when an episode ends.

    A subclass inherits a default for all that a simulator may not know.

    Attributes:
        num_envs: Environments, N.
        num_actions: Width of an action, A.
        device: Device of observations and actions.
        tracker: Tracker of the episodes.
    """

    num_envs: int
    num_actions: int
    device: torch.device
    tracker: EpisodeTracker

    def reset(self) -> Observations:
        """Begin new episodes in all environments."""

    def step(self, actions: torch.Tensor) -> StepResult:
        """Take actions ``(num_envs, num_actions)``."""

    def close(self) -> None:
        """Give back what the simulator took."""

    @property
    def group_dims(self) -> Mapping[str, int]:
        """Width of each group whose rows are flat, known before the first observation."""

    @property
    def group_terms(self) -> Mapping[str, Sequence[Term]]:
        """The terms of those groups of which it knows them, in the order of columns."""
        return {}

    @property
    def robot(self) -> Robot | None:
        """Description of the robot; None: it is not known."""
        return None

    @property
    def has_final(self) -> bool:
        """Whether steps return the observations before a reset."""
        return False

    def extras(self) -> Mapping[str, FieldReader]:
        """Fields that only this simulation can record, by name."""
        return {}

    def disagreement(self, active: torch.Tensor) -> str | None:
        """Describe how reference and robot differ in these environments; None: they do not."""
        return None

    def failed_by(self, failed: torch.Tensor) -> Mapping[str, int]:
        """Count, per termination term, how many of these environments it ended just now."""
        return {}

    def push(self, velocity: torch.Tensor) -> None:
        """Add to the velocity of each environment's base, at once.

        ``velocity`` is ``(num_envs, 2)``, m/s along x and y of the world; where it is zero, nothing
        is touched. A robot that is fixed to its world, or none, is an ``InputError``.
        """
        raise InputError("push: expected a simulation that can push its robots, this cannot")


class EpisodeTracker:
    """Tracks what each environment is at; without motions all are at work."""

    fields: tuple[Field, ...] = ()  # that ``describe`` returns

    def __init__(self, num_envs: int, device: torch.device) -> None:
        self._all = torch.ones(num_envs, dtype=torch.bool, device=device)

    def ledger(self) -> Mapping[str, Any]:
        """Metadata to begin with; ``settle`` returns what changes of it."""
        return {}

    def active(self) -> torch.Tensor:
        """Environments whose next row counts, ``(N,)`` bool; the others idle."""
        return self._all

    def has_work(self) -> bool:
        """Whether an environment records, or will without being reset by the collector."""
        return bool(self.active().any())

    def describe(self) -> Mapping[str, torch.Tensor]:
        """Extra fields of the next row, ``(N,)`` each."""
        return {}

    def settle(self, result: StepResult, active: torch.Tensor) -> Mapping[str, Any]:
        """Count what ended of the rows that count; returns metadata that need these ends."""
        return {}


class MotionTracker(EpisodeTracker):
    """Base of the trackers of motions; each simulator's own knows who follows which."""

    fields = (Field(name="motion_id", dtype="int32"), Field(name="motion_frame", dtype="int32"))

    def __init__(self, queue: MotionQueue) -> None:
        self.queue = queue

    def ledger(self) -> Mapping[str, Any]:
        return self.queue.ledger()

    def following(self) -> tuple[torch.Tensor, ...]:
        """Motions, frames, and who is at its motion's end; copies, ``(N,)`` each.

        Motions and frames are int32. The last are those whose motion ends if they end by time.
        """
        raise NotImplementedError

    def describe(self) -> Mapping[str, torch.Tensor]:
        self._before = self.following()
        return {"motion_id": self._before[0], "motion_frame": self._before[1]}

    def settle(self, result: StepResult, active: torch.Tensor) -> Mapping[str, Any]:
        """Count the motions that ended; returns what changed of the ledger."""
        motions, _, at_end = self._before
        ended, completed = result.dones & active, result.time_outs & at_end
        if not bool(ended.any()):
            return {}
        for motion, done in zip(motions[ended].tolist(), completed[ended].tolist(), strict=True):
            self.queue.finish(motion, done)
        return {"motion_counts": self.queue.counts()}
