"""A simulation and a policy that are easy to follow, and as careless as real ones may be.

Each environment plays episodes of given lengths, one after the other, and idles when it has none
left. Every tensor that the simulation or the policy hands out is a buffer of its own that it
overwrites later: whoever keeps one without a copy sees other values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mosaic_collect import TrajectoryDataset
from mosaic_collect.collection.protocols import (
    EpisodeTracker,
    Observations,
    PolicyOutput,
    Simulation,
    StepResult,
)
from mosaic_collect.collection.ranks import refuse_changes
from mosaic_collect.collection.record import record
from mosaic_collect.store.schema import Field, Schema
from tests import helpers

OBS_DIM, ACTION_DIM, STUDENT_DIM = 4, 2, 3
EXTRA = (Field(name="motion_id", dtype="int32"), Field(name="motion_frame", dtype="int32"))
SCHEMA = Schema.mosaic(OBS_DIM, ACTION_DIM, STUDENT_DIM, EXTRA).with_ends()
GROUPS = {"policy": 3, "extra": 1}  # together the teacher's observations
#: Provenance of a collection, as its store's metadata contain it.
ORIGIN: Mapping[str, Any] = {
    "simulator": "mjlab",
    "task": "Track",
    "observations": {"teacher_noise": True, "student_history": 5, "student_noise": True},
    "ranks": [0, 1],
    "checkpoint": {"path": "/models/m.pt", "sha256": "ab"},
}


class ToySimulation(Simulation):
    """Environments with lists of episodes.

    Args:
        episodes: Per environment, the lengths of its episodes; after them it idles.
        falls: (environment, episode) that end by a fall and not by time.

    Attributes:
        idle: Live ``(N,)`` bool, changed in place by ``step``.
        episode, frame: Live ``(N,)`` int32, likewise.
        resets, computed: How often observations were asked for, and worked out.
        taken: Per step, a copy of the actions.
    """

    def __init__(
        self, episodes: Sequence[Sequence[int]], falls: Sequence[tuple[int, int]] = ()
    ) -> None:
        self.num_envs, self.num_actions = len(episodes), ACTION_DIM
        self.device = torch.device("cpu")
        self._episodes, self._falls = episodes, set(falls)
        self._generator = torch.Generator().manual_seed(0)
        self._groups = {
            "policy": torch.zeros(self.num_envs, GROUPS["policy"]),
            "extra": torch.zeros(self.num_envs, GROUPS["extra"]),
            "student": torch.zeros(self.num_envs, STUDENT_DIM),
        }
        self._dones = torch.zeros(self.num_envs, dtype=torch.bool)
        self._time_outs = torch.zeros(self.num_envs, dtype=torch.bool)
        self._rewards = torch.zeros(self.num_envs)
        self.idle = torch.zeros(self.num_envs, dtype=torch.bool)
        self.episode = torch.zeros(self.num_envs, dtype=torch.int32)
        self.frame = torch.zeros(self.num_envs, dtype=torch.int32)
        self.resets = self.computed = 0
        self.taken: list[torch.Tensor] = []
        self.closed = False
        self.tracker = ToyTracker(self)

    @property
    def group_dims(self) -> dict[str, int]:
        return {name: buffer.shape[1] for name, buffer in self._groups.items()}

    def failed_by(self, failed: torch.Tensor) -> dict[str, int]:
        return {"fall": int(failed.sum())}

    def reset(self) -> Observations:
        self.resets += 1
        self.episode.zero_()
        self.frame.zero_()
        for env, lengths in enumerate(self._episodes):
            self.idle[env] = not lengths
        return self._observe()

    def step(self, actions: torch.Tensor) -> StepResult:
        self.taken.append(actions.clone())
        self._rewards.copy_(self._place())
        final = {name: (self._rewards + 1)[:, None].expand(-1, width) for name, width in
                 self.group_dims.items()}  # fmt: skip
        for env in range(self.num_envs):
            self._advance(env)
        actions.fill_(-1.0)  # some simulators scale and clip in place
        return StepResult(self._observe(), self._dones, self._time_outs, self._rewards, final)

    def close(self) -> None:
        self.closed = True

    def _advance(self, env: int) -> None:
        lengths, at = self._episodes[env], int(self.episode[env])
        length = 3 if bool(self.idle[env]) else lengths[at]
        self.frame[env] += 1
        done = int(self.frame[env]) == length
        self._dones[env] = done
        self._time_outs[env] = done and (env, at) not in self._falls
        if done:
            self.frame[env] = 0
            if not bool(self.idle[env]):
                self.episode[env] += 1
                self.idle[env] = at + 1 == len(lengths)

    def _observe(self) -> Observations:
        """New values, with noise of their own, in the same buffers."""
        self.computed += 1
        for buffer in self._groups.values():
            noise = torch.rand(buffer.shape, generator=self._generator)
            buffer.copy_(self._place()[:, None] + noise)
        return self._groups

    def _place(self) -> torch.Tensor:
        """Number of each environment, episode and frame, which observations and rewards show."""
        return 100.0 * torch.arange(self.num_envs) + 10.0 * self.episode + self.frame


class ToyPolicy(torch.nn.Module):
    """Linear on normalised observations; remembers what it was given.

    Attributes:
        seen: Per step, a copy of the teacher's observations, ``(N, OBS_DIM)``.
        said: Per step, copies of the actions, mean and sigma.
        told: Per step, the environments whose memory was to be forgotten.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.rand(OBS_DIM, ACTION_DIM, generator=generator) - 0.5
        self.mean = torch.full((OBS_DIM,), 50.0)
        self.std = torch.full((OBS_DIM,), 40.0)
        self.shapes = {name: (dim,) for name, dim in GROUPS.items()}
        self._outputs: list[torch.Tensor] = []
        self.seen: list[torch.Tensor] = []
        self.said: list[tuple[torch.Tensor, ...]] = []
        self.told: list[list[int]] = []

    def act(self, observations: Observations) -> PolicyOutput:
        seen = torch.cat([observations[name] for name in GROUPS], dim=-1)
        mean = ((seen - self.mean) / self.std) @ self.weight
        values = (mean.clone(), mean, mean.abs() + 0.1)
        if not self._outputs:
            self._outputs = [torch.empty_like(v) for v in values]
        for buffer, value in zip(self._outputs, values, strict=True):
            buffer.copy_(value)
        self.seen.append(seen.clone())
        self.said.append(tuple(v.clone() for v in values))
        return PolicyOutput(*self._outputs)

    def reset(self, dones: torch.Tensor) -> None:
        self.told.append(torch.nonzero(dones).flatten().tolist())


class ToyTracker(EpisodeTracker):
    """Of a ``ToySimulation``; hands out its live buffers."""

    fields = EXTRA

    def __init__(self, simulation: ToySimulation) -> None:
        self._simulation = simulation
        self.settled: list[tuple[list[bool], list[bool]]] = []

    def ledger(self) -> Mapping[str, Any]:
        return {"settled": 0}

    def active(self) -> torch.Tensor:
        self._active = ~self._simulation.idle
        return self._active

    def describe(self) -> Mapping[str, torch.Tensor]:
        simulation = self._simulation
        return {"motion_id": simulation.episode, "motion_frame": simulation.frame}

    def settle(self, result: StepResult, active: torch.Tensor) -> Mapping[str, Any]:
        self._active.fill_(False)  # its own buffer, of which it may do as it likes
        self.settled.append((result.dones.tolist(), result.time_outs.tolist()))
        return {"settled": len(self.settled)}


def collected(
    store: Any,
    simulation: ToySimulation,
    policy: Any = None,
    origin: Mapping[str, Any] = ORIGIN,
    max_steps: int = 100,
    resume: bool = False,
    **options: Any,
) -> TrajectoryDataset:
    """Record a simulation, or go on; gives the store. Options are those of ``record``."""
    known = TrajectoryDataset(store) if resume else None
    refuse_changes(known, origin)
    options = {"buffer_mb": 1, "commit_seconds": None, "threads": 2, **options}
    steps = record(simulation, policy or ToyPolicy(), store, origin, max_steps, known, **options)
    data = TrajectoryDataset(store)
    assert data.num_steps == steps
    return data


def in_blocks(num_envs: int) -> dict[str, float]:
    """Options of ``collected`` for blocks of three steps of the toys' fields."""
    return {"buffer_mb": helpers.buffer_mb(3, num_envs, SCHEMA)}
