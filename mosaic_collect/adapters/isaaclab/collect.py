"""Collecting in a registered task of Isaac Lab.

Nothing here imports Isaac Lab before ``launch.installed`` has said which one it is.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence

import torch

from mosaic_collect.adapters.isaaclab.launch import installed, launcher_flags
from mosaic_collect.adapters.isaaclab.options import CollectOptions, MotionOptions
from mosaic_collect.adapters.isaaclab.task import IsaacLab
from mosaic_collect.adapters.rsl_rl.collect import CollectResult, collect_into
from mosaic_collect.collection.motions import Motion, find_motions
from mosaic_collect.collection.ranks import RankStore
from mosaic_collect.collection.record import Watch

__all__ = ["CollectOptions", "CollectResult", "MotionOptions", "run_collect"]


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
