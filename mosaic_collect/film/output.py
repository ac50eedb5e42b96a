"""Pictures in a row as a clip (.mp4), or side by side (.png)."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import needed, output_path
from mosaic_collect.errors import InputError
from mosaic_collect.store.files import write_target

Pictures = Iterable[NDArray[np.uint8]]


@dataclass(frozen=True)
class Kind:
    """A kind of file, and the pictures in it.

    Attributes:
        width, height: Of each; video codecs want multiples of 16.
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
        path: Of ``check_output``.
        pictures: As its ``kind_of`` says.
        fps: Of a clip.

    Raises:
        MissingDependencyError: Pillow or imageio-ffmpeg is not installed.
    """
    kind = kind_of(path)
    with needed("it needs Pillow and imageio-ffmpeg: pip install 'mosaic-collect[replay]'"):
        data = _clip(pictures, kind, fps) if kind == KINDS[CLIP] else _strip(pictures)
    write_target(path, data)


def _strip(pictures: Pictures) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.concatenate([*pictures], axis=1)).save(buffer, "png")
    return buffer.getvalue()


def _clip(pictures: Pictures, kind: Kind, fps: float) -> bytes:
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
