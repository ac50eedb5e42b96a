"""From a trajectory of a store to a film of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import InputError
from mosaic_collect.film.output import check_output, kind_of, write_pictures
from mosaic_collect.film.poses import trajectory_poses
from mosaic_collect.film.stage import Stage
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.trajectories import Trajectory


@dataclass(frozen=True)
class Film:
    """What was drawn.

    Attributes:
        path: The file.
        trajectory: Whose.
        fps: Steps a second, in which a clip plays, too.
        shown: ``robot``, ``reference``, or both.
        notes: What is not shown, and why.
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
    stage = Stage(dataset.metadata["task"])
    poses = trajectory_poses(dataset.metadata, found, stage.nq, stage.layout, motion)
    kind = kind_of(path)
    pictures = stage.frames(poses, kind.steps(found.num_steps), kind.width, kind.height)
    write_pictures(path, _told(pictures, progress), stage.fps)
    shown = [("robot", poses.robot), ("reference", poses.reference)]
    names = tuple(name for name, where in shown if where is not None)
    return Film(path, found, stage.fps, names, poses.notes)


def _told(
    pictures: Iterator[NDArray[np.uint8]], progress: Callable[[int], object] | None
) -> Iterator[NDArray[np.uint8]]:
    for picture in pictures:
        yield picture
        if progress is not None:
            progress(1)
