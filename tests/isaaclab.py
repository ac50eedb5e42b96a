"""Collections in an Isaac Lab environment that a test made itself."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mosaic_collect import TrajectoryDataset
from mosaic_collect.adapters.isaaclab.collect import IsaacLabSimulation
from mosaic_collect.adapters.isaaclab.motion import MosaicMotionTracker
from mosaic_collect.adapters.isaaclab.options import IsaacLabCollectOptions
from mosaic_collect.collection.acting import AS_TRAINED, Acting
from mosaic_collect.collection.fitting import fit_motions
from mosaic_collect.collection.motion_queue import MotionQueue
from mosaic_collect.collection.motions import Motion, read_motions
from mosaic_collect.collection.ranks import refuse_changes
from mosaic_collect.collection.record import record


def loaded_motions(env: Any) -> list[Motion]:
    """The motions that the environment's command has loaded, by path; twins only once."""
    command = env.command_manager.get_term("motion")
    return read_motions(str(path) for path in command.motion_dir_loader.motion_paths)


def collect_motions(
    env: Any,
    policy: Any,
    store: Path,
    origin: Mapping[str, Any],
    *,
    max_steps: int | None = None,
    resume: bool = False,
    acting: Acting = AS_TRAINED,
    allow_fps: bool = False,
    buffer_mb: float = 1,
    **options: Any,
) -> MotionQueue:
    """Record each motion once, from where the command starts it; gives what became of them."""
    known = TrajectoryDataset(store) if resume else None
    refuse_changes(known, origin)
    choice = IsaacLabCollectOptions(task="", checkpoint="", output="", **options)
    queue = MotionQueue(
        choice.chosen(loaded_motions(env.unwrapped)), 1, known.metadata if known else {}
    )
    queue.take(fit_motions(queue.present, 1.0 / env.unwrapped.step_dt, allow_fps=allow_fps))
    limits = choice.steps_per_trajectory, choice.max_trajectories
    tracker = MosaicMotionTracker(env.unwrapped, queue, *limits)
    record(
        *(IsaacLabSimulation(env, {}, tracker), policy, store, origin),
        *(max_steps or sys.maxsize, known, None, acting),
        buffer_mb=buffer_mb,
    )
    return queue
