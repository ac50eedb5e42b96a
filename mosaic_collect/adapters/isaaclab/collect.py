"""Collecting in Isaac Lab: a registered task, or motions in an environment of one's own.

Nothing here imports Isaac Lab before ``launch.installed`` has said which one it is.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from mosaic_collect.adapters.isaaclab.launch import installed, launcher_flags
from mosaic_collect.adapters.isaaclab.motion import MosaicMotionTracker, loaded_motions
from mosaic_collect.adapters.isaaclab.options import CollectOptions, MotionOptions
from mosaic_collect.adapters.isaaclab.simulation import MotionSimulation
from mosaic_collect.adapters.isaaclab.task import IsaacLab, trajectories_left
from mosaic_collect.adapters.rsl_rl.collect import CollectResult, collect_into
from mosaic_collect.collection.acting import AS_TRAINED, Acting
from mosaic_collect.collection.fitting import fit_motions
from mosaic_collect.collection.motion_queue import MotionQueue
from mosaic_collect.collection.motions import Motion, find_motions
from mosaic_collect.collection.origin import Origin, refuse_changes
from mosaic_collect.collection.ranks import RankStore
from mosaic_collect.collection.record import GroupedPolicy, Watch, record
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.store.ranks import blobs_at
from mosaic_collect.store.view import goes_on

__all__ = ["CollectOptions", "CollectResult", "MotionOptions", "collect_motions", "run_collect"]


def run_collect(
    options: CollectOptions,
    on_step: Watch | None = None,
    on_end: Callable[[CollectResult], object] | None = None,
    *,
    flags: argparse.Namespace | None = None,
    found: Sequence[Motion] | None = None,
) -> CollectResult:
    """``collect_into``, in a registered task of whichever generation is installed.

    Args:
        options: All of it.
        on_step: Called with the writer after each step; what it raises ends the run, committed.
        on_end: Called with the result; behind it Isaac Sim may end the process.
        flags: Of Isaac Lab's launcher, parsed; None: as ``options.launcher`` says.
        found: The motions that lie at ``options.motion``, if they were read before.

    Raises:
        MissingDependencyError: Isaac Lab is not installed, or the task needs Isaac Sim.
        InputError: A bad option or motion; or a row with NaN or infinity that stops the run.
        StoreMismatchError: On resume, what must not change has changed.
        StoreError, WriteError: Of the writer.
    """
    options.check()
    if found is None and options.motion is not None:
        found = find_motions(os.path.realpath(options.motion))  # as MOSAIC resolves it
    seat = RankStore.of(options.output, options.distributed)
    launch = installed()
    flags = launcher_flags(launch, options.launcher) if flags is None else flags
    if seat.rank is not None and options.device is None and torch.cuda.is_available():
        flags.distributed = True  # Kit and the simulation take the local rank's device
    with launch.session(flags):
        simulator = IsaacLab(options, launch, flags, found, seat)
        result = collect_into(options, simulator, on_step, seat)
        if on_end is not None:
            on_end(result)
    return result


def collect_motions(
    env: Any,
    policy: GroupedPolicy,
    store: str | os.PathLike[str],
    options: MotionOptions,
    origin: Origin,
    *,
    resume: bool | str = False,
    on_step: Watch | None = None,
    motions: Sequence[Motion] = (),
    stop_on_nonfinite: bool = False,
    acting: Acting = AS_TRAINED,
    **writer_options: Any,
) -> MotionQueue:
    """Record each motion once, from where the command starts it; commits and completes the store.

    Args:
        env: The rsl_rl wrapper.
        policy: Loaded for it.
        store: Where to.
        options: Which motions.
        origin: Where the data come from; a resume must find the same in the store.
        resume: Go on with the store; motions that it calls done are left out. "auto": if it is
            there.
        on_step: Called with the writer after each step.
        motions: As ``fit_folder`` gave them, if the command was given its folder.
        stop_on_nonfinite: End the run with the first row that holds NaN or infinity.
        acting: Whose actions are executed, and how disturbed.
        **writer_options: Of ``TrajectoryWriter``, such as ``buffer_mb``.

    Returns:
        The motions and what became of them.

    Raises:
        InputError: A bad option or motion, or no motion is left to choose from; or a row with NaN
            or infinity that stops the run.
        StoreMismatchError: On resume, the store is of another origin.
        StoreError, WriteError: Of the writer.
    """
    known = TrajectoryDataset(store) if goes_on(blobs_at(store), resume) else None
    refuse_changes(known, origin)
    chosen = options.chosen(loaded_motions(env.unwrapped, motions))
    queue = MotionQueue(chosen, 1, known.metadata if known else {})
    steps = 1.0 / env.unwrapped.step_dt  # a second
    queue.take(fit_motions(queue.present, steps, allow_fps=options.allow_fps))
    tracker = MosaicMotionTracker(
        env.unwrapped,
        queue,
        options.steps_per_trajectory,
        trajectories_left(options.max_trajectories, queue),
    )
    record(
        MotionSimulation(env, tracker),
        policy,
        tracker,
        store,
        origin,
        options.max_steps or sys.maxsize,
        known,
        on_step,
        acting,
        stop_on_nonfinite=stop_on_nonfinite,
        **writer_options,
    )
    return queue
