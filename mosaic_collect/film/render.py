"""Render trajectories of a store: the robot in each row, and its reference beside it.

qpos        as it was recorded, --record-states
reference   of the motion's file: root body and joints, moved to the environment's origin

.mp4, .gif   a video in real time, one picture per step; several trajectories as a grid
.png         eight pictures side by side; several trajectories one below the other
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import local_path, needed, output_path
from mosaic_collect.collection.fitting import resample
from mosaic_collect.collection.groups import ORIGIN, QPOS
from mosaic_collect.collection.motions import (
    Motion,
    file_sha256,
    find_motions,
    read_arrays,
    read_motion,
    recorded_motions,
)
from mosaic_collect.errors import InputError, StoreMismatchError
from mosaic_collect.look.charts import evenly_spaced
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.terms import usable_robot
from mosaic_collect.reading.trajectories import Trajectory
from mosaic_collect.store.files import write_target

if TYPE_CHECKING:
    from mosaic_collect.film.scene import Layout

_INSTALL = "pip install 'mosaic-collect[replay]'"
_PILLOW = f"pictures need Pillow: {_INSTALL}"
Picture = NDArray[np.uint8]

STRIP = ".png"
ENDINGS = (".mp4", ".gif", STRIP)
#: Pixels of a picture by the number of columns of a grid; video codecs want multiples of 16.
_SIZES = {1: (960, 544), 2: (640, 368), 3: (432, 240)}
_SMALL = (320, 192)
_STRIP_SIZE, _STRIP_STEPS = (448, 544), 8
_GIF_FPS = 25.0  # about: browsers slow down faster ones


@dataclass(frozen=True)
class Film:
    """Rendered trajectories."""

    path: str
    trajectories: tuple[Trajectory, ...]
    fps: float  # steps per second, at which a video plays, too
    shown: tuple[str, ...]  # ``robot``, ``reference``, or both
    notes: tuple[str, ...]  # parts that are not shown, and the reasons


def film(
    dataset: TrajectoryDataset,
    trajectories: int | Sequence[int],
    output: str | os.PathLike[str],
    motion: str | None = None,
    progress: Callable[[int], object] | None = None,
    model: str | None = None,
) -> Film:
    """Render trajectories in the simulator's own scene, or with a robot's model, offscreen.

    The robot is drawn where it was in each row, of stores with its states, and in green its
    reference, 1 m to the right. Id, motion, frame, time and end are written into the pictures.

    Args:
        dataset: Store that was collected in mjlab, or in Isaac Lab 3 with a ``model``.
        trajectories: Id of a trajectory, or of several.
        output: A video, ``.mp4`` or ``.gif``, in real time; or ``.png``: eight steps side by side.
        motion: File or folder of the motions, if they have moved; None: the recorded paths.
        progress: Called with the number of pictures drawn since the last call.
        model: MuJoCo's model of the robot, an MJCF file; None: the scene of mjlab's task.

    Raises:
        InputError: No such trajectory, nothing of it that could be shown, another ending, or a
            model without the recorded joints.
        MissingDependencyError: OpenGL, Pillow or imageio-ffmpeg is missing.
    """
    path = check_output(output)
    ids = [trajectories] if isinstance(trajectories, int) else list(trajectories)
    scene = _Scene(dataset, ids, motion, model)

    def counted() -> Iterator[Picture]:
        for picture in scene.strips() if path.lower().endswith(STRIP) else scene.grid():
            yield picture
            if progress is not None:
                progress(1)

    write_pictures(path, counted(), scene.fps)
    names = ("robot", "reference")
    shown = tuple(n for n in names if any(getattr(p, n) is not None for p in scene.poses))
    notes = dict.fromkeys(note for poses in scene.poses for note in poses.notes)
    return Film(path, tuple(scene.trajectories), scene.fps, shown, tuple(notes))


def render_strip(dataset: TrajectoryDataset, trajectory: int) -> bytes:
    """Render eight steps of a trajectory side by side, as a JPEG; errors are those of ``film``."""
    return encode(_Scene(dataset, [trajectory]).strips((224, 272)), ".jpg", 1.0)


class _Scene:
    """Trajectories, their poses, and the task's scene."""

    def __init__(
        self,
        dataset: TrajectoryDataset,
        ids: Sequence[int],
        motion: str | None = None,
        model: str | None = None,
    ) -> None:
        simulator, task = dataset.metadata.get("simulator"), dataset.metadata.get("task")
        if model is None and (simulator != "mjlab" or not isinstance(task, str)):
            got = "no task" if simulator == "mjlab" else simulator or "none in its metadata"
            raise InputError(
                f"{dataset.path}: expected a store collected in mjlab, or a model of its robot "
                f"(an MJCF file), got {got}"
            )
        self.trajectories = [dataset.trajectory(number) for number in ids]
        with needed(f"pictures of a robot need mjlab: {_INSTALL}", opengl=True):
            from mosaic_collect.film.scene import Stage
        if model is None:
            self._stage = stage = Stage.of_task(str(task))
        else:
            robot = usable_robot(dataset.metadata)
            self._stage = stage = Stage.of_model(local_path(model, "model"), robot)
        self.fps = stage.fps
        self.poses = [
            trajectory_poses(dataset.metadata, one, stage.nq, stage.layout, motion)
            for one in self.trajectories
        ]

    def strips(self, size: tuple[int, int] = _STRIP_SIZE) -> Iterator[Picture]:
        """A strip of steps per trajectory, evenly apart, the first and the last among them."""
        for at, one in enumerate(self.trajectories):
            steps = evenly_spaced(one.num_steps, _STRIP_STEPS).tolist()
            yield np.concatenate([*self._pictures(at, steps, size)], axis=1)

    def grid(self) -> Iterator[Picture]:
        """Pictures of all trajectories beside each other; those that are over stand still."""
        count = len(self.trajectories)
        columns = int(np.ceil(np.sqrt(count)))
        size, longest = _SIZES.get(columns, _SMALL), max(t.num_steps for t in self.trajectories)
        tiles = [
            self._pictures(at, [min(step, one.num_steps - 1) for step in range(longest)], size)
            for at, one in enumerate(self.trajectories)
        ]
        empty = np.full((size[1], size[0], 3), 255, np.uint8)
        for pictures in zip(*tiles, strict=True):
            every = [*pictures, *[empty] * (-count % columns)]
            rows = [every[at : at + columns] for at in range(0, len(every), columns)]
            yield np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0)

    def _pictures(self, at: int, steps: Sequence[int], size: tuple[int, int]) -> Iterator[Picture]:
        one, poses = self.trajectories[at], self.poses[at]
        frames = one["motion_frame"][...] if "motion_frame" in one else None
        pictures = self._stage.frames(poses.robot, poses.reference, steps, *size)
        for step, picture in zip(steps, pictures, strict=True):
            words = [f"trajectory {one.id}", f"{step / self.fps:.2f} s"]
            if frames is not None:
                words.insert(1, f"motion {one.motion}, frame {frames[step]}")
            if step == one.num_steps - 1:
                words.append(one.end)
            yield write_text(picture, "\n".join(words))


def write_text(picture: Picture, text: str) -> Picture:
    """A picture with lines of text in its upper left corner."""
    with needed(_PILLOW):
        from PIL import Image, ImageDraw, ImageFont
    image = Image.fromarray(picture)
    font = ImageFont.load_default(max(15, picture.shape[1] // 30))
    look = {"fill": "white", "stroke_width": 1, "stroke_fill": "black", "spacing": 2}
    ImageDraw.Draw(image).multiline_text((8, 6), text, font=font, **look)
    return np.asarray(image)


def check_output(path: str | os.PathLike[str]) -> str:
    """Check the ending and the folder of a film's path; return it as a text."""
    path = output_path(path, "output")
    if os.path.splitext(path)[1].lower() not in ENDINGS:
        raise InputError(f"output: expected an ending of {', '.join(ENDINGS)}, got {path}")
    return path


def write_pictures(path: str, pictures: Iterable[Picture], fps: float) -> None:
    """Write a file in the format of its ending, whole or not at all, replacing one of that name."""
    write_target(path, encode(pictures, os.path.splitext(path)[1].lower(), fps))


def encode(pictures: Iterable[Picture], ending: str, fps: float) -> bytes:
    """Encode pictures of one size: a video, or a picture with one below the other.

    A video needs memory for one picture and for the file.
    """
    if ending == ".mp4":
        return _encode_video(iter(pictures), fps)
    with needed(_PILLOW):
        from PIL import Image
    buffer = io.BytesIO()
    if ending == ".gif":
        every = max(1, round(fps / _GIF_FPS))
        more = map(Image.fromarray, islice(pictures, 0, None, every))
        look = {"save_all": True, "duration": 1000 * every / fps, "loop": 0}
        next(more).save(buffer, "gif", append_images=more, **look)
    else:
        whole = Image.fromarray(np.concatenate([*pictures], axis=0))
        whole.save(buffer, "png" if ending == STRIP else "jpeg", quality=88)
    return buffer.getvalue()


def _encode_video(pictures: Iterator[Picture], fps: float) -> bytes:
    with needed(f"a video needs imageio-ffmpeg: {_INSTALL}"):
        from imageio_ffmpeg import write_frames
    first = next(pictures)
    with tempfile.TemporaryDirectory(prefix="film-") as folder:
        clip = os.path.join(folder, "clip.mp4")
        writing = write_frames(clip, first.shape[1::-1], fps=fps, quality=7)
        writing.send(None)
        try:
            for picture in chain([first], pictures):
                writing.send(np.ascontiguousarray(picture))
        finally:
            writing.close()
        with open(clip, "rb") as file:
            return file.read()


@dataclass(frozen=True)
class Poses:
    """Generalised positions, ``(num_steps, nq)`` float64; None, and a note: not known."""

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
    """Poses of the robot and of its reference in a scene of ``nq`` positions.

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
        arrays = _played(told, trajectory, motion)
        frames, joints = trajectory["motion_frame"][...], arrays["joint_pos"]
        if layout is None or len(layout[1]) != joints.shape[1]:
            raise _NotShown("its motion is not of this task's robot")
        if not (frames.min() >= 0 and frames.max() < len(joints)):
            raise _NotShown("its motion is shorter than the frames that were recorded")
        place = arrays["body_pos_w"][frames, 0] + (0.0 if origins is None else origins)
        reference = np.zeros((len(frames), nq))
        reference[:, layout[0]] = np.hstack([place, arrays["body_quat_w"][frames, 0]])
        reference[:, layout[1]] = joints[frames]
        if robot is not None and told.get("simulator") == "isaaclab":
            _order_quaternions(reference[:, layout[0]], robot[:, layout[0]])
    except _NotShown as why:
        notes.append(f"the reference is not shown: {why}")
    if robot is None and reference is None:
        raise InputError(f"trajectory {trajectory.id}: {'; '.join(notes)}")
    return Poses(robot, reference, tuple(notes))


def _order_quaternions(reference: NDArray[np.float64], robot: NDArray[np.float64]) -> None:
    """Turn a motion's x y z w into w x y z, in place, where that is nearer to the robot's base."""
    file, turned = reference[:, 3:], np.roll(reference[:, 3:], 1, axis=1)
    near = [
        np.abs((quaternions * robot[:, 3:]).sum(axis=1)).mean() for quaternions in (file, turned)
    ]
    if near[1] > near[0]:
        reference[:, 3:] = turned


class _NotShown(Exception):  # noqa: N818  no error: a note
    """Why a reference cannot be shown."""


def _played(
    told: Mapping[str, Any], trajectory: Trajectory, path: str | None
) -> dict[str, NDArray[Any]]:
    """The arrays of its motion, as they were played."""
    try:
        motions = recorded_motions(told)
    except StoreMismatchError as error:
        raise _NotShown(f"the metadata name motions in another form: {error}") from error
    number = trajectory.motion if "motion_frame" in trajectory else None
    if number is None or not 0 <= number < len(motions):
        raise _NotShown("the store tells of no motion that it followed")
    motion = motions[number]
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
    return motion.path if there and read_motion(motion.path)[0] is not None else None
