"""Pictures become a file: which of them, which file, and nothing else."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mosaic_collect.errors import InputError
from mosaic_collect.film import render


def pictures(kind: Any, count: int) -> Iterator[NDArray[np.uint8]]:
    """Grey ones, each lighter than the one before."""
    for index in range(count):
        yield np.full((kind.height, kind.width, 3), 20 * index, np.uint8)


def test_a_strip_has_the_first_and_the_last_step() -> None:
    strip, clip = render.KINDS[".png"], render.KINDS[".mp4"]
    assert strip.steps(98)[:2] == [0, 14]
    assert (len(strip.steps(98)), strip.steps(98)[-1]) == (8, 97)
    assert strip.steps(3) == [0, 1, 2]
    assert strip.steps(1) == [0]
    assert clip.steps(98) == [*range(98)]


def test_a_strip(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    path = render.check_output(tmp_path / "strip.PNG")
    render.write_pictures(path, pictures(render.kind_of(path), 3), 50.0)
    made = np.asarray(image.open(io.BytesIO(Path(path).read_bytes())))
    assert made.shape == (544, 3 * 448, 3)
    assert made[10, ::448, 1].tolist() == [0, 20, 40]
    assert [p.name for p in tmp_path.iterdir()] == ["strip.PNG"]


# Of imageio-ffmpeg's reader, which leaves its pipes open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_clip(tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    path = render.check_output(tmp_path / "clip.mp4")
    Path(path).write_text("an older one")
    render.write_pictures(path, pictures(render.kind_of(path), 10), 50.0)
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]
    read = ffmpeg.read_frames(path)
    told = next(read)
    assert (told["size"], told["fps"]) == ((960, 544), 50.0)
    seen = [np.frombuffer(frame, np.uint8).mean() for frame in read]
    assert len(seen) == 10
    assert np.allclose(seen, 20 * np.arange(10), atol=3)


def test_a_failing_picture_leaves_the_older_file(tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg")
    path = render.check_output(tmp_path / "clip.mp4")
    Path(path).write_text("an older one")

    def broken() -> Any:
        yield from pictures(render.kind_of(path), 2)
        raise OSError("no GL")

    with pytest.raises(OSError, match="no GL"):
        render.write_pictures(path, broken(), 50.0)
    assert Path(path).read_text() == "an older one"
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected an ending of .mp4 or .png"):
        render.check_output(tmp_path / "clip.avi")
    with pytest.raises(InputError, match="expected a folder at"):
        render.check_output(tmp_path / "none" / "clip.mp4")
