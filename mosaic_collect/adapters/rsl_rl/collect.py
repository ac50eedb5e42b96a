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
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from mosaic_collect.adapters.rsl_rl.checkpoint import Checkpoint
from mosaic_collect.adapters.rsl_rl.load import Actor
from mosaic_collect.adapters.rsl_rl.options import DEFAULT_ENVS, RecordOptions
from mosaic_collect.collection.fitting import rate_notes
from mosaic_collect.collection.motion_queue import MotionQueue
from mosaic_collect.collection.origin import Origin
from mosaic_collect.collection.ranks import RankStore, giving_back
from mosaic_collect.collection.record import GroupedSimulation, Watch, record
from mosaic_collect.collection.student import read_student
from mosaic_collect.collection.trackers import EpisodeTracker
from mosaic_collect.errors import StoreMismatchError
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.store.metadata import COMPLETE


class OpenSimulation(GroupedSimulation, Protocol):
    """A task's environments, and what acts and is followed in them."""

    def policy(self, checkpoint: Checkpoint, by_mean: bool, trust_checkpoint: bool) -> Actor:
        """The checkpoint's actor, as ``load_policy`` gives it.

        Raises:
            InputError: The checkpoint is not of this task's policy.
        """

    def tracker(self) -> EpisodeTracker:
        """Of its episodes."""


class Simulator(Protocol):
    """One task of a simulator's, not yet made."""

    @property
    def checkpoint(self) -> str:
        """The policy's, its path.

        Raises:
            InputError: None was named, and none is found.
        """

    def origin(self) -> Origin:
        """Where the data come from."""

    def queue(self, told: Mapping[str, object]) -> MotionQueue | None:
        """Its motions; None: the task has none.

        Args:
            told: Metadata of the store that is to be gone on with.

        Raises:
            InputError: Bad motion files.
            StoreMismatchError: Some that the store tells of are gone.
        """

    def opened(
        self, queue: MotionQueue | None, num_envs: int, run: int
    ) -> AbstractContextManager[OpenSimulation]:
        """The task with so many environments, closed at the end.

        Args:
            queue: Takes its motions as the task plays them.
            num_envs: Environments, N.
            run: How many runs the store has seen; noise must be another in each.
        """


@dataclass(frozen=True)
class CollectResult:
    """What a collection came to.

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


def collect_into(
    options: RecordOptions,
    simulator: Simulator,
    on_step: Watch | None = None,
    seat: RankStore | None = None,
) -> CollectResult:
    """Collect into a new or an unfinished store.

    Args:
        options: All of it; ``check`` has been passed.
        simulator: Simulator of the task.
        on_step: Called with the writer after each step; what it raises ends the run, committed.
        seat: Store of this process; None: ``options.output``, without other ranks.

    Raises:
        InputError: A bad option or motion; or a row with NaN or infinity that stops the run.
        StoreMismatchError: On resume, what must not change has changed.
        StoreError, WriteError: The store cannot be opened or written.
    """
    seat = RankStore.of(options.output, distributed=False) if seat is None else seat
    known = seat.known(options.resume, options.overwrite)
    told, stored = (known.metadata, known.num_envs) if known else ({}, 0)
    num_envs = options.num_envs or stored or DEFAULT_ENVS
    queue = seat.shared(simulator.queue(told), num_envs, told, options.take_over)
    origin = simulator.origin()
    seat.refuse_changes(known, origin, options.allow_changed)
    if known is not None and _is_done(known, options, queue):
        return CollectResult(seat.store.address, known.num_steps, True, *_ends(queue))
    if known is not None and stored not in (0, num_envs):
        words = f"num_envs: expected {stored}, got {num_envs}"
        raise StoreMismatchError(f"{known.path} was collected otherwise: {words}")
    checkpoint = Checkpoint.read(simulator.checkpoint, options.trust_checkpoint)
    if options.acting.student is not None:
        read_student(options.acting)  # one that is none is refused before the simulator is made
    # A resumed run would draw the first one's noise again, if it were not told its number.
    run = len(known.state.runs) if known is not None and stored else 0
    if not seat.begins(queue):
        steps = known.num_steps if known else 0
        return CollectResult(seat.store.address, steps, True, *_ends(queue))
    with giving_back(queue), simulator.opened(queue, num_envs, run) as simulation:
        steps = record(
            simulation,
            simulation.policy(checkpoint, options.acting.by_mean, options.trust_checkpoint),
            simulation.tracker(),
            seat.whole,
            origin,
            options.max_steps or sys.maxsize,
            known,
            on_step,
            options.acting,
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
    notes = tuple(rate_notes(queue.present)) if queue else ()
    return CollectResult(seat.store.address, steps, False, *_ends(queue), notes)


def _is_done(known: TrajectoryDataset, options: RecordOptions, queue: MotionQueue | None) -> bool:
    if known.status != COMPLETE:
        return False
    enough = options.max_steps is not None and known.num_steps >= options.max_steps
    return enough or (queue is not None and queue.exhausted)


def _ends(queue: MotionQueue | None) -> tuple[int, int]:
    return (queue.completed, queue.fell) if queue else (0, 0)
