"""Encoding in a process of its own: the same bytes, and nothing lost if that process is."""

from __future__ import annotations

import errno
import gc
import logging
import math
import os
import pickle
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect.errors import InputError, WriteError
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.recording.blocks import SharedRing
from mosaic_collect.recording.encoder import FieldEncoder
from mosaic_collect.recording.process import (
    EncoderProcess,
    Reply,
    least_ring_nbytes,
    ready,
    serve,
)
from mosaic_collect.recording.writer import TrajectoryWriter
from mosaic_collect.store.codec import Compressor
from mosaic_collect.store.grid import FieldGrid
from mosaic_collect.store.metadata import SPARE
from mosaic_collect.store.ranks import blobs_at
from mosaic_collect.store.schema import Field, Schema
from mosaic_collect.store.view import DOCUMENT, read_state
from tests.helpers import (
    ALL_DTYPES,
    REPO,
    SMALL,
    add,
    assert_holds,
    contents,
    open_files,
    open_writer,
    wait_until,
)

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd_create")

N = 4
PROCESS = "mosaic_collect.recording.process"


def in_process(store: str, **options: Any) -> TrajectoryWriter:
    return open_writer(store, N, encode_in="process", **options)


def process_of(writer: TrajectoryWriter) -> Any:
    encoder = writer._pipeline._process
    assert encoder is not None
    return encoder._process


@pytest.fixture
def may_be_lost() -> None:
    """For tests in which threads do the work in the end."""


@pytest.fixture(autouse=True)
def process_does_the_work(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    """Otherwise every test here would pass without a process, too."""
    yield
    said = [r.getMessage() for r in caplog.get_records("call")]
    instead = [m for m in said if "is lost" in m or "encoding in threads" in m]
    assert bool(instead) == ("may_be_lost" in request.fixturenames), instead


def files(store: str) -> dict[str, bytes]:
    """All files but the two documents that say when it was made."""
    told = {DOCUMENT, f"{SPARE}/{DOCUMENT}"}
    return {name: data for name, data in contents(store).items() if name not in told}


def is_gone(pid: int) -> bool:
    """Whether a process has ended; nobody may have waited for it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


# -- the same store --------------------------------------------------------------------------------


@pytest.mark.parametrize("compressor", ["auto", "lz4", "none"])
@pytest.mark.parametrize("schema", [SMALL.with_ends(), ALL_DTYPES], ids=["small", "dtypes"])
@pytest.mark.usefixtures("one_identity")
def test_the_same_files_as_in_threads(tmp_path: Path, compressor: str, schema: Schema) -> None:
    """Blocks, parts of blocks, ends told late, a resume in the middle."""
    for encode_in in ("threads", "process"):
        store = str(tmp_path / encode_in)
        for run in range(2):
            options: dict[str, Any] = {"encode_in": encode_in, "compressor": compressor}
            with open_writer(store, N, schema, resume=run > 0, **options) as writer:
                for step in range(run * 8, run * 8 + 8):
                    add(writer, step, masks=True)
                    if step % 3 == 0:
                        writer.end_trajectories([step % N])
                    if step % 5 == 1:
                        writer.commit()
    assert files(str(tmp_path / "process")) == files(str(tmp_path / "threads"))
    both = [TrajectoryDataset(str(tmp_path / e)) for e in ("threads", "process")]
    assert both[0].num_valid == both[1].num_valid


@pytest.mark.usefixtures("one_identity")
def test_the_same_files_where_chunks_are_many_and_of_noise(tmp_path: Path) -> None:
    """Raw frames point into the ring itself; twins are linked by the parent."""
    noise = np.random.default_rng(0).standard_normal((8, 64, 2048), np.float32)
    noise[3, 5, 7], noise[6, 1, 0] = np.nan, np.inf
    for encode_in in ("threads", "process"):
        schema = Schema.mosaic(obs_dim=2048, action_dim=2048)
        options = {"block_steps": 4, "encode_in": encode_in}
        with open_writer(tmp_path / encode_in, 64, schema, **options) as writer:
            for step in noise:
                writer.add_step(observations=step, actions=step, action_mean=step)
    assert files(str(tmp_path / "process")) == files(str(tmp_path / "threads"))
    states = [read_state(blobs_at(tmp_path / e)) for e in ("threads", "process")]
    assert [s and dict(s.nonfinite)["observations"] for s in states] == [2, 2]
    assert os.path.samefile(
        tmp_path / "process/action_mean/c.0.0.0", tmp_path / "process/actions/c.0.0.0"
    )


def test_it_ends_with_the_writer_and_leaves_nothing(store: str) -> None:
    before = open_files()
    with in_process(store) as writer:
        add(writer, *range(7))
        writer.commit()
        pid = process_of(writer).pid
        assert os.path.exists(f"/proc/{pid}")
        ours, its = (os.getpriority(os.PRIO_PROCESS, of) for of in (0, pid))
        assert its == min(ours + 10, 19), "the simulation comes first"
        steps: Any = writer._steps
        assert steps.block.arrays["actions"][:, 0].flags.c_contiguous, "a step is one piece"
    assert not os.path.exists(f"/proc/{pid}"), "neither running nor a zombie"
    assert open_files() <= before
    with open("/proc/self/maps") as file:
        assert "memfd:mosaic_collect" not in file.read()
    assert_holds(TrajectoryDataset(store), range(7))


# -- it dies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 2, 7, 13])
@pytest.mark.usefixtures("may_be_lost")
def test_killed_at_a_step_nothing_is_lost(
    store: str, at: int, caplog: pytest.LogCaptureFixture
) -> None:
    with in_process(store) as writer:
        for step in range(20):
            if step == at:
                process_of(writer).kill()
            add(writer, step)
    assert_holds(TrajectoryDataset(store), range(20))
    lost = [r for r in caplog.records if "is lost" in r.message]
    assert len(lost) == 1, "said once, and loudly"
    assert lost[0].levelno == logging.ERROR


@pytest.mark.usefixtures("may_be_lost")
def test_killed_in_the_midst_of_a_shard_nothing_is_lost(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it wrote of the shard stays behind in a file that gets no name."""
    ask, kills = EncoderProcess._ask, iter((False, False, False, True))

    def ask_and_kill(self: EncoderProcess, *args: Any) -> None:
        ask(self, *args)
        if next(kills, False):
            self._process.kill()

    monkeypatch.setattr(EncoderProcess, "_ask", ask_and_kill)
    with in_process(store) as writer:
        add(writer, *range(20))
    assert_holds(TrajectoryDataset(store), range(20))
    assert not [n for _, _, names in os.walk(store) for n in names if n.endswith(".tmp")]


def test_signals_to_the_group_are_the_parents_affair(store: str) -> None:
    """From the first moment on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with in_process(store) as writer:
        for first in (0, 4):
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(process_of(writer).pid, number)
            add(writer, *range(first, first + 4))
            writer.commit()
        assert process_of(writer).poll() is None
        assert writer._pipeline._process is not None
        assert not writer._pipeline._process._lost
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert_holds(TrajectoryDataset(store), range(8))


RECORD = """
import os, sys, time
from mosaic_collect import Schema, TrajectoryWriter
from tests.helpers import add, open_writer
writer = open_writer(sys.argv[1], 4, encode_in="process")
print(writer._pipeline._process._process.pid, flush=True)
if sys.argv[2] == "forked" and os.fork() == 0:
    print(os.getpid(), flush=True)
    time.sleep(600)
    os._exit(0)
step = 0
while True:
    add(writer, step)
    step += 1
    if step == 60:
        print("going", flush=True)
"""


def killed_parent(store: str, how: str) -> tuple[int, list[int]]:
    """Steps that a killed recording left; its encoding process and a fork, which may go on."""
    command = [sys.executable, "-c", RECORD, store, how]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        said: list[str] = []
        while "going\n" not in said or len(said) < (3 if how == "forked" else 2):
            said.append(parent.stdout.readline())
        parent.kill()
    return TrajectoryDataset(store).num_steps, [int(s) for s in said if s != "going\n"]


def test_it_ends_with_a_killed_parent_whose_store_goes_on(store: str) -> None:
    steps, [pid] = killed_parent(store, "alone")
    wait_until(lambda: is_gone(pid))
    assert steps > 0
    with open_writer(store, N, resume=True, encode_in="process") as writer:
        add(writer, *range(steps, steps + 5))
    assert_holds(TrajectoryDataset(store), range(steps + 5))


def test_it_ends_with_a_killed_parent_whose_fork_lives(store: str) -> None:
    """The fork holds the other end of the connection open."""
    _, (pid, fork) = killed_parent(store, "forked")
    try:
        assert os.path.exists(f"/proc/{fork}")
        wait_until(lambda: is_gone(pid))
    finally:
        os.kill(fork, signal.SIGKILL)


def test_a_fork_of_the_parent_keeps_it_no_longer(store: str) -> None:
    writer = in_process(store)
    add(writer, *range(7))
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
        os._exit(0)
    try:
        process = process_of(writer)
        writer.close()
        assert process.returncode == 0, "it ended by itself, and was not killed in the end"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert_holds(TrajectoryDataset(store), range(7))


# -- it cannot -------------------------------------------------------------------------------------


def test_a_full_disk_is_an_error_that_names_the_file(store: str) -> None:
    """The process may write files of some bytes only, as the disk has no room for more."""
    writer = in_process(store)
    add(writer, *range(3))
    writer.commit()
    resource.prlimit(process_of(writer).pid, resource.RLIMIT_FSIZE, (20, 20))
    add(writer, *range(3, 6))
    with pytest.raises(WriteError, match=r"c\.1\.0") as caught:
        writer.commit()
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EFBIG
    with pytest.raises(WriteError):
        writer.close()
    assert_holds(TrajectoryDataset(store), range(3))


def test_another_error_of_its_own_is_one_here(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = in_process(store)
    add(writer, *range(3))
    reply: Reply = "actions", RuntimeError("MemoryError: no scratch")
    messages = iter([ready(), pickle.dumps(reply)])
    monkeypatch.setattr(EncoderProcess, "_message", lambda self, *args: next(messages))
    with pytest.raises(WriteError, match="no scratch"):
        writer.commit()
    with pytest.raises(WriteError):
        writer.close()
    assert TrajectoryDataset(store).num_steps == 0


def no_memory(*args: Any) -> int:
    raise OSError(errno.ENOMEM, "no memory to share")


def no_process(*args: Any, **options: Any) -> Any:
    raise OSError(errno.EAGAIN, "no process")


@pytest.mark.parametrize(
    ("what", "instead", "words"),
    [
        ("os.memfd_create", no_memory, "no memory to share; encoding in threads"),
        ("subprocess.Popen", no_process, "no process; encoding in threads"),
        (f"{PROCESS}.MOST_MESSAGE_NBYTES", 100, "are too many for it; encoding in threads"),
        # A search path that begins with the working folder finds another copy after a chdir.
        (f"{PROCESS}.ready", lambda: b"ready /other/copy.py", "/other/copy.py"),
    ],
    ids=["no memory", "no process", "fields of more than a message", "another copy"],
)
@pytest.mark.usefixtures("may_be_lost")
def test_where_it_cannot_be_threads_do_it(
    store: str,
    what: str,
    instead: Any,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(what, instead)
    with in_process(store) as writer:
        add(writer, *range(7))
    assert_holds(TrajectoryDataset(store), range(7))
    assert words in caplog.text


@pytest.mark.parametrize("does", ["exit 3", "exec sleep 100"])
@pytest.mark.usefixtures("may_be_lost")
def test_an_executable_that_is_something_else(
    store: str, does: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs that embed Python may show such a one."""
    other = tmp_path / "python-of-another-kind"
    other.write_text(f"#!/bin/sh\n{does}\n")
    other.chmod(other.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr("sys.executable", str(other))
    monkeypatch.setattr(f"{PROCESS}._START_SECONDS", 0.5)
    with in_process(store) as writer:
        add(writer, *range(7))
    assert_holds(TrajectoryDataset(store), range(7))


@pytest.mark.usefixtures("may_be_lost")
def test_a_process_that_does_not_answer_any_more(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dead, but a fork of this one holds its end of the connection open, so nothing is shown."""

    class Silent:
        def recv(self, nbytes: int) -> bytes:
            raise TimeoutError

        def __getattr__(self, name: str) -> Any:
            return lambda *args: None

    with in_process(store) as writer:
        add(writer, *range(4))
        writer.commit()
        encoder: Any = writer._pipeline._process
        encoder._process.kill()
        encoder._link.close()
        encoder._link = Silent()
        monkeypatch.setattr("socket.send_fds", lambda *args: None)
        add(writer, *range(4, 9))
    assert_holds(TrajectoryDataset(store), range(9))


def test_an_opening_that_is_refused_keeps_no_memory(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    before = open_files()
    monkeypatch.setattr("mosaic_collect.store.commit.Store.begin", full)
    with pytest.raises(WriteError, match="full"):
        in_process(store)
    gc.collect()
    assert open_files() <= before, "what other tests left open may close meanwhile"


@pytest.mark.parametrize(
    ("encode_in", "processors", "executable", "least"),
    [
        ("auto", {0, 1}, sys.executable, 64_000_000),
        ("auto", {0}, sys.executable, math.inf),
        ("threads", {0, 1}, sys.executable, math.inf),
        ("process", {0}, sys.executable, 0),
        ("auto", {0, 1}, "", math.inf),
        ("auto", {0, 1}, "/opt/simulator/kit", math.inf),
        ("process", {0, 1}, "", None),
        ("process", {0, 1}, "/opt/simulator/kit", None),
    ],
)
def test_from_which_size_it_is_wanted(
    encode_in: str,
    processors: set[int],
    executable: str,
    least: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Programs that embed Python have no interpreter to start."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: processors)
    monkeypatch.setattr("sys.executable", executable)
    if least is None:
        with pytest.raises(InputError, match="encode_in: no process with"):
            least_ring_nbytes(encode_in)
    else:
        assert least_ring_nbytes(encode_in) == least


# -- its own half ----------------------------------------------------------------------------------

GRIDS = {
    name: FieldGrid(Field(name=name, dim=3), num_envs=5, block_steps=4, chunk_envs=2)
    for name in ("a", "b")
}


def no_room(fd: int) -> None:
    raise OSError(errno.EDQUOT, "no room")


def test_a_worker_answers_with_what_went_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that cannot be written, one that cannot be closed, and an encoder that fails."""
    ring = SharedRing(GRIDS, 2, by_step=True)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    setup = GRIDS, 2, ring.by_step, Compressor.named("auto"), 1
    worker = threading.Thread(target=serve, args=(theirs, os.getppid(), setup, os.dup(ring.fd)))

    def error_of(name: str, mode: str) -> Any:
        with open(tmp_path / "file", mode) as file:
            socket.send_fds(ours, [pickle.dumps((0, name, True, 0))], [file.fileno()])
            return pickle.loads(ours.recv(1 << 16))[1]

    (tmp_path / "file").touch()

    worker.start()
    assert ours.recv(1 << 16) == ready()
    assert error_of("a", "r").errno == errno.EBADF
    with monkeypatch.context() as patch:
        patch.setattr(f"{PROCESS}.os.close", no_room)
        assert error_of("b", "w").errno == errno.EDQUOT
    monkeypatch.setattr(FieldEncoder, "encode", lambda self, values, whole: 1 / 0)
    failed = error_of("a", "w")
    assert isinstance(failed, RuntimeError)
    assert "ZeroDivisionError" in str(failed)
    ours.send(b"")
    worker.join()
    for end in (ours, theirs, ring):
        end.close()
