"""What is created only if it is not there, as claims are: whole or absent, and safe on return."""

from __future__ import annotations

from pathlib import Path

from mosaic_collect.store.posix import PosixBlobs
from tests.durability.disk import Disk
from tests.durability.recording import RecordingFiles

CLAIM, DATA = "claims/a.0", b'{"rank": 1}'


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
