"""One collection, whatever the simulator: from a simulation and a policy to a complete store."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mosaic_collect.collection.acting import AS_TRAINED, Acting
from mosaic_collect.collection.groups import STUDENT, RecordedGroups, find_extras, flat_groups
from mosaic_collect.collection.perturbed import PerturbedPolicy, Pushes
from mosaic_collect.collection.protocols import Extra, Policy, Simulation
from mosaic_collect.collection.rollout import Health, collect
from mosaic_collect.errors import StoreMismatchError
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.terms import Term
from mosaic_collect.recording.writer import TrajectoryWriter
from mosaic_collect.store.ranks import PART, Address
from mosaic_collect.store.robot import ROBOT
from mosaic_collect.text import shown

#: Units of fields that a collection records beside the policy's.
_FIELD_UNITS = {"push": "m/s", "env_origin": "m"}
Watch = Callable[[TrajectoryWriter], object]


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
        simulation: Simulation whose groups are recorded as ``RecordedGroups`` describes.
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
    noise, push_seed = _seeds(acting, writer_options.get("rank") or 0, known)
    acts = PerturbedPolicy(policy, simulation, acting, noise)
    pushes = Pushes(simulation, acting.push, push_seed)
    tracker = simulation.tracker
    ledger, first = tracker.ledger(), simulation.reset()
    groups = RecordedGroups.of(policy.shapes, simulation.group_dims, first)
    extras = [
        *(acts.extra, pushes.extra),
        *find_extras(extra_names, simulation, groups, first),
    ]
    fields = (field for extra in extras for field in extra.fields)
    schema = groups.schema(simulation.num_actions, (*tracker.fields, *fields))
    health = Health(simulation, stop_on_nonfinite)
    told, steps = ({}, 0) if known is None else (known.metadata, known.num_steps)
    pace = Pace(max_steps, told, steps)
    terms, units = _terms(simulation.group_terms, groups, extras)
    told = {
        **metadata,
        "groups": groups.to_metadata(),
        **({"terms": terms} if terms else {}),
        **ledger,
    }
    if simulation.robot is not None:
        units |= {name: unit for name, unit in _FIELD_UNITS.items() if name in schema.names}
        robot = replace(simulation.robot, units=units).to_metadata()
        if known is not None and ROBOT not in (allow_changed or ()):
            _refuse_other_robot(known, robot)
        told[ROBOT] = robot
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

        def after_step() -> None:
            pace.note(writer)
            if on_step is not None:
                on_step(writer)

        try:
            collect(
                *(pushes.step, first, acts, writer, groups.rows, tracker, max_steps),
                health,
                on_step=after_step,
                extras=extras,
            )
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


def _seeds(acting: Acting, rank: int, known: TrajectoryDataset | None) -> list[int]:
    """Seeds of noise and of pushes: each run and each process draws numbers of its own."""
    run = len(known.state.runs) if known is not None and known.num_envs else 0
    seeds = np.random.SeedSequence([(acting.seed or 0) % (1 << 32), rank, run])
    return [int(seed) for seed in seeds.generate_state(2)]


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


def _terms(
    known: Mapping[str, Sequence[Term]], groups: RecordedGroups, extras: Sequence[Extra]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The metadata entry ``terms`` of fields whose every column is known, and the terms' units."""
    fields = {"observations": list(flat_groups(groups.read))}
    if groups.student_dim is not None:
        fields["student_observations"] = [STUDENT]
    found = {
        field: [(group, term) for group in of for term in known[group]]
        for field, of in fields.items()
        if of and all(group in known for group in of)
    }
    found |= {n: [("", t) for t in of] for extra in extras for n, of in extra.terms.items()}
    terms: dict[str, Any] = {}
    units: dict[str, set[str]] = {}
    for field, of in found.items():
        names = Counter(term.name for _, term in of)
        terms[field] = []
        for group, term in of:
            name = term.name if names[term.name] == 1 else f"{group}.{term.name}"
            entry: dict[str, Any] = {"name": name, "dim": term.dim, "frames": term.frames}
            terms[field].append(
                entry | ({"columns": [*term.column_names]} if term.column_names else {})
            )
            units.setdefault(name, set()).add(term.unit)
    same = {name: next(iter(found)) for name, found in units.items() if len(found) == 1}
    return terms, {name: unit for name, unit in same.items() if unit}


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
