"""Promise 3: whatever the disk says no to, the caller hears of it, and nothing committed is lost.

Every file operation of a run fails in turn, in every way.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
from typing import Any

import pytest

from mosaic_collect import TrajectoryDataset
from mosaic_collect.errors import ClosedError, StoreLostError, StoreNotFoundError, WriteError
from mosaic_collect.store import files
from mosaic_collect.store.view import STATE_COPY
from tests.durability.figures import count
from tests.durability.recording import WrappedFiles, writing_through
from tests.durability.rig import add_tiny, check, check_resume, open_tiny
from tests.helpers import open_files, wait_until

STEPS = 4
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EACCES)


class FaultyFiles(WrappedFiles):
    """The operation number ``at`` fails, and those behind it, too, if ``lasting``.

    Attributes:
        count: Operations so far.
        failed: Kind and path of those that failed.
        is_spared: Whether it was a removal's turn on a full disk, which still removes.
    """

    def __init__(self, at: int, code: int, lasting: bool) -> None:
        super().__init__()
        self._at, self._code, self._lasting = at, code, lasting
        self._order = threading.Lock()
        self.count, self.is_spared = 0, False
        self.failed: list[tuple[str, str]] = []

    def do(self, kind: str, call: Any, path: str, *details: Any) -> Any:
        with self._order:
            self.count += 1
            fails = self.count >= self._at if self._lasting else self.count == self._at
            # What makes room is what a full disk still does.
            self.is_spared |= fails and kind == "remove" and self._code == errno.ENOSPC
            fails = fails and not (kind == "remove" and self._code == errno.ENOSPC)
            if fails:
                self.failed.append((kind, path))
        if fails:
            raise OSError(self._code, os.strerror(self._code), path)
        return call()


def script(path: str, committed: list[int]) -> None:
    """All that a writer does; ``committed`` grows by what it says is committed."""
    with open_tiny(path) as writer:
        add_tiny(writer, 1)
        writer.commit()
        committed.append(1)
        writer.end_trajectories([0])
        add_tiny(writer, STEPS - 1)
    committed.append(STEPS)


def operations() -> int:
    """How many operations the script makes."""
    counting = FaultyFiles(10**9, 0, False)
    with tempfile.TemporaryDirectory() as folder, writing_through(counting):
        script(os.path.join(folder, "store"), [])
    return counting.count


TOTAL = operations()


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from-then-on"])
@pytest.mark.parametrize("code", ERRORS, ids=errno.errorcode.get)
def test_every_operation_fails_in_turn(ram_store: str, code: int, lasting: bool) -> None:
    store, threads = ram_store, threading.active_count()
    # Failing once is the harder case: what comes behind could seem to succeed. Each in turn; of
    # those that go on failing every fourth is enough.
    for at in range(1, TOTAL + 1, 4 if lasting else 1):
        faulty = FaultyFiles(at, code, lasting)
        committed: list[int] = []
        error = attempt(store, faulty, committed)
        if faulty.is_spared and not lasting:
            assert error is None
            assert_goes_on(store, STEPS)
            shutil.rmtree(store)
            continue
        assert faulty.failed, at
        count("faults injected, each resumed from")
        if error is None:
            assert_may_be_ignored(faulty, code, store)
        else:
            assert_tells(error, code, [path for _, path in faulty.failed])
        assert_goes_on(store, max(committed, default=0))
        shutil.rmtree(store, ignore_errors=True)
    wait_until(lambda: threading.active_count() <= threads)


def attempt(store: str, faulty: FaultyFiles, committed: list[int]) -> WriteError | None:
    try:
        with writing_through(faulty):
            script(store, committed)
    except WriteError as error:
        return error
    return None


def assert_may_be_ignored(faulty: FaultyFiles, code: int, store: str) -> None:
    """Only a folder above the store that is another's may refuse to be synced."""
    assert faulty.failed == [("sync_folder", os.path.dirname(os.path.dirname(store)))]
    assert code == errno.EACCES


def assert_tells(error: WriteError, code: int, paths: list[str]) -> None:
    cause = error.__cause__
    assert isinstance(cause, OSError), cause
    assert cause.errno == error.errno == code
    assert error.filename in paths
    assert error.filename in str(error)
    assert os.strerror(code).lower() in str(error).lower()


def assert_goes_on(store: str, committed: int) -> None:
    """What was said to be committed is there, and a resume goes on behind it."""
    try:
        steps = check(store)
    except StoreNotFoundError:
        assert not os.path.exists(store)
        steps = 0
    assert committed <= steps <= STEPS
    check_resume(store, steps)


def test_no_descriptor_is_left_behind_by_failures(store: str) -> None:
    before = open_files()
    for at in range(1, TOTAL, 7):
        attempt(store, FaultyFiles(at, errno.EIO, False), [])
        shutil.rmtree(store, ignore_errors=True)
    assert len(open_files()) <= len(before)


def test_a_failed_sync_is_never_tried_again(store: str) -> None:
    """The system may have dropped the dirty pages, and the next sync would say yes to nothing."""
    syncs: list[str] = []

    class FailingSync(WrappedFiles):
        def do(self, kind: str, call: Any, path: str, *details: Any) -> Any:
            if kind == "sync" and "/x/.c.0" in path:
                syncs.append(path)
                raise OSError(errno.EIO, "Input/output error: lost", path)
            if syncs:
                assert kind in ("remove", "create", "write"), (kind, path)
            return call()

    with writing_through(FailingSync()):
        writer = open_tiny(store)
        add_tiny(writer)
        more = (lambda: add_tiny(writer), lambda: writer.end_trajectories([0]), writer.close)
        for call in (*[writer.commit] * 3, *more):
            with pytest.raises(WriteError, match=r"lost.*; the first 0 steps are safe") as caught:
                call()
            assert_tells(caught.value, errno.EIO, syncs)
        with pytest.raises(ClosedError):
            add_tiny(writer)
        writer.close()
    assert len(syncs) == 1
    check_resume(store, 0)


def test_short_writes_lose_nothing(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.writev
    calls = []

    def short(fd: int, buffers: list[memoryview]) -> int:
        """Take some of what is offered, once in a while nothing."""
        calls.append(fd)
        most = len(calls) % 8
        taken: list[memoryview] = []
        for view in buffers:
            taken.append(view[: max(0, most - sum(map(len, taken)))])
        return real(fd, taken)

    monkeypatch.setattr(files.os, "writev", short)
    script(store, [])
    assert len(calls) > 500
    assert check(store) == STEPS


def test_a_close_that_fails_says_so(store: str) -> None:
    faulty = FaultyFiles(10**9, errno.EDQUOT, True)
    with writing_through(faulty):
        writer = open_tiny(store)
        add_tiny(writer, 3)
        faulty._at = 0
        with pytest.raises(WriteError, match="quota"):
            writer.close()
    assert TrajectoryDataset(store).status == "collecting"
    check_resume(store, check(store))


def test_the_folder_goes_away_under_the_writer(store: str) -> None:
    writer = open_tiny(store)
    add_tiny(writer, 3)
    writer.commit()
    shutil.move(store, store + ".elsewhere")
    add_tiny(writer)
    with pytest.raises(StoreLostError, match=r"removed, or moved away.*the first 3 of the store"):
        writer.commit()
    with pytest.raises(StoreLostError):
        writer.close()
    assert not os.path.exists(store)
    names = [name for _, _, found in os.walk(store + ".elsewhere") for name in found]
    assert [name for name in names if name.startswith(".")] == [STATE_COPY]
    shutil.move(store + ".elsewhere", store)
    check_resume(store, 3)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
def test_permission_is_lost_under_the_writer(store: str) -> None:
    writer = open_tiny(store)
    add_tiny(writer, 3)
    writer.commit()
    os.chmod(os.path.join(store, "x"), 0o500)
    add_tiny(writer)
    with pytest.raises(WriteError, match="Permission denied"):
        writer.commit()
    with pytest.raises(WriteError):
        writer.close()
    os.chmod(os.path.join(store, "x"), 0o700)
    check_resume(store, 3)


def test_a_folder_without_directory_sync_will_do(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems answer EINVAL when a folder is synced."""
    real = os.fsync

    def refuse_folders(fd: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(fd)

    monkeypatch.setattr(files.os, "fsync", refuse_folders)
    script(store, [])
    assert check(store) == STEPS
