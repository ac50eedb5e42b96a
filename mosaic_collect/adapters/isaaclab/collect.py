"""Collecting MOSAIC's motions in an Isaac Lab environment; what the script does after its flags.

Made for Isaac Lab 2.1 to 2.3 and its ``RslRlVecEnvWrapper``, of either rsl_rl generation. Nothing
here imports Isaac Lab: it is handed an environment whose config ``cfg`` went over.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mosaic_collect.adapters.isaaclab.motion import MosaicMotionTracker, loaded_motions
from mosaic_collect.adapters.isaaclab.simulation import MotionSimulation
from mosaic_collect.collection.acting import AS_TRAINED, Acting
from mosaic_collect.collection.motions import Motion, MotionQueue
from mosaic_collect.collection.origin import Origin, refuse_changes
from mosaic_collect.collection.rates import played
from mosaic_collect.collection.record import GroupedPolicy, Watch, record
from mosaic_collect.errors import InputError
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.store.address import blobs_at
from mosaic_collect.store.root import goes_on

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class MotionOptions:
    """Which motions are collected, and how much of each.

    Attributes:
        start_index: First motion, in the order of paths.
        end_index: Behind the last; None: all.
        steps_per_trajectory: End a trajectory after that many rows; None: at its motion's end.
        max_trajectories: Begin no more than that many, over all runs; None: each motion once.
        max_steps: Of the store in all; None: no end but the motions'.
        rank: Of this process among ``world``, which share the motions.
        world: Processes.
        allow_fps: Play motions of another rate than the task's steps frame by frame.
    """

    start_index: int = 0
    end_index: int | None = None
    steps_per_trajectory: int | None = None
    max_trajectories: int | None = None
    max_steps: int | None = None
    rank: int = 0
    world: int = 1
    allow_fps: bool = False

    def chosen(self, motions: Sequence[_T]) -> list[_T]:
        """Those of this process, of motions or their files in the order of paths.

        Raises:
            InputError: There is none, or a number makes no sense.
        """
        problems = [
            f"{name}: expected at least 1, got {value}"
            for name in ("steps_per_trajectory", "max_trajectories", "max_steps")
            if (value := getattr(self, name)) is not None and value < 1
        ]
        if self.start_index < 0:
            problems.append(f"start_index: expected 0 or more, got {self.start_index}")
        found = list(motions[max(self.start_index, 0) : self.end_index][self.rank :: self.world])
        if not found:
            problems.append(
                f"motions {self.start_index}..{self.end_index}: none for process {self.rank} of "
                f"{self.world} among {len(motions)}"
            )
        if problems:
            raise InputError("; ".join(problems))
        return found


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
        motions: As ``played_folder`` gave them, if the command was given its folder.
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
    queue.take(played(queue.present, steps, allow_fps=options.allow_fps))
    tracker = MosaicMotionTracker(
        env.unwrapped, queue, options.steps_per_trajectory, _left(options.max_trajectories, queue)
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


def _left(max_trajectories: int | None, queue: MotionQueue) -> int | None:
    if max_trajectories is None:
        return None
    return max(max_trajectories - queue.completed - queue.fell, 0)
