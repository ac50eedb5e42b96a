"""Promise 6: a thread that dies or hangs is told of; nobody waits for ever without saying so."""

from __future__ import annotations

import errno
import logging
import threading
from typing import Any

import pytest

from mosaic_collect import TrajectoryWriter
from mosaic_collect.errors import WriteError
from mosaic_collect.recording import pipeline
from mosaic_collect.recording.encoder import BlockEncoder
from mosaic_collect.recording.pipeline import Pipeline
from mosaic_collect.store.commit import Store
from mosaic_collect.store.lock import StoreLock
from tests.durability.recording import GatedFiles, writing_through
from tests.durability.rig import add_tiny, check, check_resume, open_tiny
from tests.helpers import wait_until


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "REPORT_SECONDS", 0.05)


@pytest.mark.parametrize(
    ("kind", "part", "words"),
    [
        ("sync", "/x/", "committer at the sync of"),
        ("sync_folder", "/x", "committer at the commit of step"),
        ("write", "/x/", "encoder at block"),
    ],
)
def test_a_hang_is_reported_and_nothing_is_dropped(
    store: str, caplog: pytest.LogCaptureFixture, kind: str, part: str, words: str
) -> None:
    gate = GatedFiles(kind, part)
    with writing_through(gate):
        writer = open_tiny(store)
        gate.shut = True
        thread = threading.Thread(target=lambda: (add_tiny(writer, 9), writer.close()))
        with caplog.at_level(logging.WARNING):
            thread.start()
            wait_until(lambda: words in caplog.text)
        assert "waiting for" in caplog.text
        gate.opened.set()
        thread.join()
    assert check(store) == 9


def is_at(writer: TrajectoryWriter, work: str) -> bool:
    """Whether the committer is at work of this kind."""
    return writer._pipeline._at_work.get("committer", "").startswith(work)


def test_a_hang_in_the_close_is_reported(store: str, caplog: pytest.LogCaptureFixture) -> None:
    """Also where there is a failure already, and the other thread has not come back yet."""
    gate = GatedFiles("sync", "/x/")
    with writing_through(gate):
        writer = open_tiny(store)
        add_tiny(writer)
        gate.shut = True
        writer._steps.commit(wait=False)
        wait_until(lambda: is_at(writer, "the sync"))
        writer._pipeline._fail(OSError(errno.EIO, "elsewhere"))
        closing = threading.Thread(target=_close_failing, args=(writer,))
        closing.start()
        wait_until(lambda: "waiting for the writing threads to end" in caplog.text)
        gate.opened.set()
        closing.join()
    check_resume(store, 0)


def _close_failing(writer: Any) -> None:
    with pytest.raises(WriteError, match="elsewhere"):
        writer.close()


@pytest.mark.parametrize("error", [RuntimeError("boom"), SystemExit(3), MemoryError("no room")])
@pytest.mark.parametrize(
    ("kind", "name"),
    [(BlockEncoder, "encode"), (BlockEncoder, "counts"), (Store, "publish")],
)
def test_whatever_ends_a_thread_reaches_the_caller(
    store: str, monkeypatch: pytest.MonkeyPatch, kind: type, name: str, error: BaseException
) -> None:
    writer = open_tiny(store)
    add_tiny(writer, 2)
    writer.commit()

    def fail(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(kind, name, fail)
        with pytest.raises(WriteError, match="the first 2 steps are safe") as caught:
            add_tiny(writer, 40)
        assert caught.value.__cause__ is error
        with pytest.raises(WriteError):
            writer.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("mosaic_")]
    check_resume(store, 2)


def test_the_encoder_does_not_wait_for_ever_for_a_failed_committer(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue between them is short, and the committer fails while it is full."""
    gate = GatedFiles("sync", "/x/")
    with writing_through(gate):
        writer = open_tiny(store, buffer_mb=0.01)  # dozens of steps a block: three in the ring
        gate.shut = True
        for _ in range(3):
            add_tiny(writer, writer.block_steps)
        wait_until(writer._pipeline._to_commit.full)
        real = Store.publish
        monkeypatch.setattr(Store, "publish", _fail)
        gate.opened.set()
        with pytest.raises(WriteError, match="no more"):
            add_tiny(writer, 2 * writer.block_steps)
        with pytest.raises(WriteError):
            writer.close()
        monkeypatch.setattr(Store, "publish", real)
    with open_tiny(store, resume=True, buffer_mb=0.01) as writer:
        assert writer.num_steps == 0
        add_tiny(writer)


def _fail(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "no more")


def test_a_thread_that_is_gone_is_noticed(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pipeline, "_commit_all", lambda self: None)
    writer = open_tiny(store)
    add_tiny(writer)
    with pytest.raises(WriteError, match="died"):
        writer.commit()
    with pytest.raises(WriteError, match="died"):
        writer.close()
    writer._pipeline._release()


def test_the_lock_stays_as_long_as_something_may_be_written(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that was left in the middle of a commit holds its store until that is over."""
    released = threading.Event()
    real = StoreLock.release

    def release(lock: StoreLock) -> None:
        real(lock)
        released.set()

    monkeypatch.setattr(StoreLock, "release", release)
    gate = GatedFiles("rename", ".zarr/.zarr.json")
    with writing_through(gate):
        writer = open_tiny(store)
        add_tiny(writer)
        gate.shut = True
        writer._steps.commit(wait=False)
        wait_until(lambda: is_at(writer, "the commit"))
        writer._shut(patience=0.1)
        assert not released.is_set()
        gate.opened.set()
        assert released.wait(300)
    writer.close()
    check_resume(store, check(store))
