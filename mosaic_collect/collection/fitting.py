"""Whether motions fit a robot and a task's steps, and copies of them at the task's rate.

    30 frames per second   0     1     2     3        a new frame lies between two of the file's:
    50 frames per second   0   1   2   3   4   5      positions and velocities linear, quaternions
                                                      on the shorter arc

A task plays one frame per step. Velocities are per second and not per frame, so resampling
interpolates them without scaling: the robot moves as fast as it did. The first frame is the file's;
the last one is where the last whole new frame falls, at most one of them before the file's.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.collection.motions import (
    ARRAYS,
    FPS,
    LEAST_FRAMES,
    QUATERNIONS,
    Motion,
    has_hidden,
    read_arrays,
    refuse_files,
)
from mosaic_collect.errors import WriteError
from mosaic_collect.store.robot import Robot
from mosaic_collect.text import reason

#: How frames are made, as stores describe it.
HOW = "linear, quaternions spherical, velocities kept as rates"
#: Relative difference of rates below which they are one; NTSC's 59.94 is none of 60.
_SAME = 5e-4
_CLOSE = 0.9995  # cosine beyond which an arc is a line, to float32
_WHOLE = 1e-6  # of a frame: 2.5 s at 50 per second are 125 steps, whatever floats say
_log = logging.getLogger(__name__)
_OTHER_ROBOT = "are of another robot"
_Values = NDArray[np.float64]


def check_robot(motions: Sequence[Motion], robot: Robot) -> None:
    """Raise ``InputError`` that names all motions of another robot."""
    refuse_files(_robot_problems(motions, robot), len(motions), _OTHER_ROBOT)


def fit_motions(
    motions: Sequence[Motion],
    fps: float,
    *,
    robot: Robot | None = None,
    allow_fps: bool = False,
    into: str | None = None,
) -> list[Motion]:
    """Check motions against a task, and resample them if that is wanted.

    Args:
        motions: Motions as read from their files.
        fps: Steps per second of the task.
        robot: The robot that follows; None: it is not known yet.
        allow_fps: Play motions of another rate, or of an unknown one, frame by frame.
        into: Folder for resampled copies of motions of another rate; None: none is made.

    Returns:
        The motions, in their order, each with ``played_fps``.

    Raises:
        InputError: Some motions do not fit; the message names all.
        WriteError: A copy cannot be written.
    """
    problems = {} if robot is None else _robot_problems(motions, robot)
    words = [_OTHER_ROBOT] if problems else []
    if into is not None and not problems:
        motions = _resample_all(motions, fps, into)
    wrong = {m.path: [_other_rate(m, fps)] for m in motions if not same_rate(m.rate, fps)}
    if wrong and not allow_fps and (into is None or not problems):
        ways = "resample=True makes frames at its steps, allow_fps=True plays the file's"
        words.append(f"are not of the task's {fps:g} frames per second; {ways}")
        more = [ways] if len(motions) == 1 else []
        for path, told in wrong.items():
            problems[path] = [*problems.get(path, []), *told, *more]
    refuse_files(problems, len(motions), " or ".join(words))
    if wrong:
        _log.warning(
            "motion: %d of %d files are played at another speed than their own, %s the first: %s",
            *(len(wrong), len(motions), *next((p, *told) for p, told in wrong.items())),
        )
    return [replace(m, played_fps=fps) for m in motions]


@contextlib.contextmanager
def fit_folder(
    path: str,
    motions: Sequence[Motion],
    fps: float,
    *,
    allow_fps: bool = False,
    resample: bool = False,
) -> Iterator[tuple[str, list[Motion]]]:
    """``fit_motions`` for a simulator that reads all files of a folder.

    Yields:
        The folder: ``path`` itself, where the motions were found, or one of links and copies that
        is removed afterwards. And the motions, whose ``file`` lies in it.
    """
    with tempfile.TemporaryDirectory(prefix="motions-") as temporary:
        folder = os.path.realpath(temporary)
        made = fit_motions(motions, fps, allow_fps=allow_fps, into=folder if resample else None)
        if os.path.isdir(path) and not any(m.copy for m in made) and not has_hidden(path):
            yield path, made
            return
        for i, motion in enumerate(made):
            if not motion.copy:
                link = _path_in(motion, folder)
                os.symlink(os.path.abspath(motion.path), link)
                made[i] = replace(motion, copy=link)
        yield folder, made


def same_rate(rate: float | None, fps: float) -> bool:
    """Whether motions of ``rate`` frames per second have a frame per step of a task."""
    return rate is not None and abs(rate - fps) <= _SAME * fps


def rate_notes(motions: Sequence[Motion]) -> list[str]:
    """Notes on how motions were played; none if at the rates of their files."""
    made = sum(m.resampled is not None for m in motions)
    other = sum(m.played_fps is not None and not same_rate(m.rate, m.played_fps) for m in motions)
    notes = [f"{made} motions were resampled: {HOW}"] if made else []
    return notes + ([f"{other} motions were played at another speed than their own"] * bool(other))


def resampled_frames(frames: int, fps: float, wanted: float) -> int:
    """Number of frames that ``resample`` makes of ``frames``."""
    return math.floor((frames - 1) / fps * wanted + _WHOLE) + 1


def resample(arrays: Mapping[str, NDArray[Any]], wanted: float) -> dict[str, NDArray[Any]]:
    """Interpolate the arrays of a motion that can be played at ``wanted`` frames per second.

    An unknown array with as many rows as there are frames is a ``ValueError``.
    """
    frames, fps = len(arrays["joint_pos"]), float(arrays[FPS].reshape(-1)[0])
    unknown = [
        name
        for name, a in arrays.items()
        if name not in ARRAYS and a.dtype.kind not in "US" and a.shape[:1] == (frames,)
    ]
    if unknown:
        raise ValueError(f"expected only {', '.join(ARRAYS)} by frame, got {', '.join(unknown)}")
    places = np.arange(resampled_frames(frames, fps, wanted)) * (fps / wanted)
    before = np.minimum(places.astype(np.int64), frames - 2)
    share = np.minimum(places - before, 1.0)
    made = {name: _interpolate(name, arrays[name], before, share) for name in ARRAYS}
    return {**arrays, **made, FPS: np.array([wanted])}


def _robot_problems(motions: Sequence[Motion], robot: Robot) -> dict[str, list[str]]:
    found = {
        m.path: [
            *_differences("joint_pos", "joints", m.joints, m.joint_names, robot.joint_names),
            *_differences("body_pos_w", "bodies", m.bodies, m.body_names, robot.body_names),
        ]
        for m in motions
    }
    return {path: problems for path, problems in found.items() if problems}


def _differences(
    key: str, what: str, count: int | None, names: Sequence[str] | None, robots: Sequence[str]
) -> Iterator[str]:
    if count is None:
        return
    if count != len(robots):
        yield f"{key}: expected the robot's {len(robots)} {what}, got {count}"
    elif names is not None and list(names) != list(robots):
        at = next(i for i, pair in enumerate(zip(names, robots, strict=True)) if len({*pair}) > 1)
        order = " (the robot's, in another order)" if set(names) == set(robots) else ""
        yield f"{key}: expected {robots[at]!r} at place {at}, got {names[at]!r}{order}"


def _other_rate(motion: Motion, fps: float) -> str:
    if motion.rate is None:
        return f"fps: expected {fps:g}, got none"
    return (
        f"fps: expected {fps:g}, got {motion.rate:g}, played {fps / motion.rate:.3g} times as fast"
    )


def _resample_all(motions: Sequence[Motion], fps: float, folder: str) -> list[Motion]:
    """Copies at that rate of those motions that need one and whose rate is known."""
    made, problems = list(motions), {}
    for i, motion in enumerate(motions):
        if motion.rate is None or same_rate(motion.rate, fps):
            continue
        frames = resampled_frames(motion.frames, motion.rate, fps)
        try:
            if frames < LEAST_FRAMES:
                raise ValueError(
                    f"expected {LEAST_FRAMES} frames or more at {fps:g} per second, got {frames} "
                    f"of {motion.frames} at {motion.rate:g}"
                )
            copy = _path_in(motion, folder)
            np.savez(copy, **resample(read_arrays(motion.file), fps))  # type: ignore[arg-type]
            made[i] = replace(motion, frames=frames, resampled=HOW, played_fps=fps, copy=copy)
        except ValueError as error:
            problems[motion.path] = [str(error)]
        except OSError as error:
            words = f"{folder}: no copy of {motion.path}: {reason(error, folder)}"
            raise WriteError.because(words, error) from error
    refuse_files(problems, len(motions), "cannot be resampled")
    return made


def _path_in(motion: Motion, folder: str) -> str:
    """The motion's whole path below the folder's: tasks group motions by parts of it."""
    place = os.path.join(folder, os.path.abspath(motion.path).lstrip(os.sep))
    os.makedirs(os.path.dirname(place), exist_ok=True)
    return place


def _interpolate(
    name: str, values: NDArray[Any], before: NDArray[np.int64], share: _Values
) -> NDArray[Any]:
    """Values at ``share`` of the way from a frame to the next, in the file's dtype."""
    a, b = (values[i].astype(np.float64) for i in (before, before + 1))
    w = share.reshape(-1, *(1,) * (values.ndim - 1))
    made = _slerp(a, b, w) if name == QUATERNIONS else a + w * (b - a)
    return made.astype(values.dtype)


def _slerp(a: _Values, b: _Values, w: _Values) -> _Values:
    """Unit quaternions along the shorter arc, whichever component is the real one."""
    a, b = _unit(a), _unit(b)
    cosine = (a * b).sum(axis=-1, keepdims=True)
    b, cosine = np.where(cosine < 0, -b, b), np.abs(cosine)
    angle = np.arccos(np.minimum(cosine, 1.0))
    sine = np.where(cosine > _CLOSE, 1.0, np.sin(angle))
    first = np.where(cosine > _CLOSE, 1.0 - w, np.sin((1.0 - w) * angle) / sine)
    second = np.where(cosine > _CLOSE, w, np.sin(w * angle) / sine)
    return _unit(first * a + second * b)


def _unit(q: _Values) -> _Values:
    """Normalise; a quaternion of zeros stays as it is."""
    length = np.linalg.norm(q, axis=-1, keepdims=True)
    unit: _Values = q / np.where(length > 0, length, 1.0)
    return unit
