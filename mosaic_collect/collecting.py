"""``mosaic-collect collect``: from a task, a checkpoint and motions to a store."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mosaic_collect.adapters.mjlab import STUDENT, MjlabOptions, MjlabSimulation
from mosaic_collect.adapters.mjlab_motion import MotionAccount
from mosaic_collect.dataset import TrajectoryDataset
from mosaic_collect.errors import InputError, StoreMismatchError
from mosaic_collect.metadata import COMPLETE
from mosaic_collect.motions import MotionQueue, file_sha256, find_motions, missing_motions
from mosaic_collect.rollout import EpisodeAccount, collect, collected_schema, teacher_rows
from mosaic_collect.schema import Field, Schema
from mosaic_collect.writer import TrajectoryWriter

MOTION_FIELDS = (
    Field(name="motion_id", dtype="int32"),
    Field(name="motion_frame", dtype="int32"),
)
#: What a resume refuses to find changed, unless it is allowed by this name.
PROTECTED = ("task", "checkpoint", "motions", "observations")


@dataclass(frozen=True, kw_only=True)
class CollectOptions:
    """One collection.

    Attributes:
        task: Name of the mjlab task.
        checkpoint: An rsl_rl checkpoint of its policy.
        output: The store.
        max_steps: Steps of the store in all.
        motion: A motion file, or a folder of them; None for tasks without motions.
        num_envs: Environments; None: the store's on resume, else 64.
        passes: Trajectories of each motion; None: go round until ``max_steps``.
        resume: Go on with the store.
        allow_changed: Which of ``PROTECTED`` may differ on resume.
        device: Of simulation, policy and staging; None: CUDA if there is one.
        seed: Of noise; a resumed run draws other noise.
        teacher_noise: Whether the policy sees noise, as in training.
        student_history: Frames of the student's observation; 0: none is recorded.
        student_noise: Whether the student's observation is noisy.
        buffer_mb: Of the writer.
        compressor: Of the writer.
        encode_in: Of the writer.
        checkpoint_seconds: Of the writer.
    """

    task: str
    checkpoint: str
    output: str
    max_steps: int
    motion: str | None = None
    num_envs: int | None = None
    passes: int | None = None
    resume: bool = False
    allow_changed: tuple[str, ...] = ()
    device: str | None = None
    seed: int = 0
    teacher_noise: bool = True
    student_history: int = 5
    student_noise: bool = True
    buffer_mb: float | str = "auto"
    compressor: str = "auto"
    encode_in: str = "auto"
    checkpoint_seconds: float | None = 60.0


@dataclass(frozen=True)
class CollectResult:
    """What a collection came to.

    Attributes:
        num_steps: Of the store.
        already_complete: Nothing was to be done.
        completed: Trajectories that reached their motion's end, over all runs.
        fell: That ended before.
    """

    num_steps: int
    already_complete: bool
    completed: int
    fell: int


Watch = Callable[[TrajectoryWriter], object]


def run_collect(options: CollectOptions, on_step: Watch | None = None) -> CollectResult:
    """Collect into a new or an unfinished store.

    Args:
        options: All of it.
        on_step: Called with the writer after each step; what it raises ends the run, committed.

    Raises:
        InputError: A bad option.
        StoreMismatchError: On resume, what must not change has changed.
        StoreError, WriteError: Of the writer.
    """
    _check(options)
    known = TrajectoryDataset(options.output) if options.resume else None
    told = known.metadata if known else {}
    queue = _queue(options, told)
    if known is not None and _is_done(known, options, queue):
        return CollectResult(known.num_steps, True, *_ends(queue))
    if known is not None and known.num_envs:
        _refuse_changes(_about(options, queue), told, options)
    simulation = MjlabSimulation(_simulation_options(options, known), queue)
    try:
        steps = _record(options, simulation, queue, known, on_step)
    finally:
        simulation.close()
    return CollectResult(steps, False, *_ends(queue))


def _record(
    options: CollectOptions,
    simulation: MjlabSimulation,
    queue: MotionQueue | None,
    known: TrajectoryDataset | None,
    on_step: Watch | None,
) -> int:
    policy = simulation.policy(options.checkpoint)
    groups = {name: simulation.group_dims[name] for name in policy.shapes}
    student = STUDENT if STUDENT in simulation.group_dims else None
    about = {**_about(options, queue), "groups": groups, "runner_cfg": simulation.runner_cfg}
    with TrajectoryWriter(
        options.output,
        collected_schema(_schema(simulation, groups, student, queue), known),
        simulation.num_envs,
        device=simulation.device,
        buffer_mb=options.buffer_mb,
        metadata={**about, **(queue.ledger() if queue else {})},
        compressor=options.compressor,
        encode_in=options.encode_in,
        resume=options.resume,
        checkpoint_seconds=options.checkpoint_seconds,
    ) as writer:
        account = (
            EpisodeAccount(simulation.num_envs, simulation.device)
            if simulation.command is None
            else MotionAccount(simulation.command)
        )
        collect(
            simulation,
            policy,
            writer,
            teacher_rows(tuple(groups), student),
            account,
            options.max_steps,
            on_step=None if on_step is None else lambda: on_step(writer),
        )
    return writer.num_steps


def _schema(
    simulation: MjlabSimulation,
    groups: Mapping[str, int],
    student: str | None,
    queue: MotionQueue | None,
) -> Schema:
    return Schema.mosaic(
        obs_dim=sum(groups.values()),
        action_dim=simulation.num_actions,
        student_obs_dim=simulation.group_dims[student] if student else None,
        extra=MOTION_FIELDS if queue else (),
    )


def _check(options: CollectOptions) -> None:
    if options.max_steps < 1:
        raise InputError(f"max_steps: expected at least 1, got {options.max_steps}")
    if options.passes is not None and options.passes < 1:
        raise InputError(f"passes: expected at least 1, got {options.passes}")
    if options.student_history < 0:
        raise InputError(f"student_history: expected 0 or more, got {options.student_history}")
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
            f"{gone[0]} first; allow 'motions' to go on without them"
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


def _about(options: CollectOptions, queue: MotionQueue | None) -> dict[str, Any]:
    """What the store is told of its origin, and a resume must find again."""
    return {
        "simulator": "mjlab",
        "task": options.task,
        "checkpoint": {
            "path": os.path.abspath(options.checkpoint),
            "sha256": file_sha256(options.checkpoint),
        },
        "observations": {
            "teacher_noise": options.teacher_noise,
            "student_history": options.student_history,
            "student_noise": options.student_noise,
        },
        "seed": options.seed,
        "passes": options.passes,
    }


def _refuse_changes(
    now: Mapping[str, Any], told: Mapping[str, Any], options: CollectOptions
) -> None:
    before = {"task": told.get("task"), "observations": told.get("observations")}
    before["checkpoint"] = (told.get("checkpoint") or {}).get("sha256")
    after = {"task": now["task"], "observations": now["observations"]}
    after["checkpoint"] = now["checkpoint"]["sha256"]
    changed = [
        f"{name}: expected {before[name]}, got {after[name]}"
        for name in before
        if before[name] != after[name] and name not in options.allow_changed
    ]
    if changed:
        raise StoreMismatchError(
            f"{options.output} was collected otherwise: {'; '.join(changed)}; "
            "--allow-changed NAME goes on all the same"
        )


def _simulation_options(options: CollectOptions, known: TrajectoryDataset | None) -> MjlabOptions:
    import torch

    device = options.device or ("cuda:0" if torch.cuda.is_available() else "cpu")
    # Another seed for each run, or a resumed one would draw the first one's noise again.
    runs = len(known.state.runs) if known is not None and known.num_envs else 0
    made = MjlabOptions(
        task=options.task,
        num_envs=options.num_envs or 64,
        device=device,
        seed=options.seed + runs,
        teacher_noise=options.teacher_noise,
        student_history=options.student_history,
        student_noise=options.student_noise,
    )
    if known is not None and known.num_envs and options.num_envs is None:
        made = replace(made, num_envs=known.num_envs)
    return made
