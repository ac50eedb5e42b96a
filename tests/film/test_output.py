"""Pictures become a file: which of them, which file, and nothing else."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mosaic_collect.errors import InputError
from mosaic_collect.film import render
from mosaic_collect.look.charts import evenly_spaced


def pictures(count: int, width: int = 96, height: int = 64) -> Iterator[NDArray[np.uint8]]:
    """Grey ones, each lighter than the one before."""
    for index in range(count):
        yield np.full((height, width, 3), 20 * index, np.uint8)


def test_a_strip_has_the_first_and_the_last_step() -> None:
    steps = evenly_spaced(98, 8).tolist()
    assert steps[:2] == [0, 14]
    assert (len(steps), steps[-1]) == (8, 97)
    assert evenly_spaced(3, 8).tolist() == [0, 1, 2]
    assert evenly_spaced(1, 8).tolist() == [0]


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_strips_lie_one_below_the_other(ending: str) -> None:
    image = pytest.importorskip("PIL.Image")
    made = np.asarray(image.open(io.BytesIO(render.encode(pictures(3), ending, 50.0))))
    assert made.shape == (3 * 64, 96, 3)
    np.testing.assert_allclose(made[::64, 10, 1], [0, 20, 40], atol=2)


# Of imageio-ffmpeg's reader, which leaves its pipes open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_video(tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / "clip.mp4"
    path.write_bytes(render.encode(pictures(10), ".mp4", 50.0))
    read = ffmpeg.read_frames(str(path))
    about = next(read)
    assert (about["size"], about["fps"]) == ((96, 64), 50.0)
    seen = [np.frombuffer(frame, np.uint8).mean() for frame in read]
    assert len(seen) == 10
    assert np.allclose(seen, 20 * np.arange(10), atol=3)


def test_a_gif_plays_in_real_time() -> None:
    image = pytest.importorskip("PIL.Image")
    with image.open(io.BytesIO(render.encode(pictures(10), ".gif", 50.0))) as made:
        assert (made.n_frames, made.size, made.info["duration"]) == (5, (96, 64), 40)
        made.seek(4)
        assert np.asarray(made.convert("RGB")).mean() == pytest.approx(160, abs=3)


def test_text_is_written_into_the_upper_left_corner() -> None:
    pytest.importorskip("PIL.Image")
    (picture,) = pictures(1, 448, 544)
    written = render.write_text(picture, "trajectory 7\nfailed")
    assert written[:60, :200].max() > 200
    assert not picture.any()
    assert not written[100:].any()


def test_a_failing_picture_leaves_the_older_file(tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / "clip.mp4"
    path.write_text("an older one")

    def broken() -> Iterator[NDArray[np.uint8]]:
        yield from pictures(2)
        raise OSError("no GL")

    with pytest.raises(OSError, match="no GL"):
        render.write_pictures(str(path), broken(), 50.0)
    assert path.read_text() == "an older one"
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected an ending of .mp4, .gif, .png"):
        render.check_output(tmp_path / "clip.avi")
    with pytest.raises(InputError, match="expected a folder at"):
        render.check_output(tmp_path / "none" / "clip.mp4")
