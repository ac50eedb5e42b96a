"""One collection, whatever the simulator: from what it is of to a complete store.

An adapter makes three things of its own: a simulation, a tracker of its episodes, and an origin.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

from mosaic_collect.collection.observation_terms import Term
from mosaic_collect.collection.origin import Origin
from mosaic_collect.collection.pace import Pace
from mosaic_collect.collection.protocols import Policy, Simulation
from mosaic_collect.collection.rollout import STUDENT, collect, collected_schema, teacher_rows
from mosaic_collect.collection.trackers import EpisodeTracker
from mosaic_collect.errors import InputError
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.recording.writer import TrajectoryWriter
from mosaic_collect.store.schema import Schema


class GroupedSimulation(Simulation, Protocol):
    """A simulation that knows its observation groups before the first observation."""

    @property
    def group_dims(self) -> Mapping[str, int]:
        """Width of each group whose rows are flat."""


@runtime_checkable
class TermedSimulation(Protocol):
    """A simulation that also knows what its groups are made of."""

    @property
    def group_terms(self) -> Mapping[str, Sequence[Term]]:
        """The terms of those groups of which it knows them, in the order of columns."""


class GroupedPolicy(Policy, Protocol):
    """A policy that knows which groups it reads.

    Attributes:
        shapes: Group name -> shape of one environment's row, in the order in which it reads them.
    """

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...


Watch = Callable[[TrajectoryWriter], object]


def record(
    simulation: GroupedSimulation,
    policy: GroupedPolicy,
    tracker: EpisodeTracker,
    store: str | os.PathLike[str],
    origin: Origin,
    max_steps: int,
    known: TrajectoryDataset | None = None,
    on_step: Watch | None = None,
    **writer_options: Any,
) -> int:
    """Record until the store has ``max_steps`` steps or every environment idles, and complete it.

    Args:
        simulation: Its group ``STUDENT``, if there is one, is recorded as the student's.
        policy: Acts in it.
        tracker: Of its episodes.
        store: Where to.
        origin: Told in the store's metadata, beside the groups that the policy reads.
        max_steps: Of the store in all, those of earlier runs included.
        known: The store to be gone on with, after ``refuse_changes``; None: a new one is made.
        on_step: Called with the writer after each step; what it raises ends the run, committed.
        **writer_options: Of ``TrajectoryWriter``, such as ``buffer_mb``.

    Returns:
        Steps of the store.

    Raises:
        InputError: The policy reads a group whose rows are not flat; there is no field for those.
        StoreError, WriteError: Of the writer.
    """
    dims = simulation.group_dims
    groups = {name: _width(dims, name) for name in policy.shapes}
    student = STUDENT if STUDENT in dims else None
    schema = Schema.mosaic(
        obs_dim=sum(groups.values()),
        action_dim=simulation.num_actions,
        student_obs_dim=dims[student] if student else None,
        extra=tracker.fields,
    )
    pace = Pace(max_steps, known.metadata if known is not None else {})
    told = {**origin.to_metadata(), "groups": groups, **_terms(simulation, groups, student)}
    with TrajectoryWriter(
        store,
        collected_schema(schema, known),
        simulation.num_envs,
        device=simulation.device,
        metadata={**told, **tracker.ledger()},
        resume=known is not None,
        **writer_options,
    ) as writer:
        collect(
            simulation,
            policy,
            writer,
            teacher_rows(tuple(groups), student),
            tracker,
            max_steps,
            on_step=partial(_after_step, writer, pace, on_step),
        )
    return writer.num_steps


def _width(dims: Mapping[str, int], group: str) -> int:
    if group not in dims:
        raise InputError(
            f"observations: the policy reads the group {group!r}; expected one with flat rows, "
            f"which are {', '.join(dims)}"
        )
    return dims[group]


def _after_step(writer: TrajectoryWriter, pace: Pace, on_step: Watch | None) -> None:
    pace.note(writer)
    if on_step is not None:
        on_step(writer)


def _terms(simulation: Any, teacher: Mapping[str, int], student: str | None) -> dict[str, Any]:
    """The metadata entry ``terms``: of each field of observations whose every column is known."""
    known = simulation.group_terms if isinstance(simulation, TermedSimulation) else {}
    told = {"observations": _columns(known, list(teacher))}
    if student is not None:
        told["student_observations"] = _columns(known, [student])
    terms = {field: entries for field, entries in told.items() if entries}
    return {"terms": terms} if terms else {}


def _columns(known: Mapping[str, Sequence[Term]], groups: list[str]) -> list[dict[str, Any]]:
    """Entries of groups side by side; a name that two of them have is said with its group's."""
    if not all(group in known for group in groups):
        return []
    names = Counter(term.name for group in groups for term in known[group])
    return [
        {
            "name": term.name if names[term.name] == 1 else f"{group}.{term.name}",
            "dim": term.dim,
            "frames": term.frames,
        }
        for group in groups
        for term in known[group]
    ]
