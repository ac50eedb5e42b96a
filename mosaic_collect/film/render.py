"""Draw a trajectory of a store: where the robot was in each row, and where its reference was.

qpos        as it was recorded, --record-states
reference   of the motion's file: root body and joints, moved to the environment's origin

.mp4        a clip in real time, one picture per step
.png        a strip of eight pictures side by side
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import needed, output_path
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
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.trajectories import Trajectory
from mosaic_collect.store.files import write_target

_INSTALL = "pip install 'mosaic-collect[replay]'"
#: Places of a free base and of joints among the generalised positions.
_Layout = tuple[slice, Sequence[int]]
Pictures = Iterable[NDArray[np.uint8]]


@dataclass(frozen=True)
class Kind:
    """A kind of file, and the pictures in it.

    Attributes:
        width, height: Pixels of each picture; video codecs want multiples of 16.
        most: Pictures; None: one a step.
    """

    width: int
    height: int
    most: int | None = None

    def steps(self, num_steps: int) -> list[int]:
        """Which of a trajectory's are drawn: evenly apart, the first and the last among them."""
        count = min(num_steps, self.most or num_steps)
        return [round(step) for step in np.linspace(0, num_steps - 1, count)]


CLIP, STRIP = ".mp4", ".png"
KINDS = {CLIP: Kind(960, 544), STRIP: Kind(448, 544, most=8)}


@dataclass(frozen=True)
class Film:
    """A picture or clip of a trajectory.

    Attributes:
        path: The file.
        trajectory: Trajectory that was rendered.
        fps: Steps a second, in which a clip plays, too.
        shown: ``robot``, ``reference``, or both.
        notes: Parts that are not shown, and the reasons.
    """

    path: str
    trajectory: Trajectory
    fps: float
    shown: tuple[str, ...]
    notes: tuple[str, ...]


def film(
    dataset: TrajectoryDataset,
    trajectory: int,
    output: str | os.PathLike[str],
    motion: str | None = None,
    progress: Callable[[int], object] | None = None,
) -> Film:
    """Draw a trajectory in the simulator's own scene, offscreen.

    The robot is drawn where it was in each row, of stores with its states, and in green its
    reference, 1 m to the right: the motion's frame that the row tells.

    Args:
        dataset: Its store, collected in mjlab.
        trajectory: Its id.
        output: A clip, ``.mp4``, in real time; or ``.png``: eight steps of it side by side.
        motion: A file or folder where its motion lies by now; None: where it lay.
        progress: Told how many more pictures were drawn.

    Raises:
        InputError: No such trajectory, nothing of it that could be shown, or another ending.
        MissingDependencyError: OpenGL, Pillow or imageio-ffmpeg is missing.
    """
    path = check_output(output)
    simulator = dataset.metadata.get("simulator")
    if simulator != "mjlab" or not isinstance(dataset.metadata.get("task"), str):
        got = "no task" if simulator == "mjlab" else simulator or "one that does not say in what"
        raise InputError(f"{dataset.path}: expected a store collected in mjlab, got {got}")
    found = dataset.trajectory(trajectory)
    with needed(f"pictures of a robot need mjlab: {_INSTALL}", opengl=True):
        from mosaic_collect.film.scene import Stage
    stage = Stage(dataset.metadata["task"])
    poses = trajectory_poses(dataset.metadata, found, stage.nq, stage.layout, motion)
    kind = kind_of(path)
    pictures = stage.frames(
        poses.robot, poses.reference, kind.steps(found.num_steps), kind.width, kind.height
    )
    write_pictures(path, _counted(pictures, progress), stage.fps)
    shown = [("robot", poses.robot), ("reference", poses.reference)]
    names = tuple(name for name, where in shown if where is not None)
    return Film(path, found, stage.fps, names, poses.notes)


def _counted(
    pictures: Iterator[NDArray[np.uint8]], progress: Callable[[int], object] | None
) -> Iterator[NDArray[np.uint8]]:
    for picture in pictures:
        yield picture
        if progress is not None:
            progress(1)


def kind_of(path: str) -> Kind:
    """By the ending of a path that was checked."""
    return KINDS[os.path.splitext(path)[1].lower()]


def check_output(path: str | os.PathLike[str]) -> str:
    """The path, as a text, found out before the work.

    Raises:
        InputError: Another ending, or no such folder.
    """
    path = output_path(path, "output")
    if os.path.splitext(path)[1].lower() not in KINDS:
        raise InputError(f"output: expected an ending of {' or '.join(KINDS)}, got {path}")
    return path


def write_pictures(path: str, pictures: Pictures, fps: float) -> None:
    """Write the file as a whole, replacing one of that name.

    Of a clip no more than a picture is in memory at a time, and then the file.

    Args:
        path: Output file, as returned by ``check_output``.
        pictures: Pictures in the size of the path's ``kind_of``.
        fps: Pictures per second of a clip.

    Raises:
        MissingDependencyError: Pillow or imageio-ffmpeg is not installed.
    """
    kind = kind_of(path)
    data = _clip(pictures, kind, fps) if kind == KINDS[CLIP] else _strip(pictures)
    write_target(path, data)


def _strip(pictures: Pictures) -> bytes:
    with needed(f"it needs Pillow and imageio-ffmpeg: {_INSTALL}"):
        from PIL import Image
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate([*pictures], axis=1)).save(buffer, "png")
    return buffer.getvalue()


def _clip(pictures: Pictures, kind: Kind, fps: float) -> bytes:
    with needed(f"it needs Pillow and imageio-ffmpeg: {_INSTALL}"):
        from imageio_ffmpeg import write_frames
    with tempfile.TemporaryDirectory(prefix="film-") as folder:
        clip = os.path.join(folder, f"clip{CLIP}")
        writing = write_frames(clip, (kind.width, kind.height), fps=fps, quality=7)
        writing.send(None)
        try:
            for picture in pictures:
                writing.send(np.ascontiguousarray(picture))
        finally:
            writing.close()
        with open(clip, "rb") as file:
            return file.read()


@dataclass(frozen=True)
class Poses:
    """Generalised positions, ``(num_steps, nq)`` float64.

    Attributes:
        robot: Recorded poses of the robot; None: no states were recorded.
        reference: Poses of the motion that the robot followed; None: the motion is unknown.
        notes: Parts that are not shown, and the reasons.
    """

    robot: NDArray[np.float64] | None
    reference: NDArray[np.float64] | None
    notes: tuple[str, ...]


def trajectory_poses(
    told: Mapping[str, Any],
    trajectory: Trajectory,
    nq: int,
    layout: _Layout | None,
    motion: str | None,
) -> Poses:
    """What can be shown of a trajectory.

    Args:
        told: Its store's metadata.
        trajectory: Trajectory to render.
        nq: Width of the scene's generalised positions.
        layout: Places of the robot's base and joints, as ``Stage.layout``; None: no robot follows.
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
        if layout is None or len(layout[1]) != arrays["joint_pos"].shape[1]:
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
    layout: _Layout,
    arrays: Mapping[str, NDArray[Any]],
    frames: NDArray[Any],
    origins: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    if not (frames.min() >= 0 and frames.max() < len(arrays["joint_pos"])):
        raise _NotShown("its motion is shorter than the frames that were recorded")
    qpos = np.zeros((len(frames), nq))
    place = arrays["body_pos_w"][frames, 0] + (0.0 if origins is None else origins)
    qpos[:, layout[0]] = np.concatenate([place, arrays["body_quat_w"][frames, 0]], axis=1)
    qpos[:, layout[1]] = arrays["joint_pos"][frames]
    return qpos
