"""The collection loop, and what is wrong with what it is fed.

One observation object a step feeds the policy and the record:

    observations ──▶ policy.act ──▶ actions ──▶ simulation.step ──▶ next observations
          │                │                          │
          └──── add_step ──┘                     dones ──▶ end_trajectories
                                                          failed: not by time

The row is recorded before the step, or copied before it where values of the step belong to it, so
nothing that the simulator overwrites can reach it.

    reset ──▶ Health.begin: does the robot stand where the reference is?
    row   ──▶ Health.look: NaN or infinity in what is recorded? computed on the device
    step  ──▶ Health.after: the answer; and did all trajectories fail with the first step?
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import torch

from mosaic_collect.collection.protocols import (
    EpisodeTracker,
    Extra,
    Observations,
    Policy,
    PolicyOutput,
    Simulation,
    StepResult,
)
from mosaic_collect.errors import InputError
from mosaic_collect.recording.signals import exit_if_terminated
from mosaic_collect.recording.writer import TrajectoryWriter

_SIMULATIONS = ("observations", "student_observations")
_log = logging.getLogger(__name__)


class Health:
    """Log what is wrong with a run; with ``stop_on_nonfinite`` NaN or infinity ends it.

    Attributes:
        nonfinite: Number of recorded rows with NaN or infinity, without those of idle environments.
    """

    def __init__(self, simulation: Simulation, stop_on_nonfinite: bool = False) -> None:
        self.nonfinite = 0
        self._simulation, self._stop = simulation, stop_on_nonfinite
        self._rows = self._steps = 0
        self._first: str | None = None
        self._disagrees = False

    def begin(self, active: torch.Tensor) -> None:
        """Note that all environments were reset, and who is at work, ``(N,)`` bool."""
        if not bool(active.any()):
            return
        words = self._simulation.disagreement(active)
        self._disagrees = words is not None
        if words is not None:
            _log.warning("reference and robot disagree after the first reset: %s", words)

    def look(self, fields: Mapping[str, torch.Tensor], active: torch.Tensor) -> None:
        """A row is about to be recorded; waits for no device."""
        names = [name for name, value in fields.items() if value.is_floating_point()]
        bad = torch.stack([_nonfinite(fields[name]) & active for name in names])
        self._found = bad, torch.stack([active.sum(), *bad.sum(dim=1), bad.any(dim=0).sum()]), names

    def after(
        self, step: int, active: torch.Tensor, dones: torch.Tensor, time_outs: torch.Tensor
    ) -> None:
        """Note that the step that was looked at was recorded under this number, and taken."""
        self._steps += 1
        if self._steps == 1:
            self._after_first(active, dones & ~time_outs)
        bad, counts, names = self._found
        rows, *by_field, wrong = counts.tolist()
        self._rows += rows
        self.nonfinite += wrong
        if wrong and self._first is None:
            fields = [name for name, count in zip(names, by_field, strict=True) if count]
            giver = "simulation" if set(fields) & set(_SIMULATIONS) else "policy"
            env = int(bad.any(dim=0).to(torch.uint8).argmax())
            self._first = (
                f"step {step}, {', '.join(fields)} in {wrong} of {rows} environments, "
                f"{env} the first"
            )
            _log.warning("the %s gives NaN or infinity: %s", giver, self._first)
        if wrong and self._stop:
            raise InputError(f"NaN or infinity: {self._first}; recorded, and stopped there")

    def end(self) -> None:
        """Log how many rows were not finite."""
        if self.nonfinite:
            told = f"{self.nonfinite:,} of {self._rows:,} recorded rows of this run"
            _log.warning("%s hold NaN or infinity; the first: %s", told, self._first)

    def _after_first(self, active: torch.Tensor, failed: torch.Tensor) -> None:
        if not bool(active.any()) or not bool(failed[active].all()):
            return
        counts = self._simulation.failed_by(failed & active)
        terms = ", ".join(f"{name}: {n}" for name, n in counts.items())
        likely = (
            "for reference and robot disagree, as said"
            if self._disagrees
            else "likely the policy is not of this task, or the motions not of this robot"
        )
        _log.warning(
            "all %d trajectories failed with their first step%s; %s",
            *(int(active.sum()), f" ({terms})" if terms else "", likely),
        )


def _nonfinite(value: torch.Tensor) -> torch.Tensor:
    """Environments whose row holds NaN or infinity, ``(N,)`` bool."""
    rows = value.reshape(len(value), -1)
    if not rows.is_cuda and bool(torch.isfinite(rows.sum())):
        return torch.zeros(len(rows), dtype=torch.bool)  # at once, where nobody waits for a device
    return ~torch.isfinite((rows * 0).sum(dim=1))


def collect(
    step: Callable[[torch.Tensor], StepResult],
    first: Observations,
    policy: Policy,
    writer: TrajectoryWriter,
    rows: Callable[[Observations, PolicyOutput], Mapping[str, torch.Tensor]],
    tracker: EpisodeTracker,
    max_steps: int,
    health: Health,
    on_step: Callable[[], object] | None = None,
    extras: Sequence[Extra] = (),
) -> None:
    """Record until the store has ``max_steps`` steps or every environment idles.

    Args:
        step: Steps the simulation.
        first: The simulation's first observations.
        policy: Acts in it.
        writer: Writer of a schema with ends; stays open.
        rows: Makes the fields of a row from observations and the policy's output.
        tracker: Tracker of the environments' motions.
        max_steps: Number of steps of the store, those of earlier runs included.
        health: May raise ``InputError``.
        on_step: Called after each step.
        extras: More fields of a row.
    """
    before_step = [extra.before for extra in extras if extra.before is not None]
    after_step = [extra.after for extra in extras if extra.after is not None]
    observations = first
    health.begin(tracker.active())
    while writer.num_steps < max_steps and tracker.has_work():
        active = tracker.active()
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
        result = step(output.actions)
        if after_step:
            for note in after_step:
                fields |= note(result)
            health.look(fields, before)
            writer.add_step(**fields, valid_mask=before)
        policy.reset(result.dones)
        # Who idled and is at work from here on has a trajectory of its own from here on, too.
        ended = result.dones & (before | tracker.active())
        writer.end_trajectories(
            ended,
            failed=result.dones & before & ~result.time_outs,
            truncated=ended & result.time_outs,
            metadata=tracker.settle(result),
        )
        health.after(writer.num_steps - 1, before, result.dones, result.time_outs)
        observations = result.observations
        if on_step is not None:
            on_step()
        exit_if_terminated()  # a simulator runs C code, in which Python loses the exception
