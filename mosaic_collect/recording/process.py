"""Encoding in a process of its own, which leaves this one's interpreter to the simulation.

Threads that compress run without the GIL, but take it between any two calls, and a loop of many
small operations waits for it each time. Here a thread opens a file, sends it to another process
together with the field's name, and receives a reply when its bytes are written:

    parent ── Setup ──▶               ◀── ready ──
           ── Request + file ──▶ …    ◀── Reply ── …
           ── end ──▶

The other process knows no store and no file's name: what it writes becomes a shard only if its
parent says so. It ends when its parent does. If it dies, what it was to encode is still in the
ring, and is encoded in the parent, to a file of its own.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, get_args

from mosaic_collect.checks import processors
from mosaic_collect.errors import InputError
from mosaic_collect.recording.blocks import SharedRing
from mosaic_collect.recording.encoder import BlockEncoder, FieldEncoder, OpenShard
from mosaic_collect.recording.signals import HANDLED
from mosaic_collect.store.blobs import Upload
from mosaic_collect.store.codec import Compressor
from mosaic_collect.store.files import write_all
from mosaic_collect.store.grid import FieldGrid
from mosaic_collect.store.metadata import StoreState
from mosaic_collect.store.shard import Encoded, write_chunks
from mosaic_collect.store.workers import WorkerPool

MOST_MESSAGE_NBYTES = 128 << 10
#: Shards under way: while the last chunks of one are encoded, the next one's first are, too.
SHARDS_AHEAD = 2
#: The simulation comes first; when it waits for the ring, this process has a processor anyway.
_NICENESS = 10
_ORPHAN_SECONDS = 5.0


#: The fields' cuttings, slots of the ring, whether it lies by step, compressor, threads.
Setup = tuple[Mapping[str, FieldGrid], int, bool, Compressor, int]
#: A field of a slot, to be written to the file that comes along: the slot, the field, whether all
#: steps of the block hold rows, and how many bytes the file holds already.
Request = tuple[int, str, bool, int]
#: A field, and bytes of its file and pairs that hold NaN or infinity; or what went wrong.
Reply = tuple[str, tuple[int, int] | OSError | RuntimeError]


def main(parent: int, link_fd: int, ring_fd: int) -> None:
    """The process, from its parent's id and its descriptors on."""
    os.nice(_NICENESS)
    link = socket.socket(fileno=link_fd)
    with contextlib.suppress(ConnectionError):  # the parent has gone
        if message := receive(link, parent):
            serve(link, parent, pickle.loads(message[0]), ring_fd)  # noqa: S301  its other half's
    os._exit(0)  # threads that still encode do it for nobody


def serve(link: socket.socket, parent: int, setup: Setup, ring_fd: int) -> None:
    """Answer requests until the process ``parent`` is gone or wants no more."""
    grids, slots, by_step, compressor, threads = setup
    ring = SharedRing(grids, slots, by_step, ring_fd)
    arrays = [ring.slot(i) for i in range(slots)]
    encoders = {name: FieldEncoder(compressor) for name in grids}
    pool, shards = WorkerPool(threads, "mosaic-compress"), WorkerPool(SHARDS_AHEAD, "mosaic-shard")
    pool.begin()
    shards.begin()

    def written(slot: int, name: str, whole: bool, start: int, fd: int) -> Reply:
        encoder, grid, values = encoders[name], grids[name], arrays[slot][name]

        def encode(chunk: int) -> Encoded:
            return encoder.encode_chunk(values[grid.rows(chunk)], whole)

        try:
            try:
                encoded = pool.map_ahead(encode, range(grid.chunks))
                return name, write_chunks(encoded, partial(write_all, fd), start)
            finally:
                os.close(fd)  # where some file systems say that the disk is full
        except OSError as error:
            return name, OSError(error.errno, error.strerror)
        except Exception as error:  # noqa: BLE001  raised again in the parent
            # In words: not every exception can be sent.
            return name, RuntimeError(f"{type(error).__name__}: {error}")

    def answer(request: Request, fd: int) -> None:
        """Or end the process: its parent must never wait for an answer that does not come."""
        try:
            link.sendall(pickle.dumps(written(*request, fd)))
        except ConnectionError:
            os._exit(0)  # nobody waits for it any more
        except BaseException:  # noqa: BLE001  whatever it was
            traceback.print_exc()
            os._exit(1)

    link.sendall(ready())
    while message := receive(link, parent):
        request = pickle.loads(message[0])  # noqa: S301  from this package's other half
        shards.submit(answer, request, message[1])
    shards.shutdown(wait=False)
    pool.shutdown(wait=False)


def receive(link: socket.socket, parent: int) -> tuple[bytes, int] | None:
    """The next message and the descriptor that came along, or -1; None if none will come.

    A fork of the parent may hold the other end open and outlive it, so its life is looked at, too.
    """
    link.settimeout(_ORPHAN_SECONDS)
    while os.getppid() == parent:
        with contextlib.suppress(TimeoutError):
            message, fds, _, _ = socket.recv_fds(link, MOST_MESSAGE_NBYTES, 1)
            return (message, fds[0] if fds else -1) if message else None
    return None


def ready() -> bytes:
    """What the process says first: which copy of this package it found."""
    return b"ready " + os.fsencode(os.path.realpath(__file__))


_log = logging.getLogger(__name__)
#: Places where blocks can be encoded.
EncodeIn = Literal["auto", "process", "threads"]
ENCODE_IN = get_args(EncodeIn)
#: Below this a block is so small, or comes so seldom, that another process is not worth its start.
_AUTO_RING_NBYTES = 64_000_000
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
    "from mosaic_collect.recording.process import main; main({arguments})"
)


def least_ring_nbytes(encode_in: Any) -> float:
    """Bytes of a ring from which on its blocks are encoded in a process of its own.

    "auto" means a process if much is recorded and there is a second processor for it.

    Raises:
        InputError: Another word, or there can be no process.
    """
    if encode_in not in ENCODE_IN:
        raise InputError(f"encode_in: expected {', '.join(ENCODE_IN)}, got {encode_in!r}")
    if encode_in == "process" and not _can_start():
        raise InputError(f"encode_in: no process with {sys.executable!r} on {sys.platform}")
    if encode_in == "auto" and _can_start() and processors() > 1:
        return _AUTO_RING_NBYTES
    return 0 if encode_in == "process" else math.inf


def _can_start() -> bool:
    """Whether there is memory to share, and an interpreter to start.

    Programs that embed Python may name themselves as its executable.
    """
    name = os.path.basename(sys.executable or "")
    return hasattr(os, "memfd_create") and name.startswith("python")


def start_process(
    ring: SharedRing | None, state: StoreState, threads: int
) -> EncoderProcess | None:
    """Start a process for a ring that is shared; None where threads of this process are to encode.

    To be called by the thread that will speak with it: its descriptors and signals are that
    thread's, where no interrupt falls.
    """
    if ring is None:
        return None
    setup = state.grids(), ring.slots, ring.by_step, state.compressor, threads
    try:
        return EncoderProcess(setup, ring.fd)
    except OSError as error:
        _log.warning("no process to encode in: %s; encoding in threads", error)
        return None
    finally:
        ring.close()


class EncoderProcess:
    """Makes shards in another process; threads of this one do its work if it is lost.

    Nobody waits for the process before the first block is full.

    Raises:
        OSError: No process can be started.
    """

    def __init__(self, setup: Setup, ring_fd: int) -> None:
        self._ready = self._lost = False
        message = pickle.dumps(setup)
        if len(message) > MOST_MESSAGE_NBYTES:
            raise OSError(errno.EMSGSIZE, f"{len(setup[0])} fields are too many for it")
        # What this thread blocks stays blocked there: a signal to the whole group, a Ctrl-C for
        # one, is the affair of this process, whose other threads still take it.
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._link.settimeout(_LOOK_SECONDS)
        try:
            with theirs:
                self._process = _spawn(theirs.fileno(), ring_fd)
            # If it is gone already, that is seen when its first answer is waited for.
            with contextlib.suppress(ConnectionError):
                self._link.send(message, socket.MSG_NOSIGNAL)
        except BaseException:
            self._link.close()
            raise

    def write(
        self, encoder: BlockEncoder, open_shard: OpenShard, pool: WorkerPool
    ) -> Iterator[Upload]:
        """Write a block's shards; ``pool`` encodes what a lost process leaves."""
        left = list(encoder.written)
        try:
            for name, shard in self._written(encoder, left, open_shard):
                left.remove(name)
                yield shard
        except EOFError as lost:
            self._give_up(lost)
        yield from encoder.write(left, open_shard, pool)

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
        self, encoder: BlockEncoder, names: Sequence[str], open_shard: OpenShard
    ) -> Iterator[tuple[str, Upload]]:
        """Shards as they are written, with some asked for ahead."""
        waiting, asked = deque(names), dict[str, Upload]()
        if not (self._lost or self._ready):
            said = self._message(_START_SECONDS)
            if said != ready():
                raise EOFError(f"it says {said!r} and not {ready()!r}")
            self._ready = True
        try:
            while not self._lost and (waiting or asked):
                while waiting and len(asked) < SHARDS_AHEAD:
                    name = waiting.popleft()
                    asked[name] = open_shard(name)
                    request = encoder.slot, name, encoder.whole, asked[name].nbytes
                    self._ask(request, asked[name])
                reply: Reply = pickle.loads(self._message())  # noqa: S301  from its other half
                name, result = reply
                if isinstance(result, OSError):
                    raise OSError(result.errno, result.strerror, asked[name].address) from result
                if isinstance(result, RuntimeError):
                    raise result
                shard = asked.pop(name)
                shard.nbytes, encoder.nonfinite[name] = result
                yield name, shard
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
            raise EOFError(error) from error

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
                raise EOFError(error) from error
            else:
                if message:
                    return message
                break
        raise EOFError("it does not answer")

    def _give_up(self, lost: EOFError) -> None:
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
