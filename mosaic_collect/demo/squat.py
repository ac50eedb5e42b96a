"""What the demo records in each simulator: a G1 that squats, by an expert that comes along."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from mosaic_collect.adapters.rsl_rl.collect import CollectResult
from mosaic_collect.checks import needed

MJLAB, ISAACLAB = "mjlab", "isaaclab"
TASK = "Mjlab-Tracking-Flat-Unitree-G1"
#: Frames of Isaac Lab's squats; each has a depth of its own.
_FRAMES = [126, 101, 126]


@dataclass(frozen=True)
class Squat:
    """One recording.

    Attributes:
        options: Of the collection; a frozen dataclass.
        collect: ``run_collect`` of the simulator.
    """

    options: Any
    collect: Callable[..., CollectResult]


@contextmanager
def assets() -> Iterator[tuple[str, str]]:
    """The paths of mjlab's motion and of the expert that tracks it."""
    folder = resources.files("mosaic_collect.demo") / "assets"
    with (
        resources.as_file(folder / "g1_squat.npz") as motion,
        resources.as_file(folder / "g1_expert.pt") as checkpoint,
    ):
        yield str(motion), str(checkpoint)


@contextmanager
def squat(
    sim: str, output: str, num_envs: int, device: str | None, more_steps: int
) -> Iterator[Squat]:
    """The demo's recording, which ends ``more_steps`` behind its longest motion.

    Args:
        sim: ``mjlab`` or ``isaaclab``.
        output: A folder; the store is ``g1.zarr`` in it.
        num_envs: Environments.
        device: Of the simulation; None: CUDA if there is one.
        more_steps: Steps besides.

    Raises:
        MissingDependencyError: The simulator is not installed.
    """
    told = {"output": os.path.join(output, "g1.zarr"), "num_envs": num_envs, "device": device}
    if sim == ISAACLAB:
        yield _in_isaaclab(output, told, more_steps)
        return
    with assets() as (motion, checkpoint):
        yield _in_mjlab(motion, checkpoint, told, more_steps)


def _in_mjlab(motion: str, checkpoint: str, told: dict[str, Any], more_steps: int) -> Squat:
    from mosaic_collect.adapters.mjlab.collect import CollectOptions, run_collect

    frames = int(np.load(motion)["joint_pos"].shape[0])
    options = CollectOptions(
        task=TASK,
        motion=motion,
        checkpoint=checkpoint,
        max_steps=more_steps + frames,
        **told,
    )
    return Squat(options, run_collect)


def _in_isaaclab(output: str, told: dict[str, Any], more_steps: int) -> Squat:
    install = "scripts/demo.sh --sim isaaclab installs both"
    with needed(f"the demo needs Isaac Lab 3, and mjlab for its robot: {install}"):
        from mosaic_collect.adapters.isaaclab.collect import CollectOptions, run_collect
        from mosaic_collect.demo import isaaclab as g1
        from mosaic_collect.demo.isaaclab.motions import write_motions
    motions = Path(output) / "motions"
    options = CollectOptions(
        task=g1.TEACHER,
        tasks_module=g1.__name__,
        student_task=g1.STUDENT,
        motion=write_motions(motions, _FRAMES),
        checkpoint=str(g1.EXPERT),
        max_steps=more_steps + max(_FRAMES),
        **told,
    )
    return Squat(options, run_collect)
