"""Motions as a task plays them, a frame a step, and what that makes of their frames a second."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from mosaic_collect.collection.motion_contents import LEAST_FRAMES, read_arrays
from mosaic_collect.collection.motions import Motion, refuse_files
from mosaic_collect.collection.resample import HOW, resampled, resampled_frames
from mosaic_collect.errors import WriteError
from mosaic_collect.text import reason

#: Relative difference of rates below which they are one; NTSC's 59.94 is none of 60.
_SAME = 5e-4
_log = logging.getLogger(__name__)


def played(
    motions: Sequence[Motion], fps: float, *, allow_fps: bool = False, into: str | None = None
) -> list[Motion]:
    """Motions for a task of ``fps`` steps a second.

    Args:
        motions: As they were read.
        fps: Steps a second.
        allow_fps: Play those of another rate, or of none that they tell, frame by frame.
        into: A folder for resampled copies of those of another rate; None: none is made.

    Returns:
        The motions, in their order, each with ``played_fps``.

    Raises:
        InputError: Naming all whose rate is another and not allowed, or that cannot be resampled.
    """
    wrong = {m.path: [_other(m, fps)] for m in motions if not same_rate(m.rate, fps)}
    if into is not None:
        motions = _all_at(motions, fps, into)
        wrong = {m.path: wrong[m.path] for m in motions if not same_rate(m.rate, fps)}
    if not allow_fps:
        ways = "resample=True makes frames at its steps, allow_fps=True plays the file's"
        refuse_files(
            {path: [*told, ways] if len(motions) == 1 else told for path, told in wrong.items()},
            len(motions),
            f"are not of the task's {fps:g} frames a second; {ways}",
        )
    elif wrong:
        _log.warning(
            "motion: %d of %d files are played at another speed than their own, %s the first: %s",
            *(len(wrong), len(motions), *next((p, *told) for p, told in wrong.items())),
        )
    return [replace(m, played_fps=fps) for m in motions]


@contextlib.contextmanager
def played_folder(
    path: str,
    motions: Sequence[Motion],
    fps: float,
    *,
    allow_fps: bool = False,
    resample: bool = False,
) -> Iterator[tuple[str, list[Motion]]]:
    """``played``, and a folder of the files for a simulator that reads all of a folder.

    Args:
        path: Where the motions were found: a folder, or a file.
        motions: All of them.
        fps: As of ``played``.
        allow_fps: Likewise.
        resample: Whether to make copies.

    Yields:
        The folder: ``path`` itself, or one of links and copies that is gone afterwards. And the
        motions, whose ``file`` lies in it.
    """
    with tempfile.TemporaryDirectory(prefix="motions-") as temporary:
        folder = os.path.realpath(temporary)
        made = played(motions, fps, allow_fps=allow_fps, into=folder if resample else None)
        if os.path.isdir(path) and not any(m.copy for m in made):
            yield path, made
        else:
            yield folder, [m if m.copy else _linked(m, folder) for m in made]


def same_rate(rate: float | None, fps: float) -> bool:
    """Whether frames of ``rate`` a second are a task's steps."""
    return rate is not None and abs(rate - fps) <= _SAME * fps


def rate_notes(motions: Sequence[Motion]) -> list[str]:
    """What is to be said of how they were played; nothing if as their files say."""
    made = sum(m.resampled is not None for m in motions)
    other = sum(m.played_fps is not None and not same_rate(m.rate, m.played_fps) for m in motions)
    notes = [f"{made} motions were resampled: {HOW}"] if made else []
    return notes + ([f"{other} motions were played at another speed than their own"] * bool(other))


def _other(motion: Motion, fps: float) -> str:
    if motion.rate is None:
        return f"fps: expected {fps:g}, got none"
    return (
        f"fps: expected {fps:g}, got {motion.rate:g}, played {fps / motion.rate:.3g} times as fast"
    )


def _all_at(motions: Sequence[Motion], fps: float, folder: str) -> list[Motion]:
    made, problems = [], {}
    for motion in motions:
        try:
            made.append(_at(motion, fps, folder))
        except ValueError as error:
            problems[motion.path] = [str(error)]
        except OSError as error:
            words = f"{folder}: no copy of {motion.path}: {reason(error, folder)}"
            raise WriteError.because(words, error) from error
    refuse_files(problems, len(motions), "cannot be resampled")
    return made


def _at(motion: Motion, fps: float, folder: str) -> Motion:
    """The motion with a copy at that rate; itself if it needs none, or tells no rate.

    Raises:
        ValueError: There is no way.
    """
    if motion.rate is None or same_rate(motion.rate, fps):
        return motion
    frames = resampled_frames(motion.frames, motion.rate, fps)
    if frames < LEAST_FRAMES:
        told = f"{frames} of {motion.frames} at {motion.rate:g}"
        raise ValueError(f"expected {LEAST_FRAMES} frames or more at {fps:g} a second, got {told}")
    copy = _place(motion, folder)
    np.savez(copy, **resampled(read_arrays(motion.file), fps))  # type: ignore[arg-type]
    return replace(motion, frames=frames, resampled=HOW, played_fps=fps, copy=copy)


def _linked(motion: Motion, folder: str) -> Motion:
    link = _place(motion, folder)
    os.symlink(os.path.abspath(motion.path), link)
    return replace(motion, copy=link)


def _place(motion: Motion, folder: str) -> str:
    """With all of the motion's path behind the folder's: groups are told by parts of it."""
    place = os.path.join(folder, os.path.abspath(motion.path).lstrip(os.sep))
    os.makedirs(os.path.dirname(place), exist_ok=True)
    return place
