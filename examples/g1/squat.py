"""What the demo records in each simulator: a G1 that squats, by an expert that comes along."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from mosaic_collect import IsaacLabCollectOptions, MjlabCollectOptions
from mosaic_collect.checks import needed

Options = MjlabCollectOptions | IsaacLabCollectOptions

MJLAB, ISAACLAB = "mjlab", "isaaclab"
TASK = "Mjlab-Tracking-Flat-Unitree-G1"
#: Frames of Isaac Lab's squats; each has a depth of its own.
_FRAMES = [126, 101, 126]
#: Noise of the actions, in mjlab: some trajectories fail.
_NOISE = 0.6


#: mjlab's motion, and the expert that tracks it.
MOTION, EXPERT = (
    str(Path(__file__).parent / "assets" / name) for name in ("g1_squat.npz", "g1_expert.pt")
)


def squat(sim: str, output: str, num_envs: int, device: str | None, more_steps: int) -> Options:
    """The options of the demo's recording, which ends ``more_steps`` behind its longest motion.

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
        return _in_isaaclab(output, told, more_steps)
    return _in_mjlab(told, more_steps)


def _in_mjlab(told: dict[str, Any], more_steps: int) -> Options:
    frames = int(np.load(MOTION)["joint_pos"].shape[0])
    return MjlabCollectOptions(
        task=TASK,
        motion=MOTION,
        checkpoint=EXPERT,
        max_steps=more_steps + frames,
        action_noise=_NOISE,
        record_states=True,
        **told,
    )


def _in_isaaclab(output: str, told: dict[str, Any], more_steps: int) -> Options:
    install = "scripts/demo.sh --sim isaaclab installs both"
    with needed(f"the demo needs Isaac Lab 3, and mjlab for its robot: {install}", opengl=True):
        from examples.g1 import isaaclab as g1
        from examples.g1.isaaclab.motions import write_motions
    motions = Path(output) / "motions"
    return IsaacLabCollectOptions(
        task=g1.TEACHER,
        tasks_module=g1.__name__,
        student_task=g1.STUDENT,
        motion=write_motions(motions, _FRAMES),
        checkpoint=str(g1.EXPERT),
        max_steps=more_steps + max(_FRAMES),
        **told,
    )
