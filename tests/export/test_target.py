"""The file: checked before, whole under its name or not there at all, nothing left behind."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mosaic_collect import export_npy
from mosaic_collect.errors import CorruptStoreError, InputError, SpaceError, WriteError
from mosaic_collect.export import export
from mosaic_collect.export.target import opened_target
from mosaic_collect.store.lock import NO_LOCKS
from mosaic_collect.store.ranks import blobs_at
from tests import helpers
from tests.export import stores


@pytest.fixture
def made(store: str) -> str:
    stores.write(store, 10)
    return store


def listing(path: str) -> list[str]:
    return sorted(os.listdir(os.path.dirname(path)))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        *((n, r"\.npy") for n in ("expert", "expert.npz", "expert.pt", "expert.npy.gz", "npy")),
        ("missing/expert.npy", "expected a folder at"),
        ("folder.npy", "got the folder"),
    ],
)
def test_a_name_that_is_no_place_is_refused(made: str, tmp_path, name: str, words: str) -> None:
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(InputError, match=words):
        export_npy(made, str(tmp_path / name))
    assert sorted(os.listdir(tmp_path)) == ["expert.zarr", "folder.npy"]


@pytest.mark.parametrize("inside", ["", "actions"])
def test_a_place_inside_the_store_is_refused(made: str, inside: str, tmp_path) -> None:
    with pytest.raises(InputError, match="inside the store"):
        export_npy(made, os.path.join(made, inside, "expert.npy"))
    link = tmp_path / "link"
    link.symlink_to(os.path.join(made, inside))
    with pytest.raises(InputError, match="inside the store"):
        export_npy(made, link / "expert.npy")


def test_checked_before_the_store_is_looked_at(tmp_path) -> None:
    with pytest.raises(InputError, match=r"\.npy"):
        export_npy(tmp_path / "nothing", tmp_path / "expert")


def test_a_relative_name_and_a_path_object(made: str, tmp_path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert export_npy("expert.zarr", "expert.npy").path == "expert.npy"
    assert stores.load("expert.npy")
    export_npy(tmp_path / "expert.zarr", tmp_path / "other.npy")
    assert stores.load(str(tmp_path / "other.npy"))


def disk(blocks: int, free: int) -> Any:
    """``os.statvfs`` of a disk of this size, with so many bytes free."""
    found = SimpleNamespace(f_blocks=blocks, f_frsize=1, f_bavail=free)
    return lambda path: found


def failing(code: int) -> Any:
    """A call that the system refuses."""

    def call(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    return call


@pytest.mark.parametrize(
    ("call", "instead", "words"),
    [
        ("statvfs", disk(blocks=10, free=1000), "1000 free"),
        *(
            ("posix_fallocate", failing(code), "no room for [0-9]+ bytes")
            for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        ),
    ],
)
def test_no_room_is_said_before_a_byte(
    made: str, npy: str, monkeypatch: Any, call: str, instead: Any, words: str
) -> None:
    monkeypatch.setattr(os, call, instead)
    with pytest.raises(SpaceError, match=words):
        export_npy(made, npy)
    assert listing(npy) == ["expert.zarr"]


def test_a_disk_that_reports_no_blocks_is_not_full(made: str, npy: str, monkeypatch: Any) -> None:
    """As ramfs, and FUSE without statfs."""
    monkeypatch.setattr(os, "statvfs", disk(blocks=0, free=0))
    assert export_npy(made, npy).num_pairs
    assert blobs_at(made).free_nbytes() is None


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EPERM, 0])
def test_a_system_that_reserves_no_space(made: str, npy: str, monkeypatch: Any, code: int) -> None:
    expected = export_npy(made, npy).num_pairs
    content = Path(npy).read_bytes()

    if code:
        monkeypatch.setattr(os, "posix_fallocate", failing(code))
    else:
        monkeypatch.delattr(os, "posix_fallocate")
    assert export_npy(made, npy).num_pairs == expected
    assert Path(npy).read_bytes() == content


@pytest.mark.parametrize("code", NO_LOCKS)
class TestWithoutLocks:
    """On a file system that has none, as some NFS, Lustre and FUSE mounts."""

    @pytest.fixture(autouse=True)
    def _no_locks(self, code: int, monkeypatch: Any) -> None:
        monkeypatch.setattr(fcntl, "flock", failing(code))

    def test_an_export_is_written_with_a_warning(
        self, made: str, npy: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert export_npy(made, npy).num_pairs
        assert "this file system has no locks" in caplog.text
        assert listing(npy) == ["expert.npy", "expert.zarr"]

    def test_two_at_once_do_not_disturb_each_other(self, made: str, npy: str) -> None:
        with opened_target(npy, 10) as first:
            os.pwrite(first.fd, b"01234", 0)
            export_npy(made, npy)
            assert stores.load(npy)
            os.pwrite(first.fd, b"56789", 5)
        assert Path(npy).read_bytes() == b"0123456789"
        assert listing(npy) == ["expert.npy", "expert.zarr"]


@pytest.mark.parametrize(
    ("module", "call", "words"),
    [(fcntl, "flock", "cannot be locked"), (os, "statvfs", "writing failed, nothing was left")],
)
def test_what_fails_before_the_first_row_names_the_target(
    made: str, npy: str, monkeypatch: Any, module: Any, call: str, words: str
) -> None:
    monkeypatch.setattr(module, call, failing(errno.EIO))
    with pytest.raises(WriteError, match=rf"expert\.npy: {words}.*: input/output error"):
        export_npy(made, npy)


def test_what_a_file_tells_only_when_it_is_closed_names_the_target(
    npy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a network's file system may that had no room."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "close", failing(errno.ENOSPC))
        with pytest.raises(SpaceError, match=r"expert\.npy: writing failed"), opened_target(npy, 9):
            pass


def test_a_link_stays_and_the_file_it_leads_to_is_replaced(made: str, npy: str, tmp_path) -> None:
    (tmp_path / "runs").mkdir()
    os.symlink(os.path.join("runs", "first.npy"), npy)
    for _ in range(2):
        assert export_npy(made, npy).path == npy
        assert os.readlink(npy) == os.path.join("runs", "first.npy")
        assert stores.load(str(tmp_path / "runs" / "first.npy"))
    assert os.listdir(tmp_path / "runs") == ["first.npy"]


@pytest.mark.parametrize("is_link", [False, True])
def test_a_pipe_is_refused_and_stays(made: str, npy: str, is_link: bool) -> None:
    os.mkfifo(f"{npy}.pipe" if is_link else npy)
    if is_link:
        os.symlink(f"{npy}.pipe", npy)
    with pytest.raises(InputError, match="expected a regular file, found a pipe or a device"):
        export_npy(made, npy)
    assert stat.S_ISFIFO(os.stat(npy).st_mode)
    assert os.path.islink(npy) == is_link


@pytest.mark.parametrize("nbytes", [250, 251, 255])
def test_a_name_as_long_as_the_file_system_takes(made: str, tmp_path, nbytes: int) -> None:
    name = "é" * ((nbytes - 4) // 2) + "x" * (nbytes % 2) + ".npy"
    assert len(os.fsencode(name)) == nbytes
    export_npy(made, tmp_path / name)
    assert stores.load(str(tmp_path / name))
    assert sorted(os.listdir(tmp_path)) == ["expert.zarr", name]


@pytest.mark.parametrize(
    ("call", "number", "error", "kind"),
    [
        ("pwrite", 8, OSError(errno.EIO, "broken"), WriteError),
        ("pwrite", 8, OSError(errno.ENOSPC, "broken"), SpaceError),
        ("pwrite", 1, KeyboardInterrupt(), KeyboardInterrupt),
        ("fsync", 1, OSError(errno.EIO, "broken"), WriteError),
        ("replace", 1, OSError(errno.EIO, "broken"), WriteError),
    ],
)
@pytest.mark.parametrize("before", [None, b"before"])
def test_an_end_on_the_way_leaves_what_was_there(
    made: str,
    npy: str,
    monkeypatch: Any,
    call: str,
    number: int,
    error: Any,
    kind: Any,
    before: Any,
) -> None:
    real, calls = getattr(os, call), []

    def breaking(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == number:
            raise error
        return real(*args)

    if before is not None:
        Path(npy).write_bytes(before)
    there = listing(npy)
    monkeypatch.setattr(os, call, breaking)
    with pytest.raises(kind) as caught:
        export_npy(made, npy)
    assert listing(npy) == there, "the temp file was left"
    assert before is None or Path(npy).read_bytes() == before
    if kind is not KeyboardInterrupt:
        assert "expert.npy: writing failed, nothing was left there: broken" in str(caught.value)
        assert caught.value.__cause__ is error


def test_short_writes_are_gone_on_with(made: str, npy: str, monkeypatch: Any) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:7], offset))
    export_npy(made, npy, layout="grid")
    helpers.assert_same(
        stores.load(npy)["observations"], helpers.expected(range(10), 4)["observations"]
    )


def test_an_existing_file_stays_if_a_corrupt_shard_is_met(made: str, npy: str) -> None:
    export_npy(made, npy)
    before = Path(npy).read_bytes()
    stores.flip(os.path.join(made, "action_sigma", "c.3.0.0"), 2)
    with pytest.raises(CorruptStoreError, match="action_sigma, block 3"):
        export_npy(made, npy, layout="grid")
    assert Path(npy).read_bytes() == before
    assert listing(npy) == ["expert.npy", "expert.zarr"]


def test_an_existing_file_is_replaced_in_one(made: str, npy: str) -> None:
    """Who has the old one open goes on reading it."""
    with open(npy, "wb") as file:
        file.write(b"before")
    with open(npy, "rb") as old:
        export_npy(made, npy)
        assert old.read() == b"before"
    assert "observations" in stores.load(npy)
    assert listing(npy) == ["expert.npy", "expert.zarr"]


_KILLED = """
import os, sys
from mosaic_collect.export import export
export(*sys.argv[1:], progress=lambda nbytes: os.kill(os.getpid(), 9))
"""


@pytest.mark.parametrize("form", ["npy", "lerobot"])
def test_what_a_killed_export_left_is_removed(made: str, tmp_path: Path, form: str) -> None:
    """Not what has another name, a target that begins alike for one."""
    if form == "lerobot":
        pytest.importorskip("pyarrow")
    name, fps = ("e.npy", {}) if form == "npy" else ("e", {"fps": 50})
    code = _KILLED.replace("progress=", f"**{fps}, progress=")
    assert helpers.run_python(code, made, str(tmp_path / name), form).returncode == -9
    (left,) = tmp_path.glob(f".{name}.*.tmp")
    others = [tmp_path / f".{name}.{mark}.tmp" for mark in ("mine", "b.0123456789abcdef")]
    for other in others:
        other.mkdir() if form == "lerobot" else other.touch()
    export(made, tmp_path / name, form, **fps)
    assert not left.exists()
    assert all(other.exists() for other in others)


_ELSEWHERE = """
import sys
from mosaic_collect.export import export
export(*sys.argv[1:], **{})
"""


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_target_that_another_export_writes_is_refused(
    made: str, tmp_path: Path, is_folder: bool
) -> None:
    """Locks of ``flock`` keep a process's own threads apart, too."""
    if is_folder:
        pytest.importorskip("pyarrow")
    target, form = (
        str(tmp_path / ("e" if is_folder else "e.npy")),
        "lerobot" if is_folder else "npy",
    )
    options = {"fps": 50} if is_folder else {}
    with opened_target(target, 10, is_folder) as first:
        at = os.path.join(first.temp_path, "a") if is_folder else first.temp_path
        Path(at).write_bytes(b"0123456789")
        for _ in range(2):
            with pytest.raises(WriteError, match="another export is writing it"):
                export(made, target, form, **options)
        elsewhere = helpers.run_python(_ELSEWHERE.format(options), made, target, form)
        assert "WriteError" in elsewhere.stderr
        assert "another export is writing it" in elsewhere.stderr
    assert Path(target, "a" if is_folder else "").read_bytes() == b"0123456789"
    assert sorted(os.listdir(tmp_path)) == [os.path.basename(target), "expert.zarr"]


@pytest.mark.parametrize("way", ["removed", "locked"])
def test_an_export_is_refused_if_another_took_its_file_for_a_killed_ones(
    npy: str, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Between its making and its lock."""

    def flock(fd: int, how: int) -> None:
        if way == "locked":
            raise BlockingIOError(errno.EAGAIN, "locked")
        for name in os.listdir(os.path.dirname(npy)):
            os.unlink(os.path.join(os.path.dirname(npy), name))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(WriteError, match="another export is writing it"):
        opened_target(npy, 10).__enter__()
    assert listing(npy) == []


def test_an_export_that_ends_just_now_is_not_disturbed(
    npy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its temp file becomes the target between the look for killed ones' and the lock."""
    temp = os.path.join(os.path.dirname(npy), f".expert.npy.{'0' * 16}.tmp")
    Path(temp).write_bytes(b"whole")
    real, ended = fcntl.flock, []

    def flock(fd: int, how: int) -> None:
        if not ended:
            os.replace(temp, npy)
            ended.append(fd)
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with opened_target(npy, 10):
        assert ended
        assert Path(npy).read_bytes() == b"whole"
