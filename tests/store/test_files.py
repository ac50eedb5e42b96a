"""Files that a user names: replaced as a whole, or written into where they are pipes."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect.cli import main
from mosaic_collect.look.canvas import new_figure, save
from mosaic_collect.store.files import is_temp_name, temp_name, write_target
from tests.helpers import REPO, record

PAGE = b"<html>" + b"x" * 300_000


@pytest.fixture
def made(store: str) -> str:
    return record(store, 6).path


def picture(path: str) -> None:
    pytest.importorskip("PIL")
    pytest.importorskip("torch", reason="torch is not installed; rendering needs it")
    from mosaic_collect.film.render import write_pictures

    write_pictures(path, [np.zeros((4, 4, 3), np.uint8)], 50.0)


#: Everything that writes a file which a user names, and the ending of that.
WRITERS: dict[str, tuple[str, Callable[[str, str], Any]]] = {
    "bytes": (".bin", lambda store, path: write_target(path, PAGE)),
    "report": (".html", lambda store, path: main(["report", store, "-o", path])),
    "stats": (".json", lambda store, path: main(["stats", store, "-o", path])),
    "plot": (".png", lambda store, path: save(new_figure(2, 2), path)),
    "film": (".png", lambda store, path: picture(path)),
}


@pytest.fixture(params=WRITERS)
def writer(request: pytest.FixtureRequest) -> tuple[str, Callable[[str, str], Any]]:
    if request.param in ("report", "plot"):
        pytest.importorskip("matplotlib")
        pytest.importorskip("jinja2")
    return WRITERS[request.param]


@contextmanager
def reading(path: str) -> Iterator[list[bytes]]:
    """Read a pipe to its end in a thread; its bytes are there behind the block."""
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(Path(path).read_bytes()), daemon=True)
    thread.start()
    yield found
    thread.join(300)
    assert not thread.is_alive()


@pytest.mark.parametrize("is_link", [False, True])
def test_a_pipe_is_written_into_and_stays(
    made: str, tmp_path: Path, writer: Any, is_link: bool
) -> None:
    ending, write = writer
    path = str(tmp_path / f"out{ending}")
    os.mkfifo(f"{path}.pipe" if is_link else path)
    if is_link:
        os.symlink(f"{path}.pipe", path)
    before = sorted(os.listdir(tmp_path))
    with reading(path) as found:
        write(made, path)
    assert stat.S_ISFIFO(os.stat(path).st_mode)
    assert os.path.islink(path) == is_link
    assert sorted(os.listdir(tmp_path)) == before
    assert len(found[0]) > 50


def test_a_link_to_a_file_stays_and_the_file_is_replaced(
    made: str, tmp_path: Path, writer: Any
) -> None:
    ending, write = writer
    (tmp_path / "real").mkdir()
    real, path = tmp_path / "real" / f"file{ending}", str(tmp_path / f"link{ending}")
    os.symlink(real, path)
    for _ in range(2):
        write(made, path)
        assert os.path.islink(path)
        assert len(real.read_bytes()) > 50
    assert os.listdir(tmp_path / "real") == [real.name]


@pytest.mark.parametrize("to", ["pipe", "file", "appended"])
def test_standard_output_is_written_into(tmp_path: Path, to: str) -> None:
    """By its name, as of ``-o /dev/stdout``: here a link to it, so that no device is at stake."""
    link, out = tmp_path / "stdout", tmp_path / "out"
    os.symlink("/proc/self/fd/1", link)
    code = (
        "from mosaic_collect.store.files import write_target\n"
        f"print('before'); write_target({str(link)!r}, b'data\\n'); print('behind')"
    )
    out.write_bytes(b"earlier\n")
    with open(out, "ab" if to == "appended" else "wb") as file:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=REPO,
            stdout=subprocess.PIPE if to == "pipe" else file,
            check=True,
        )
    content = done.stdout if to == "pipe" else out.read_bytes()
    earlier = b"earlier\n" if to == "appended" else b""
    assert content == earlier + b"before\ndata\nbehind\n"
    assert os.path.islink(link)
    assert sorted(os.listdir(tmp_path)) == ["out", "stdout"]


def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "writev", refuse)
    with pytest.raises(OSError, match="no space left"):
        write_target(str(path), b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("nbytes", [1, 120, 121, 247, 250, 255])
def test_a_name_as_long_as_the_file_system_takes(tmp_path: Path, nbytes: int) -> None:
    path = str(tmp_path / ("é" * (nbytes // 2) + "x" * (nbytes % 2)))
    write_target(path, b"1")
    write_target(path, b"22")
    assert Path(path).read_bytes() == b"22"
    assert len(os.listdir(tmp_path)) == 1


def test_temp_names_are_short_distinct_and_known() -> None:
    names = [os.path.basename(temp_name(f"/a/{'x' * 250}{n}", ".12345678")) for n in "12"]
    assert len(set(names)) == 2
    assert all(is_temp_name(n) and len(n) < 143 for n in names)
    assert temp_name("/a/zarr.json") == "/a/.zarr.json.tmp"
