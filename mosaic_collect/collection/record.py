"""One collection, whatever the simulator: from what it is of to a complete store.

An adapter makes three things of its own: a simulation, a tracker of its episodes, and an origin.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from mosaic_collect.collection.groups import RecordedGroups, flat_groups
from mosaic_collect.collection.origin import Origin
from mosaic_collect.collection.protocols import Policy, Simulation
from mosaic_collect.collection.rollout import STUDENT, collect, collected_schema, teacher_rows
from mosaic_collect.collection.trackers import EpisodeTracker
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.recording.writer import TrajectoryWriter


class GroupedSimulation(Simulation, Protocol):
    """A simulation that knows its observation groups before the first observation."""

    @property
    def group_dims(self) -> Mapping[str, int]:
        """Width of each group whose rows are flat."""


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
        policy: Acts in it. Each group that it reads is recorded: flat ones side by side as
            ``observations``, any other as a field of its own, ``observations_<group>``.
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
        InputError: The policy reads a group that the simulation does not have, or of another rank.
        StoreError, WriteError: Of the writer.
    """
    ledger, first = tracker.ledger(), simulation.reset()
    groups = RecordedGroups.of(policy.shapes, simulation.group_dims, first)
    schema = groups.schema(simulation.num_actions, tracker.fields)
    rows = teacher_rows(
        tuple(flat_groups(groups.read)),
        None if groups.student_dim is None else STUDENT,
        {field.name: group for field, group in groups.own.items()},
    )
    with TrajectoryWriter(
        store,
        collected_schema(schema, known),
        simulation.num_envs,
        device=simulation.device,
        metadata={**origin.to_metadata(), "groups": groups.to_metadata(), **ledger},
        resume=known is not None,
        **writer_options,
    ) as writer:
        collect(
            simulation,
            policy,
            writer,
            rows,
            tracker,
            max_steps,
            on_step=None if on_step is None else lambda: on_step(writer),
            first=first,
        )
    return writer.num_steps
