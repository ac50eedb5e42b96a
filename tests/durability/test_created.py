"""What is created only if it is not there, as claims are: whole or absent, and safe on return."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from mosaic_collect import TrajectoryDataset, WriteError, verify_store
from mosaic_collect.store import files as seam
from mosaic_collect.store.posix import PosixBlobs
from tests.durability.disk import Disk
from tests.durability.recording import RecordingFiles
from tests.ranks import record_ranks

CLAIM, DATA = "claims/a.0", b'{"rank": 1}'
SIZES = {0: (1, 2), 1: (1, 2)}


def test_a_power_cut_finds_it_whole_or_absent_and_later_always_there(tmp_path: Path) -> None:
    files = RecordingFiles(str(tmp_path))
    blobs = PosixBlobs(str(tmp_path), files)
    blobs.make_folders(["claims"])
    blobs.settle([""])
    assert blobs.create(CLAIM, DATA)
    kinds = [kind for kind, *_paths in files.log]
    assert kinds.index("sync") < kinds.index("take") < len(kinds) - 1
    assert kinds[-1] == "sync_folder"
    disk, states = Disk(), 0
    for operation in files.log:
        disk.apply(operation)
        for tree in disk.states(0, 20):
            states += 1
            assert tree.get(CLAIM) in (None, DATA)
    assert states > len(files.log)
    assert all(tree[CLAIM] == DATA for tree in disk.states(0, 20))


def test_who_comes_second_changes_nothing(tmp_path: Path) -> None:
    files = RecordingFiles(str(tmp_path))
    first, second = PosixBlobs(str(tmp_path)), PosixBlobs(str(tmp_path), files)
    first.make_folders(["claims"])
    assert first.create(CLAIM, DATA)
    assert not second.create(CLAIM, b"{}")
    assert (tmp_path / CLAIM).read_bytes() == DATA
    assert [path.name for path in (tmp_path / "claims").iterdir()] == ["a.0"]


@pytest.fixture(params=seam.NO_LINKS, ids=errno.errorcode.get)
def no_links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without hard links, as exFAT, SMB and many FUSE mounts."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(os, "link", refuse)


def test_without_hard_links_it_is_created_by_an_exclusive_rename(
    tmp_path: Path, no_links: None
) -> None:
    blobs = PosixBlobs(str(tmp_path))
    blobs.make_folders(["claims"])
    assert blobs.create(CLAIM, DATA)
    assert not blobs.create(CLAIM, b"{}")
    assert (tmp_path / CLAIM).read_bytes() == DATA
    assert [path.name for path in (tmp_path / "claims").iterdir()] == ["a.0"]


def test_without_hard_links_there_are_ranks(tmp_path: Path, no_links: None) -> None:
    record_ranks(tmp_path / "expert", SIZES)
    assert TrajectoryDataset(tmp_path / "expert").num_steps == 2
    assert verify_store(tmp_path / "expert").ok


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, None])
def test_where_there_are_no_exclusive_renames_either_that_is_named(
    tmp_path: Path, no_links: None, code: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Library:
        def __init__(self, *_: Any, **__: Any) -> None:
            if code is not None:
                self.renameat2 = lambda *_: -1

    monkeypatch.setattr(seam.ctypes, "CDLL", Library)
    monkeypatch.setattr(seam.ctypes, "get_errno", lambda: code)
    with pytest.raises(WriteError, match="neither hard links nor exclusive renames"):
        record_ranks(tmp_path / "expert", SIZES)
    assert list(tmp_path.rglob(".*.tmp")) == []
