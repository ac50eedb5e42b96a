"""Encoding in a process of its own, which leaves this one's interpreter to the simulation.

Threads that compress run without the GIL, but take it between any two calls, and a loop of many
small operations waits for it each time. Here a thread opens a file, hands it to another process
together with the field's name, and hears when its bytes are written. That process may die: what it
was to encode is still in the ring, and is encoded here, to a file of its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from mosaic_collect.encoder import BlockEncoder
from mosaic_collect.encoder_worker import (
    MOST_MESSAGE_NBYTES,
    READY,
    SHARDS_AHEAD,
    Reply,
    Request,
    Setup,
)
from mosaic_collect.encoding import Encoding, ThreadEncoding
from mosaic_collect.errors import InputError
from mosaic_collect.metadata import StoreState
from mosaic_collect.shard_file import ShardFile
from mosaic_collect.shared_ring import SharedRing
from mosaic_collect.workers import WorkerPool

_log = logging.getLogger(__name__)
#: Where blocks can be encoded.
ENCODE_IN = ("auto", "process", "threads")
#: Below this a block is so small, or comes so seldom, that another process is not worth its start.
_AUTO_RING_NBYTES = 64_000_000
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_START_SECONDS, _END_SECONDS = 60.0, 10.0
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
    "from mosaic_collect.encoder_worker import main; main({link}, {ring})"
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


def encoding_of(
    ring: SharedRing | None, state: StoreState, threads: int, pool: WorkerPool
) -> Encoding:
    """A process for a ring that is shared; ``pool`` if it is not, or if none can be started."""
    instead = ThreadEncoding(pool)
    if ring is None:
        return instead
    setup = Setup(state.grids(), ring.slots, state.compressor, threads)
    try:
        return EncoderProcess(ring.fd, setup, instead)
    except OSError as error:
        _log.warning("no process to encode in: %s; encoding in threads", error)
        return instead
    finally:
        ring.close()


class EncoderProcess:
    """An ``Encoding``, started at once; nobody waits for it before the first block is full.

    Args:
        ring_fd: The ring's descriptor, not needed afterwards.
        setup: For the process.
        instead: Does its work if it is lost.

    Raises:
        OSError: It could not be started.
    """

    def __init__(self, ring_fd: int, setup: Setup, instead: Encoding) -> None:
        self._instead = instead
        self._ready = self._lost = False
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._process = _start(theirs.fileno(), ring_fd)
            self._link.send(pickle.dumps(setup), socket.MSG_NOSIGNAL)
        except BaseException:
            self._link.close()
            raise

    def write(
        self,
        encoder: BlockEncoder,
        names: Iterable[str],
        open_shard: Callable[[str], ShardFile],
    ) -> Iterator[ShardFile]:
        left = list(names)
        try:
            for name, shard in self._written(encoder, left, open_shard):
                left.remove(name)
                yield shard
        except _LostError as lost:
            self._give_up(lost)
        yield from self._instead.write(encoder, left, open_shard)

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            # Said and not only shown by the closed end, which a fork of this process may hold open.
            self._link.send(b"", socket.MSG_NOSIGNAL)
        self._link.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _written(
        self,
        encoder: BlockEncoder,
        names: Iterable[str],
        open_shard: Callable[[str], ShardFile],
    ) -> Iterator[tuple[str, ShardFile]]:
        """Shards as they are written, with some asked for ahead."""
        waiting, asked = deque(names), dict[str, ShardFile]()
        if not self._lost:
            self._require_ready()
        try:
            while not self._lost and (waiting or asked):
                while waiting and len(asked) < SHARDS_AHEAD:
                    name = waiting.popleft()
                    asked[name] = open_shard(name)
                    self._ask(Request(encoder.slot, name, encoder.whole), asked[name])
                reply = self._reply(asked)
                shard = asked.pop(reply.name)
                shard.nbytes = reply.nbytes
                encoder.add_nonfinite(reply.name, reply.nonfinite)
                yield reply.name, shard
        finally:
            for shard in asked.values():
                shard.abandon()

    def _ask(self, request: Request, shard: ShardFile) -> None:
        try:
            socket.send_fds(
                self._link, [pickle.dumps(request)], [shard.fileno()], socket.MSG_NOSIGNAL
            )
        except OSError as error:
            raise _LostError(error) from error

    def _reply(self, asked: Mapping[str, ShardFile]) -> Reply:
        reply: Reply = pickle.loads(self._message())  # noqa: S301  from this package's other half
        error = reply.error
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, asked[reply.name].temp_path) from error
        if error is not None:
            raise error
        return reply

    def _message(self) -> bytes:
        try:
            message = self._link.recv(MOST_MESSAGE_NBYTES)
        except OSError as error:
            raise _LostError(error) from error
        if not message:
            raise _LostError("it ended")
        return message

    def _require_ready(self) -> None:
        if self._ready:
            return
        self._link.settimeout(_START_SECONDS)
        if self._message() != READY:
            raise _LostError("it is not what was started")
        self._link.settimeout(None)
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


def _start(link_fd: int, ring_fd: int) -> subprocess.Popen[bytes]:
    path = [os.path.abspath(p) for p in sys.path]
    # What is blocked here stays blocked there: a signal to the whole group is our affair alone.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        return subprocess.Popen(
            [sys.executable, "-c", _CODE.format(path=path, link=link_fd, ring=ring_fd)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(link_fd, ring_fd),
            env={**os.environ, **_ENVIRONMENT},
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
