"""From a task, a checkpoint and motions to a store: the same in every simulator.

    known   = the store, if it is to be gone on with
    queue   = the motions that are left               refused: some are gone
    origin  = what a resume must find again           refused: collected otherwise
    with simulator.opened(queue, ...) as simulation:  the first that takes minutes
        record(simulation, its policy, its tracker)

A simulator's adapter says what its task is, and opens it.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from mosaic_collect.adapters.rsl_rl.checkpoint import Checkpoint
from mosaic_collect.adapters.rsl_rl.options import DEFAULT_ENVS, RecordOptions
from mosaic_collect.collection.fitting import rate_notes
from mosaic_collect.collection.motion_queue import MotionQueue, refuse_gone
from mosaic_collect.collection.motions import Motion
from mosaic_collect.collection.origin import Origin, file_identity
from mosaic_collect.collection.protocols import Policy, Simulation
from mosaic_collect.collection.ranks import RankStore, giving_back
from mosaic_collect.collection.record import Watch, record
from mosaic_collect.collection.student import read_student
from mosaic_collect.collection.trackers import EpisodeTracker
from mosaic_collect.errors import StoreMismatchError
from mosaic_collect.store.metadata import COMPLETE

OptionsT = TypeVar("OptionsT", bound=RecordOptions)


class OpenSimulation(Simulation, Protocol):
    """A task's environments, and what acts and is followed in them.

    Attributes:
        tracker: Tracker of its episodes.
    """

    tracker: EpisodeTracker

    def policy(self, checkpoint: Checkpoint, by_mean: bool, trust_checkpoint: bool) -> Policy:
        """The checkpoint's actor, as ``load_policy`` gives it."""


class Simulator(ABC, Generic[OptionsT]):
    """One task of a simulator, not yet made.

    Args:
        options: Options of the collection.
        rank_store: Store of this process.
        motions: The motions at ``options.motion``; None: the task has none.

    Attributes:
        name: Name of the simulator, as its stores contain it.
    """

    name: ClassVar[str]

    def __init__(
        self, options: OptionsT, rank_store: RankStore, motions: Sequence[Motion] | None = None
    ) -> None:
        self.options, self.rank_store, self.motions = options, rank_store, motions

    @property
    def checkpoint(self) -> str:
        """Path of the policy's checkpoint; ``InputError`` if none is named or found."""
        return self.options.checkpoint

    @property
    def seed(self) -> int | None:
        """Seed of noise and randomization."""
        return self.options.seed

    @property
    @abstractmethod
    def runner_cfg(self) -> dict[str, Any]:
        """The task's training config, as JSON values."""

    @abstractmethod
    def observations(self) -> dict[str, Any]:
        """How teacher and student see, as JSON values."""

    @abstractmethod
    def opened(
        self, queue: MotionQueue | None, num_envs: int, run: int
    ) -> AbstractContextManager[OpenSimulation]:
        """The task with so many environments, closed at the end.

        Args:
            queue: Takes its motions as the task plays them.
            num_envs: Environments, N.
            run: Number of earlier runs of the store; noise must be another in each.
        """

    def limits(self) -> dict[str, Any]:
        """How much is recorded of each motion; must be the same on resume."""
        return {}

    def notes(self) -> dict[str, Any]:
        """Further entries of the metadata, which may differ on resume."""
        return {"seed": self.seed, "passes": self.options.passes}

    def origin(self) -> Origin:
        """Provenance of the data to come."""
        return Origin(
            simulator=self.name,
            task=self.options.task,
            checkpoint=file_identity(self.checkpoint),
            runner_cfg=self.runner_cfg,
            observations=self.observations(),
            acting=self.options.acting_metadata(),
            limits=self.limits(),
            ranks=self.rank_store.ranks,
            notes=self.notes(),
        )

    def chosen(self) -> Sequence[Motion] | None:
        """Motions to record; None: the task has none."""
        return self.motions

    def queue(self, told: Mapping[str, Any]) -> MotionQueue | None:
        """Queue of the task's motions; None: the task has none.

        ``told`` are the metadata of the store that is to be gone on with. Motions that it tells of
        and that are gone are a ``StoreMismatchError``.
        """
        if self.motions is None:
            return None
        refuse_gone(self.motions, told, self.options.output, self.options.allow_changed)
        return MotionQueue(self.chosen() or (), self.options.passes, told)


@dataclass(frozen=True)
class CollectResult:
    """Result of a collection.

    Attributes:
        store: Store of this process.
        num_steps: Number of its steps.
        already_complete: Nothing was to be done: it is complete, or other ranks have all motions.
        completed: Trajectories that reached their motion's end, over all runs.
        fell: Number of trajectories that ended before.
        notes: Facts about how motions were played.
    """

    store: str
    num_steps: int
    already_complete: bool
    completed: int
    fell: int
    notes: tuple[str, ...] = ()


def collect_into(simulator: Simulator[Any], on_step: Watch | None = None) -> CollectResult:
    """Collect into a new or an unfinished store.

    Args:
        simulator: Simulator of the task; its options have passed ``check``.
        on_step: Called with the writer after each step; what it raises ends the run, committed.

    Raises:
        InputError: A bad option or motion; or a row with NaN or infinity that stops the run.
        StoreMismatchError: On resume, what must not change has changed.
        StoreError, WriteError: The store cannot be opened or written.
    """
    options, seat = simulator.options, simulator.rank_store
    known = seat.known(options.resume, options.overwrite)
    told, stored = (known.metadata, known.num_envs) if known else ({}, 0)
    num_envs = options.num_envs or stored or DEFAULT_ENVS
    queue = seat.shared(simulator.queue(told), num_envs, told, options.take_over)
    origin = simulator.origin()
    seat.refuse_changes(known, origin, options.allow_changed)

    def result(steps: int, already_complete: bool) -> CollectResult:
        ends = (queue.completed, queue.fell) if queue else (0, 0)
        notes = tuple(rate_notes(queue.present)) if queue and not already_complete else ()
        return CollectResult(seat.store.address, steps, already_complete, *ends, notes)

    if known is not None and known.status == COMPLETE:
        enough = options.max_steps is not None and known.num_steps >= options.max_steps
        if enough or (queue is not None and queue.exhausted):
            return result(known.num_steps, True)
    if known is not None and stored not in (0, num_envs):
        words = f"num_envs: expected {stored}, got {num_envs}"
        raise StoreMismatchError(f"{known.path} was collected otherwise: {words}")
    checkpoint = Checkpoint.read(simulator.checkpoint, options.trust_checkpoint)
    if options.student_path is not None:
        read_student(options)  # one that is none is refused before the simulator is made
    # A resumed run would draw the first one's noise again, if it were not told its number.
    run = len(known.state.runs) if known is not None and stored else 0
    if not seat.begins(queue):
        return result(known.num_steps if known else 0, True)
    with giving_back(queue), simulator.opened(queue, num_envs, run) as simulation:
        steps = record(
            simulation,
            simulation.policy(checkpoint, options.acts_by_mean, options.trust_checkpoint),
            simulation.tracker,
            seat.whole,
            origin,
            options.max_steps or sys.maxsize,
            known,
            on_step,
            options,
            extra_names=options.extra_names,
            allow_changed=options.allow_changed,
            stop_on_nonfinite=options.stop_on_nonfinite,
            buffer_mb=options.buffer_mb,
            compressor=options.compressor,
            encode_in=options.encode_in,
            commit_seconds=options.commit_seconds,
            overwrite=options.overwrite,
            **seat.writer_options,
        )
    return result(steps, False)
