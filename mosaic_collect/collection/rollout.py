"""The collection loop: one observation object a step feeds the policy and the record.

    observations ──▶ policy.act ──▶ actions ──▶ simulation.step ──▶ next observations
          │                │                          │
          └──── add_step ──┘                     dones ──▶ end_trajectories
                                                          failed: not by time

The row is recorded before the step, or copied before it where values of the step belong to it. So
nothing that the simulator overwrites can reach it, and a row pairs what was seen with what was done
about it. Observations are never computed again: noise
would be drawn anew and histories would advance twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from mosaic_collect.collection.health import Health
from mosaic_collect.collection.protocols import (
    Extra,
    Observations,
    Policy,
    PolicyOutput,
    Simulation,
)
from mosaic_collect.collection.trackers import EpisodeTracker
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.recording.signals import exit_if_terminated
from mosaic_collect.recording.writer import TrajectoryWriter
from mosaic_collect.store.schema import TRAJECTORY_END, Schema

#: The observation group that a student sees, in every simulator.
STUDENT = "student"


def collected_schema(schema: Schema, resumed: TrajectoryDataset | None) -> Schema:
    """A collection's fields: with ``trajectory_end``, but for a store that was made without it.

    Args:
        schema: The fields that are given at each step.
        resumed: The store to be gone on with; None: a new one is made.
    """
    made_without = resumed is not None and resumed.fields and TRAJECTORY_END not in resumed.fields
    return schema if made_without else schema.with_ends()


Rows = Callable[[Observations, PolicyOutput], Mapping[str, torch.Tensor]]


def collect(
    simulation: Simulation,
    policy: Policy,
    writer: TrajectoryWriter,
    rows: Rows,
    tracker: EpisodeTracker,
    max_steps: int,
    on_step: Callable[[], object] | None = None,
    health: Health | None = None,
    first: Observations | None = None,
    extras: Sequence[Extra] = (),
) -> None:
    """Record until the store has ``max_steps`` steps or every environment idles.

    Args:
        simulation: Vectorised environments.
        policy: Acts in them.
        writer: Records, also which ends were failures if its schema has a place for that; stays
            open.
        rows: The fields of a step, out of what was seen and what was done.
        tracker: Tracker of the environments' motions.
        max_steps: Steps of the store in all, with those of earlier runs.
        on_step: Called after each step.
        health: Says what is wrong with what is recorded; None: of its defaults.
        first: The simulation's first observations; None: it is reset here.
        extras: More fields of a row.

    Raises:
        InputError: Raised by ``health``.
    """
    health = health or Health()
    before_step = [extra.before for extra in extras if extra.before is not None]
    after_step = [extra.after for extra in extras if extra.after is not None]
    observations = simulation.reset() if first is None else first
    health.begin(tracker.active())
    while writer.num_steps < max_steps:
        active = tracker.active()
        if not bool(active.any()):
            break
        output = policy.act(observations)
        fields = {**rows(observations, output), **tracker.describe()}
        for read in before_step:
            fields |= read(observations)
        # Kept apart from what the step changes in place.
        before = active.clone()
        if after_step:
            fields = {name: value.clone() for name, value in fields.items()}
        else:
            health.look(fields, before)
            writer.add_step(**fields, valid_mask=before)
        result = simulation.step(output.actions)
        if after_step:
            for note in after_step:
                fields |= note(result)
            health.look(fields, before)
            writer.add_step(**fields, valid_mask=before)
        policy.reset(result.dones)
        # Who idled and is at work from here on has a trajectory of its own from here on, too.
        ended = result.dones & (before | tracker.active())
        how = {}
        if writer.schema.has_ends:
            how["failed"] = result.dones & before & ~result.time_outs
            how["truncated"] = ended & result.time_outs
        writer.end_trajectories(ended, **how, metadata=tracker.settle(result))
        health.after(writer.num_steps - 1, before, result.dones, result.time_outs)
        observations = result.observations
        if on_step is not None:
            on_step()
        exit_if_terminated()  # a simulator runs C code, in which Python loses the exception


def teacher_rows(
    teacher: tuple[str, ...], student: str | None, own: Mapping[str, str] | None = None
) -> Rows:
    """MOSAIC's fields: the policy's flat groups side by side, and the student's group; and others.

    They are what the policy saw and said. What an environment does to actions behind that, such as
    the clipping of Isaac Lab's wrapper, is not in them.

    Args:
        teacher: Groups that the policy acts on and that are flat, in its order.
        student: Group of the student; None: it is not recorded.
        own: Field -> a group that is recorded as it is.
    """

    def rows(observations: Observations, output: PolicyOutput) -> Mapping[str, torch.Tensor]:
        seen = [observations[group] for group in teacher]
        fields = {}
        if seen:
            fields["observations"] = seen[0] if len(seen) == 1 else torch.cat(seen, dim=-1)
        fields |= {field: observations[group] for field, group in (own or {}).items()}
        fields |= {
            "actions": output.actions,
            "action_mean": output.mean,
            "action_sigma": output.sigma,
        }
        if student is not None:
            fields["student_observations"] = observations[student]
        return fields

    return rows
