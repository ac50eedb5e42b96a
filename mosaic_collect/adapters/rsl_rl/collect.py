"""From a task, a checkpoint and motions to a store: the same in every simulator.

known   = the store, if it is resumed
queue   = the motions that are left               refused: some are gone
origin  = what a resume must find again           refused: collected otherwise
with open_simulation(queue, ...) as simulation:   the first that takes minutes
record(simulation, its policy, its tracker)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from mosaic_collect.adapters.rsl_rl.checkpoint import Checkpoint, file_identity
from mosaic_collect.adapters.rsl_rl.options import DEFAULT_ENVS, RecordOptions
from mosaic_collect.collection.fitting import rate_notes
from mosaic_collect.collection.motion_queue import MotionQueue, refuse_gone
from mosaic_collect.collection.motions import Motion
from mosaic_collect.collection.protocols import Policy, Simulation
from mosaic_collect.collection.ranks import RankStore, giving_back, run_number
from mosaic_collect.collection.record import Watch, record
from mosaic_collect.errors import StoreMismatchError
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.store.metadata import COMPLETE


class TaskSimulation(Simulation, Protocol):
    """A simulated task that knows how to load its policies."""

    def policy(
        self, checkpoint: Checkpoint, by_mean: bool = True, trust_checkpoint: bool = False
    ) -> Policy:
        """Load the policy of a checkpoint; it acts by its mean or by samples."""


#: Opens a task of a simulator: its motions, the number of environments, and the number of earlier
#: runs of the store, each of which draws noise of its own.
Opening: TypeAlias = Callable[
    [MotionQueue | None, int, int], AbstractContextManager[TaskSimulation]
]


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

    @classmethod
    def of(
        cls, store: str, num_steps: int, queue: MotionQueue | None, already_complete: bool = False
    ) -> CollectResult:
        """The result of a run whose motions came from this queue."""
        ends = (queue.completed, queue.fell) if queue else (0, 0)
        notes = tuple(rate_notes(queue.present)) if queue and not already_complete else ()
        return cls(store, num_steps, already_complete, *ends, notes)


def collect_into(
    options: RecordOptions,
    rank_store: RankStore,
    open_simulation: Opening,
    on_step: Watch | None = None,
    *,
    simulator: str,
    runner_cfg: Mapping[str, Any],
    observations: Mapping[str, Any],
    limits: Mapping[str, Any],
    notes: Mapping[str, Any],
    found: Sequence[Motion] | None,
    motions: Sequence[Motion] | None = None,
) -> CollectResult:
    """Collect into a new or an unfinished store.

    Args:
        options: Options that have passed ``check``.
        rank_store: Store of this process.
        open_simulation: Makes the simulation, which takes minutes.
        on_step: Called with the writer after each step; what it raises ends the run, committed.
        simulator: Name of the simulator, as its stores contain it.
        runner_cfg: The task's training config, as JSON values.
        observations: How teacher and student see, as JSON values; must be the same on resume.
        limits: How much is recorded of each motion; must be the same on resume.
        notes: Further entries of the metadata, which may differ on resume.
        found: The motions at ``options.motion``; None: the task has none.
        motions: Motions of these to record; None: all.

    Raises:
        InputError: A bad option or motion; or a row with NaN or infinity that stops the run.
        StoreMismatchError: On resume, what must not change has changed.
        StoreError, WriteError: The store cannot be opened or written.
    """
    known = rank_store.known(options.resume, options.overwrite)
    num_envs = options.num_envs or (known.num_envs if known else 0) or DEFAULT_ENVS
    queue = None
    if found is not None:
        told = known.metadata if known else {}
        refuse_gone(found, told, options.output, options.allow_changed)
        chosen = found if motions is None else motions
        queue = rank_store.queue(chosen, options.passes, told, num_envs, options.take_over)
    acting = options.acting_metadata()
    origin = {
        "simulator": simulator,
        "task": options.task,
        "observations": observations,
        "ranks": list(rank_store.ranks),
        **limits,
        **({"acting": acting} if acting else {}),
        "checkpoint": file_identity(options.checkpoint),
    }
    rank_store.refuse_changes(known, origin, options.allow_changed)
    address = rank_store.blobs.address
    if known is not None and _is_finished(known, options, queue):
        return CollectResult.of(address, known.num_steps, queue, already_complete=True)
    if known is not None and known.num_envs not in (0, num_envs):
        words = f"num_envs: expected {known.num_envs}, got {num_envs}"
        raise StoreMismatchError(f"{known.path} was collected otherwise: {words}")
    checkpoint = Checkpoint.read(options.checkpoint, options.trust_checkpoint)
    if not rank_store.begins(queue):
        steps = known.num_steps if known else 0
        return CollectResult.of(address, steps, queue, already_complete=True)
    metadata = {**notes, **origin, "runner_cfg": runner_cfg}
    with giving_back(queue), open_simulation(queue, num_envs, run_number(known)) as simulation:
        steps = record(
            simulation,
            simulation.policy(checkpoint, options.acts_by_mean, options.trust_checkpoint),
            rank_store.whole,
            metadata,
            options.max_steps or sys.maxsize,
            known,
            on_step,
            options,
            extra_names=options.extra_names,
            allow_changed=options.allow_changed,
            stop_on_nonfinite=options.stop_on_nonfinite,
            **options.writer_options,
            **rank_store.writer_options,
        )
    return CollectResult.of(address, steps, queue)


def _is_finished(
    known: TrajectoryDataset, options: RecordOptions, queue: MotionQueue | None
) -> bool:
    """Whether a store is complete, with all steps or all trajectories of its motions."""
    if known.status != COMPLETE:
        return False
    enough = options.max_steps is not None and known.num_steps >= options.max_steps
    return enough or (queue is not None and queue.exhausted)
