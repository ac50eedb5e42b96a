"""``mosaic-collect collect``: from a task, a checkpoint and motions to a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mosaic_collect.adapters.mjlab.simulation import MjlabOptions, MjlabSimulation, runner_cfg
from mosaic_collect.adapters.rsl_rl.checkpoint import Checkpoint
from mosaic_collect.collection.acting import FIRST, MEAN, Acting
from mosaic_collect.collection.motions import MotionQueue, find_motions, missing_motions
from mosaic_collect.collection.origin import Origin, file_identity, refuse_changes
from mosaic_collect.collection.rates import rate_notes
from mosaic_collect.collection.record import Watch, record
from mosaic_collect.errors import InputError, StoreMismatchError
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.store.address import blobs_at
from mosaic_collect.store.metadata import COMPLETE
from mosaic_collect.store.root import goes_on

#: What a resume refuses to find changed, unless it is allowed by this name.
PROTECTED = ("task", "checkpoint", "motions", "observations", "acting")


@dataclass(frozen=True, kw_only=True)
class CollectOptions(MjlabOptions):
    """One collection; on resume ``num_envs`` None means the store's, and noise is drawn anew.

    Attributes:
        checkpoint: An rsl_rl checkpoint of the task's policy.
        output: The store.
        max_steps: Steps of the store in all.
        motion: A motion file, or a folder of them at any depth; None for tasks without motions.
        passes: Trajectories of each motion; None: go round until ``max_steps``.
        action_noise, act_by, act_share, push: Of ``Acting``, as ``start`` is.
        resume: Go on with the store; "auto": if it is there.
        allow_changed: Which of ``PROTECTED`` may differ on resume.
        record_states: MuJoCo's state beside each row, from which the robot can be seen again.
        stop_on_nonfinite: End the run with the first row that holds NaN or infinity.
        trust_checkpoint: Code in the checkpoint may run.
        buffer_mb, compressor, encode_in, commit_seconds: Of the writer.
    """

    checkpoint: str
    output: str
    max_steps: int
    motion: str | None = None
    passes: int | None = None
    action_noise: float = 0.0
    act_by: str = MEAN
    act_share: float | None = None
    push: float = 0.0
    resume: bool | str = False
    allow_changed: Sequence[str] = ()
    record_states: bool = False
    stop_on_nonfinite: bool = False
    trust_checkpoint: bool = False
    buffer_mb: float | str = "auto"
    compressor: str = "auto"
    encode_in: str = "auto"
    commit_seconds: float | None = 60.0

    @property
    def acting(self) -> Acting:
        """Who acts, and how."""
        return Acting(
            action_noise=self.action_noise,
            act_by=self.act_by,
            act_share=self.act_share,
            push=self.push,
            start=self.start,
            seed=self.seed,
        )


@dataclass(frozen=True)
class CollectResult:
    """What a collection came to.

    Attributes:
        num_steps: Of the store.
        already_complete: Nothing was to be done.
        completed: Trajectories that reached their motion's end, over all runs.
        fell: That ended before.
        notes: What is to be known of how motions were played.
    """

    num_steps: int
    already_complete: bool
    completed: int
    fell: int
    notes: tuple[str, ...] = ()


def run_collect(options: CollectOptions, on_step: Watch | None = None) -> CollectResult:
    """Collect into a new or an unfinished store.

    Args:
        options: All of it.
        on_step: Called with the writer after each step; what it raises ends the run, committed.

    Raises:
        InputError: A bad option or motion; or a row with NaN or infinity that stops the run.
        StoreMismatchError: On resume, what must not change has changed.
        StoreError, WriteError: Of the writer.
    """
    _check(options)
    there = goes_on(blobs_at(options.output), options.resume)
    known = TrajectoryDataset(options.output) if there else None
    queue = _queue(options, known.metadata if known else {})
    if known is not None and _is_done(known, options, queue):
        return CollectResult(known.num_steps, True, *_ends(queue))
    origin = _origin(options)
    refuse_changes(known, origin, options.allow_changed)
    checkpoint = Checkpoint.read(options.checkpoint, options.trust_checkpoint)
    simulation = MjlabSimulation(_options_now(options, known), queue)
    try:
        steps = record(
            simulation,
            simulation.policy(
                checkpoint, options.acting.by_mean, trust_checkpoint=options.trust_checkpoint
            ),
            simulation.tracker(),
            options.output,
            origin,
            options.max_steps,
            known,
            on_step,
            options.acting,
            stop_on_nonfinite=options.stop_on_nonfinite,
            record_states=options.record_states,
            buffer_mb=options.buffer_mb,
            compressor=options.compressor,
            encode_in=options.encode_in,
            commit_seconds=options.commit_seconds,
        )
    finally:
        simulation.close()
    notes = tuple(rate_notes(queue.present)) if queue else ()
    return CollectResult(steps, False, *_ends(queue), notes)


def _check(options: CollectOptions) -> None:
    if options.max_steps < 1:
        raise InputError(f"max_steps: expected at least 1, got {options.max_steps}")
    if options.passes is not None and options.passes < 1:
        raise InputError(f"passes: expected at least 1, got {options.passes}")
    if options.student_history < 0:
        raise InputError(f"student_history: expected 0 or more, got {options.student_history}")
    if options.acting.start != FIRST and options.motion is None:
        raise InputError(f"start: expected only with motions, got {options.start!r}")
    unknown = set(options.allow_changed) - set(PROTECTED)
    if unknown:
        raise InputError(f"allow_changed: expected some of {PROTECTED}, got {sorted(unknown)}")


def _queue(options: CollectOptions, told: Mapping[str, Any]) -> MotionQueue | None:
    if options.motion is None:
        return None
    motions = find_motions(options.motion)
    gone = missing_motions(motions, told)
    if gone and "motions" not in options.allow_changed:
        raise StoreMismatchError(
            f"{options.output} was collected from {len(gone)} motions that are gone or changed, "
            f"{gone[0]} first; allow_changed='motions' goes on without them"
        )
    return MotionQueue(motions, options.passes, told)


def _is_done(
    dataset: TrajectoryDataset, options: CollectOptions, queue: MotionQueue | None
) -> bool:
    if dataset.status != COMPLETE:
        return False
    return dataset.num_steps >= options.max_steps or (queue is not None and queue.exhausted)


def _ends(queue: MotionQueue | None) -> tuple[int, int]:
    return (queue.completed, queue.fell) if queue else (0, 0)


def _origin(options: CollectOptions) -> Origin:
    return Origin(
        simulator="mjlab",
        task=options.task,
        checkpoint=file_identity(options.checkpoint),
        runner_cfg=runner_cfg(options.task),
        observations={
            "teacher_noise": options.teacher_noise,
            "student_history": options.student_history,
            "student_noise": options.student_noise,
        },
        acting=options.acting.told(),
        notes={"seed": options.seed, "passes": options.passes},
    )


def _options_now(options: CollectOptions, known: TrajectoryDataset | None) -> CollectOptions:
    """As many environments as the store has, and another seed for each run.

    Or a resumed one would draw the first one's noise again.
    """
    if known is None or not known.num_envs:
        return options
    num_envs = options.num_envs or known.num_envs
    return replace(options, num_envs=num_envs, seed=options.seed + len(known.state.runs))
