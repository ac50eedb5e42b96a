"""Where a robot was in each row of a trajectory, and where its reference was.

qpos          as it was recorded, --record-states
reference     of the motion's file: root body, joints; moved to the environment's origin
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.collection.fitting import resample
from mosaic_collect.collection.motions import (
    Motion,
    file_sha256,
    find_motions,
    read_arrays,
    read_contents,
    recorded_motions,
)
from mosaic_collect.collection.states import ORIGIN, QPOS
from mosaic_collect.errors import InputError, StoreMismatchError
from mosaic_collect.reading.trajectories import Trajectory


@dataclass(frozen=True)
class Layout:
    """Where a robot's generalised positions lie among all of its scene's.

    Attributes:
        root: Places of the free base: x, y, z and a quaternion w, x, y, z.
        joints: Places of the joints, in the order of a motion's.
    """

    root: slice
    joints: Sequence[int]


@dataclass(frozen=True)
class Poses:
    """Generalised positions, ``(num_steps, nq)`` float64.

    Attributes:
        robot: As recorded; None: its states were not.
        reference: Of the motion that it followed; None: it is not known.
        notes: What is not shown, and why.
    """

    robot: NDArray[np.float64] | None
    reference: NDArray[np.float64] | None
    notes: tuple[str, ...]


def trajectory_poses(
    told: Mapping[str, Any],
    trajectory: Trajectory,
    nq: int,
    layout: Layout | None,
    motion: str | None,
) -> Poses:
    """What can be shown of a trajectory.

    Args:
        told: Its store's metadata.
        trajectory: Which.
        nq: Width of the scene's generalised positions.
        layout: Of the robot that follows motions; None: none does.
        motion: A file or folder in which its motion lies by now; None: where it lay.

    Raises:
        InputError: There is nothing to show, and why; or ``motion`` holds no motions; or the
            states are not of this scene.
    """
    notes = []
    robot = origins = reference = None
    if QPOS in trajectory:
        width = trajectory.schema[QPOS].width
        if width != nq:
            raise InputError(f"{QPOS}: expected {nq} as the task's scene has, got {width}")
        robot = trajectory[QPOS][...].astype(np.float64)
        if ORIGIN in trajectory:
            origins = trajectory[ORIGIN][...].astype(np.float64)
    else:
        notes.append("the robot is not shown: its states were not recorded")
    try:
        arrays = _motion_arrays(told, trajectory, motion)
        if layout is None or len(layout.joints) != arrays["joint_pos"].shape[1]:
            raise _NotShown("its motion is not of this task's robot")
        frames = trajectory["motion_frame"][...]
        reference = _reference(nq, layout, arrays, frames, origins)
    except _NotShown as why:
        notes.append(f"the reference is not shown: {why}")
    if robot is None and reference is None:
        raise InputError(f"trajectory {trajectory.id}: {'; '.join(notes)}")
    return Poses(robot, reference, tuple(notes))


class _NotShown(Exception):  # noqa: N818  no error: a note
    """Why a reference cannot be shown."""


def _motion_arrays(
    told: Mapping[str, Any], trajectory: Trajectory, path: str | None
) -> dict[str, NDArray[Any]]:
    """The arrays of its motion, as they were played."""
    if trajectory.motion is None or "motion_frame" not in trajectory:
        raise _NotShown("the store tells of no motion that it followed")
    try:
        motions = recorded_motions(told)
    except StoreMismatchError as error:
        raise _NotShown(f"the metadata name motions in another form: {error}") from error
    if not 0 <= trajectory.motion < len(motions):
        raise _NotShown("the store tells of no motion that it followed")
    motion = motions[trajectory.motion]
    file = _found(motion, path)
    if file is None:
        raise _NotShown(f"{motion.path} is gone or another file; motion= says where it lies")
    arrays = read_arrays(file)
    if motion.resampled is not None and motion.played_fps is not None:
        arrays = resample(arrays, motion.played_fps)
    return arrays


def _found(motion: Motion, path: str | None) -> str | None:
    """Its file, by content."""
    if path is not None:
        return {m.sha256: m.path for m in find_motions(path)}.get(motion.sha256)
    there = os.path.isfile(motion.path) and file_sha256(motion.path) == motion.sha256
    return motion.path if there and read_contents(motion.path)[0] is not None else None


def _reference(
    nq: int,
    layout: Layout,
    arrays: Mapping[str, NDArray[Any]],
    frames: NDArray[Any],
    origins: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    if not (frames.min() >= 0 and frames.max() < len(arrays["joint_pos"])):
        raise _NotShown("its motion is shorter than the frames that were recorded")
    qpos = np.zeros((len(frames), nq))
    place = arrays["body_pos_w"][frames, 0] + (0.0 if origins is None else origins)
    qpos[:, layout.root] = np.concatenate([place, arrays["body_quat_w"][frames, 0]], axis=1)
    qpos[:, layout.joints] = arrays["joint_pos"][frames]
    return qpos
