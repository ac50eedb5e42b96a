"""One collection, whatever the simulator: from a simulation and a policy to a complete store.

``protocols`` shows its loop. A row is recorded before its step, or copied before it where values of
the step belong to it, so nothing that the simulator overwrites can reach it.

    reset ──▶ _Health.begin: does the robot stand where the reference is?
    row   ──▶ _Health.look: NaN or infinity in what is recorded? computed on the device
    step  ──▶ _Health.after: the answer; and did all trajectories fail with the first step?
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import torch

from mosaic_collect.collection.acting import AS_TRAINED, Acting
from mosaic_collect.collection.groups import find_extras, group_readers, match_groups, row_schema
from mosaic_collect.collection.perturbed import Perturbation
from mosaic_collect.collection.protocols import (
    FieldReader,
    Observations,
    Policy,
    Simulation,
    StepResult,
)
from mosaic_collect.collection.ranks import run_number, run_seeds
from mosaic_collect.errors import InputError, StoreMismatchError
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.terms import TERMS, Term
from mosaic_collect.recording.signals import exit_if_terminated
from mosaic_collect.recording.writer import TrajectoryWriter
from mosaic_collect.store.ranks import PART, Address
from mosaic_collect.store.robot import ROBOT
from mosaic_collect.text import shown

Watch = Callable[[TrajectoryWriter], object]
#: Units of fields that a collection records beside the policy's.
_FIELD_UNITS = {"push": "m/s", "env_origin": "m"}
#: Fields in which NaN is the simulation's fault and not the policy's.
_SIMULATIONS = ("observations", "student_observations")
_log = logging.getLogger(__name__)


def record(
    simulation: Simulation,
    policy: Policy,
    store: Address,
    metadata: Mapping[str, Any],
    max_steps: int,
    known: TrajectoryDataset | None = None,
    on_step: Watch | None = None,
    acting: Acting = AS_TRAINED,
    stop_on_nonfinite: bool = False,
    extra_names: Sequence[str] = (),
    allow_changed: Collection[str] | None = (),
    **writer_options: Any,
) -> int:
    """Record until the store has ``max_steps`` steps or every environment idles, and complete it.

    Args:
        simulation: Simulation whose groups are recorded as ``groups`` describes.
        policy: Acts in it.
        store: Address of the store.
        metadata: Provenance, as JSON values; this function adds groups, terms and the robot.
        max_steps: Number of steps of the store, those of earlier runs included.
        known: Store to resume, after ``refuse_changes``; None: a new one is made.
        on_step: Called with the writer after each step; what it raises ends the run, committed.
        acting: Who acts, action noise and pushes; the policy labels all rows.
        stop_on_nonfinite: End it with the first row that holds NaN or infinity, committed.
        extra_names: Names of more fields to record, as ``find_extras`` takes them.
        allow_changed: Names of entries that may differ on resume; here only ``robot`` counts.
        **writer_options: Options of ``TrajectoryWriter``, such as ``buffer_mb``.

    Returns:
        Number of steps of the store.

    Raises:
        InputError: Policy, student, pushes or extras do not fit the simulation; or a row holds NaN
            or infinity, and the run is to stop then.
        StoreMismatchError: Another run went on with the store since ``known`` was read, or it is of
            another robot.
        StoreError, WriteError: The writer raised it.
    """
    seeds = run_seeds(acting.seed or 0, writer_options.get("rank") or 0, run_number(known))
    acts = Perturbation(policy, simulation, acting, seeds)
    tracker = simulation.tracker
    ledger, first = tracker.ledger(), simulation.reset()
    read = match_groups(policy.shapes, simulation.group_dims, first)
    readers = [
        *group_readers(read, simulation, first),
        FieldReader(tracker.fields, before=lambda observations: tracker.describe()),
        acts.reader,
        *find_extras(extra_names, simulation, read, first),
    ]
    schema = row_schema(read, simulation, readers)
    terms, units = _terms(readers)
    groups = {name: row if isinstance(row, int) else list(row) for name, row in read.items()}
    told = {**metadata, "groups": groups, **terms, **ledger}
    if simulation.robot is not None:
        units |= {name: unit for name, unit in _FIELD_UNITS.items() if name in schema.names}
        robot = replace(simulation.robot, units=units).to_metadata()
        if known is not None and ROBOT not in (allow_changed or ()):
            _refuse_other_robot(known, robot)
        told[ROBOT] = robot
    pace = Pace(max_steps, known.metadata if known else {}, known.num_steps if known else 0)
    with TrajectoryWriter(
        store,
        schema.with_ends(),
        simulation.num_envs,
        device=simulation.device,
        metadata=told if known is None else None,
        resume=known is not None,
        **writer_options,
    ) as writer:
        if known is not None:
            _refuse_progress_since(known, writer)
            writer.update_metadata(**told)
        health, observations = _Health(simulation, stop_on_nonfinite), first
        health.begin(tracker.active())
        try:
            while writer.num_steps < max_steps and tracker.has_work():
                observations = _record_step(acts, writer, observations, readers, health)
                pace.note(writer)
                if on_step is not None:
                    on_step(writer)
                exit_if_terminated()  # a simulator runs C code, in which Python loses the exception
        finally:
            health.end()
    return writer.num_steps


def _refuse_progress_since(known: TrajectoryDataset, writer: TrajectoryWriter) -> None:
    """Refuse progress that another run committed meanwhile, be it ends and metadata only."""
    before, now = known.metadata, writer.metadata
    names = (before.keys() | now.keys()) - {PART}  # which a writer makes when it opens
    changed = sorted(name for name in names if before.get(name) != now.get(name))
    if writer.num_steps != known.num_steps:
        expected, got = f"the {known.num_steps:,} steps", f"{writer.num_steps:,}"
    elif changed:
        expected, got = f"the {', '.join(changed)}", "others"
    else:
        return
    raise StoreMismatchError(
        f"{writer.path}: expected {expected} that it had when this run was begun, got {got}: "
        "another run went on with it; begin again"
    )


def _refuse_other_robot(known: TrajectoryDataset, robot: Mapping[str, Any]) -> None:
    before = known.metadata.get(ROBOT)
    if before is None:
        return
    there = before if isinstance(before, Mapping) else {"name": before}
    words = [
        f"robot: {name}: expected {shown(there.get(name))}, got {shown(robot.get(name))}"
        for name in sorted({*there, *robot} - {"units"})  # these follow fields and terms
        if there.get(name) != robot.get(name)
    ]
    if words:
        raise StoreMismatchError(
            f"{known.path} was collected otherwise: {'; '.join(words)}; --allow-changed robot goes "
            "on all the same"
        )


def _terms(readers: Sequence[FieldReader]) -> tuple[dict[str, Any], dict[str, str]]:
    """The metadata entry ``terms`` of fields whose columns are known, and the terms' units."""
    fields = {field: terms for reader in readers for field, terms in reader.terms.items()}
    units: dict[str, set[str]] = {}
    for term in chain.from_iterable(fields.values()):
        units.setdefault(term.name, set()).add(term.unit)
    same = {name: next(iter(found)) for name, found in units.items() if len(found) == 1}
    entries = {field: [_entry(term) for term in terms] for field, terms in fields.items()}
    return {TERMS: entries} if entries else {}, {name: u for name, u in same.items() if u}


def _entry(term: Term) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": term.name, "dim": term.dim, "frames": term.frames}
    return entry | ({"columns": [*term.column_names]} if term.column_names else {})


def _record_step(
    acts: Perturbation,
    writer: TrajectoryWriter,
    observations: Observations,
    readers: Sequence[FieldReader],
    health: _Health,
) -> Observations:
    """Record a row and take its step; returns the next observations."""
    tracker, after_step = acts.simulation.tracker, [r.after for r in readers if r.after is not None]
    active = tracker.active().clone()
    output = acts.act(observations)
    fields: dict[str, torch.Tensor] = {}
    for reader in readers:
        fields |= reader.before(observations)
    fields |= {"actions": output.actions, "action_mean": output.mean, "action_sigma": output.sigma}
    if after_step:  # kept apart from what the step changes in place
        fields = {name: value.clone() for name, value in fields.items()}
    else:
        health.look(fields, active)
        writer.add_step(**fields, valid_mask=active)
    result = acts.step(output.actions)
    if after_step:
        for read in after_step:
            fields |= read(result)
        health.look(fields, active)
        writer.add_step(**fields, valid_mask=active)
    acts.reset(result.dones)
    # Who idled and is at work from here on has a trajectory of its own from here on, too.
    ended = result.dones & (active | tracker.active())
    writer.end_trajectories(
        ended,
        failed=result.dones & active & ~result.time_outs,
        truncated=ended & result.time_outs,
        metadata=tracker.settle(result, active),
    )
    health.after(writer.num_steps - 1, active, result)
    return result.observations


class _Health:
    """Log what is wrong with a run; NaN or infinity may stop it.

    Attributes:
        nonfinite: Number of recorded rows with NaN or infinity, without those of idle environments.
    """

    def __init__(self, simulation: Simulation, stops: bool) -> None:
        self.nonfinite = 0
        self._simulation, self._stop = simulation, stops
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

    def after(self, step: int, active: torch.Tensor, result: StepResult) -> None:
        """Note that the step that was looked at was recorded under this number, and taken."""
        self._steps += 1
        if self._steps == 1:
            self._after_first(active, result.dones & ~result.time_outs)
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


PACE = "pace"
_SECONDS = 10.0  # between entries, at first
_MOST = 256  # entries, some 10 kB of the root document


class Pace:
    """Notes ``[run, UTC seconds, steps, seconds stalled in this run]`` every ten seconds.

    With too many entries every second one is dropped, and they come half as often. The wall clock
    may be set at any time, so it is read once.
    """

    def __init__(
        self,
        max_steps: int,
        told: Mapping[str, Any],
        steps: int = 0,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        before = told.get(PACE)
        entries = (before.get("entries") if isinstance(before, Mapping) else None) or []
        self._max_steps, self._clock, self._every = max_steps, clock, _SECONDS
        self._run = int(entries[-1][0]) + 1 if entries else 0
        self._noted = clock()
        self._utc = wall() - self._noted
        self._entries = [*entries, [self._run, self._time(self._noted), steps, 0.0]]

    def note(self, writer: TrajectoryWriter) -> None:
        """Update the metadata of the store after a step, if it is time."""
        now = self._clock()
        if now - self._noted < self._every:
            return
        self._noted = now
        stalled = round(writer.stats.stalled_seconds, 2)
        self._entries.append([self._run, self._time(now), writer.num_steps, stalled])
        if len(self._entries) > _MOST:
            self._thin()
        told = {"max_steps": self._max_steps, "entries": self._entries}
        writer.update_metadata(**{PACE: told})

    def _time(self, noted: float) -> float:
        return round(self._utc + noted, 1)

    def _thin(self) -> None:
        """Drop every second entry, but the first and the last of a run."""
        runs = [None, *(entry[0] for entry in self._entries), None]
        self._entries = [
            entry
            for i, entry in enumerate(self._entries)
            if i % 2 == 0 or runs[i] != entry[0] or runs[i + 2] != entry[0]
        ]
        self._every *= 2
