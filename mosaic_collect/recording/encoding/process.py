"""Encoding in a process of its own, which leaves this one's interpreter to the simulation.

Threads that compress run without the GIL, but take it between any two calls, and a loop of many
small operations waits for it each time. Here a thread opens a file, hands it to another process
together with the field's name, and hears when its bytes are written. That process may die: what it
was to encode is still in the ring, and is encoded here, to a file of its own.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mosaic_collect.errors import InputError
from mosaic_collect.recording.encoding.block_encoder import BlockEncoder
from mosaic_collect.recording.encoding.threads import Encoding, OpenShard, ThreadEncoding
from mosaic_collect.recording.encoding.worker import (
    MOST_MESSAGE_NBYTES,
    SHARDS_AHEAD,
    Reply,
    Request,
    Setup,
    ready,
)
from mosaic_collect.recording.ring.shared import SharedRing
from mosaic_collect.store.blobs import Upload
from mosaic_collect.store.metadata import StoreState
from mosaic_collect.store.workers import WorkerPool

_log = logging.getLogger(__name__)
#: Where blocks can be encoded.
ENCODE_IN = ("auto", "process", "threads")
#: Below this a block is so small, or comes so seldom, that another process is not worth its start.
_AUTO_RING_NBYTES = 64_000_000
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_START_SECONDS, _LOOK_SECONDS, _END_SECONDS = 60.0, 5.0, 10.0
# It multiplies no matrices, so their threads need take no memory; and what compressors return is
# of megabytes, which malloc would give back to the system each time (glibc, mallopt(3)).
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}
# This process's search path, so that the other finds the same packages.
_CODE = (
    "import sys; sys.path[:] = {path!r}; "
    "from mosaic_collect.recording.encoding.worker import main; main({arguments})"
)


def is_wanted(encode_in: Any, ring_nbytes: int) -> bool:
    """Whether blocks of such a ring are to be encoded in a process of its own.

    Args:
        encode_in: "process", "threads", or "auto": a process if much is recorded and there is a
            second processor for it.
        ring_nbytes: Bytes of the ring.

    Raises:
        InputError: Another word, or there can be no process.
    """
    if encode_in not in ENCODE_IN:
        raise InputError(f"encode_in: expected {', '.join(ENCODE_IN)}, got {encode_in!r}")
    if encode_in == "process" and not _can_start():
        raise InputError(f"encode_in: no process with {sys.executable!r} on {sys.platform}")
    if encode_in == "auto" and _can_start():
        return ring_nbytes >= _AUTO_RING_NBYTES and len(os.sched_getaffinity(0)) > 1
    return bool(encode_in == "process")


def _can_start() -> bool:
    """Whether there is memory to share, and an interpreter to start.

    Programs that embed Python may name themselves as its executable.
    """
    name = os.path.basename(sys.executable or "")
    return hasattr(os, "memfd_create") and sys.byteorder == "little" and name.startswith("python")


def start_encoding(
    ring: SharedRing | None, state: StoreState, threads: int, pool: WorkerPool
) -> Encoding:
    """A process for a ring that is shared, ``pool`` for another, or where none can be started.

    To be called by the thread that will speak with it: its descriptors and signals are that
    thread's, where no interrupt falls.
    """
    instead = ThreadEncoding(pool)
    if ring is None:
        return instead
    setup = Setup(state.grids(), ring.slots, ring.by_step, state.compressor, threads)
    try:
        return EncoderProcess(*_start(setup, ring.fd), instead)
    except OSError as error:
        _log.warning("no process to encode in: %s; encoding in threads", error)
        return instead
    finally:
        ring.close()


class EncoderProcess:
    """An ``Encoding``; nobody waits for the process before the first block is full.

    Args:
        link: To the process.
        process: Started, with its setup on the way.
        instead: Does its work if it is lost.
    """

    def __init__(
        self, link: socket.socket, process: subprocess.Popen[bytes], instead: Encoding
    ) -> None:
        self._link, self._process, self._instead = link, process, instead
        self._ready = self._lost = False

    def write(
        self, encoder: BlockEncoder, names: Iterable[str], open_shard: OpenShard
    ) -> Iterator[Upload]:
        left = list(names)
        try:
            for name, shard in self._written(encoder, left, open_shard):
                left.remove(name)
                yield shard
        except _LostError as lost:
            self._give_up(lost)
        yield from self._instead.write(encoder, left, open_shard)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            # Said, and not only shown by an end that a fork of this process may hold open.
            self._link.send(b"", socket.MSG_NOSIGNAL)
        self._link.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _written(
        self, encoder: BlockEncoder, names: Iterable[str], open_shard: OpenShard
    ) -> Iterator[tuple[str, Upload]]:
        """Shards as they are written, with some asked for ahead."""
        waiting, asked = deque(names), dict[str, Upload]()
        if not self._lost:
            self._require_ready()
        try:
            while not self._lost and (waiting or asked):
                while waiting and len(asked) < SHARDS_AHEAD:
                    name = waiting.popleft()
                    asked[name] = open_shard(name)
                    start = asked[name].nbytes
                    self._ask(Request(encoder.slot, name, encoder.whole, start), asked[name])
                reply = self._reply(asked)
                shard = asked.pop(reply.name)
                shard.nbytes = reply.nbytes
                encoder.add_nonfinite(reply.name, reply.nonfinite)
                yield reply.name, shard
        except Exception:
            self._lost = True  # answers may be on their way that nobody waits for
            raise
        finally:
            for shard in asked.values():
                shard.abandon()

    def _ask(self, request: Request, shard: Upload) -> None:
        message, fds = pickle.dumps(request), [shard.fileno()]
        try:
            socket.send_fds(self._link, [message], fds, socket.MSG_NOSIGNAL)
        except OSError as error:
            raise _LostError(error) from error

    def _reply(self, asked: Mapping[str, Upload]) -> Reply:
        reply: Reply = pickle.loads(self._message())  # noqa: S301  from this package's other half
        error = reply.error
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, asked[reply.name].address) from error
        if error is not None:
            raise error
        return reply

    def _message(self, seconds: float | None = None) -> bytes:
        """The next message, if it comes in time and the process lives."""
        start = time.monotonic()
        while seconds is None or time.monotonic() - start < seconds:
            try:
                message = self._link.recv(MOST_MESSAGE_NBYTES)
            except TimeoutError:
                # A fork of this process may hold the other end open, too.
                if self._process.poll() is not None:
                    break
            except OSError as error:
                raise _LostError(error) from error
            else:
                if message:
                    return message
                break
        raise _LostError("it does not answer")

    def _require_ready(self) -> None:
        if self._ready:
            return
        said = self._message(_START_SECONDS)
        if said != ready():
            raise _LostError(f"it says {said!r} and not {ready()!r}")
        self._ready = True

    def _give_up(self, lost: _LostError) -> None:
        """Nothing it still does may reach files that others write: it is dead before they begin."""
        self._lost = True
        self._process.kill()
        code = self._process.wait()
        _log.error(
            "the encoding process %d is lost (%s; exit code %d), but nothing of the recording: "
            "threads of this process go on with its work",
            self._process.pid,
            lost,
            code,
        )


class _LostError(Exception):
    """The process does not answer."""


def _start(setup: Setup, ring_fd: int) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """The process, and the link to it, over which its setup was sent.

    Raises:
        OSError: There can be none.
    """
    message = pickle.dumps(setup)
    if len(message) > MOST_MESSAGE_NBYTES:
        raise OSError(errno.EMSGSIZE, f"{len(setup.grids)} fields are too many for it")
    # What this thread blocks stays blocked there: a signal to the whole group, a Ctrl-C for one,
    # is the affair of this process, whose other threads still take it.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link.settimeout(_LOOK_SECONDS)
    try:
        with theirs:
            process = _spawn(theirs.fileno(), ring_fd)
        # If it is gone already, that is seen when its first answer is waited for.
        with contextlib.suppress(ConnectionError):
            link.send(message, socket.MSG_NOSIGNAL)
    except BaseException:
        link.close()
        raise
    return link, process


def _spawn(link_fd: int, ring_fd: int) -> subprocess.Popen[bytes]:
    path = [os.path.abspath(p) for p in sys.path]
    arguments = f"{os.getpid()}, {link_fd}, {ring_fd}"
    return subprocess.Popen(
        [sys.executable, "-c", _CODE.format(path=path, arguments=arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(link_fd, ring_fd),
        env={**os.environ, **_ENVIRONMENT},
    )
