"""What the encoding process does: fields of the shared ring to open files, and nothing else.

It knows no store and no file's name: what it writes becomes a shard only if its parent says so. It
ends when its parent does.

    parent ── Setup ──▶               ◀── ready ──
           ── Request + file ──▶ …    ◀── Reply ── …
           ── end ──▶
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import traceback
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

from mosaic_collect.recording.encoding.block_encoder import encode_chunk
from mosaic_collect.recording.encoding.field_encoder import FieldEncoder
from mosaic_collect.recording.ring.shared import SharedRing
from mosaic_collect.store.codec import Compressor
from mosaic_collect.store.files import write_all
from mosaic_collect.store.grid import FieldGrid
from mosaic_collect.store.shard import Encoded, write_chunks
from mosaic_collect.store.workers import WorkerPool

MOST_MESSAGE_NBYTES = 128 << 10
#: Shards under way: while the last chunks of one are encoded, the next one's first are, too.
SHARDS_AHEAD = 2
#: The simulation comes first; when it waits for the ring, this process has a processor anyway.
_NICENESS = 10
_ORPHAN_SECONDS = 5.0


class Setup(NamedTuple):
    """What both processes must agree on."""

    grids: Mapping[str, FieldGrid]
    slots: int
    by_step: bool
    compressor: Compressor
    threads: int


class Request(NamedTuple):
    """A field of a slot, to be written to the file that comes along.

    ``whole`` says whether all steps of the block hold rows, ``start`` how many bytes the file holds
    already.
    """

    slot: int
    name: str
    whole: bool
    start: int


class Reply(NamedTuple):
    """Bytes of a field's file, its pairs that hold NaN or infinity; or what went wrong."""

    name: str
    nbytes: int = 0
    nonfinite: int = 0
    error: OSError | RuntimeError | None = None


class EncoderWorker:
    """Answers requests that come in over ``link`` from the process ``parent``."""

    def __init__(self, link: socket.socket, parent: int, setup: Setup, ring: SharedRing) -> None:
        self._link, self._parent, self._grids = link, parent, setup.grids
        self._slots = [ring.slot(i) for i in range(setup.slots)]
        self._encoders = {name: FieldEncoder(setup.compressor) for name in setup.grids}
        self._pool = WorkerPool(setup.threads, "mosaic-compress")
        self._shards = WorkerPool(SHARDS_AHEAD, "mosaic-shard")
        self._pool.begin()
        self._shards.begin()

    def serve(self) -> None:
        """Return when the parent is gone or wants no more."""
        while message := receive(self._link, self._parent):
            request = pickle.loads(message[0])  # noqa: S301  from this package's other half
            self._shards.submit(self._answer, request, message[1])

    def _answer(self, request: Request, fd: int) -> None:
        """Or end the process: its parent must never wait for an answer that does not come."""
        try:
            self._link.sendall(pickle.dumps(self._reply(request, fd)))
        except ConnectionError:
            os._exit(0)  # nobody waits for it any more
        except BaseException:  # noqa: BLE001  whatever it was
            traceback.print_exc()
            os._exit(1)

    def _reply(self, request: Request, fd: int) -> Reply:
        try:
            try:
                return self.write(request, fd)
            finally:
                os.close(fd)  # where some file systems say that the disk is full
        except OSError as error:
            return Reply(request.name, error=OSError(error.errno, error.strerror))
        except Exception as error:  # noqa: BLE001  raised again in the parent
            # In words: not every exception can be sent.
            return Reply(request.name, error=RuntimeError(f"{type(error).__name__}: {error}"))

    def write(self, request: Request, fd: int) -> Reply:
        """Write one shard."""
        encoder, grid = self._encoders[request.name], self._grids[request.name]
        values = self._slots[request.slot][request.name]

        def encode(chunk: int) -> Encoded:
            return encode_chunk(encoder, values[grid.rows(chunk)], request.whole)

        results = self._pool.map_ahead(encode, range(grid.chunks))
        nbytes, nonfinite = write_chunks(results, partial(write_all, fd), request.start)
        return Reply(request.name, nbytes, nonfinite)


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


def main(parent: int, link_fd: int, ring_fd: int) -> None:
    """The process, from its parent's id and its descriptors on."""
    os.nice(_NICENESS)
    link = socket.socket(fileno=link_fd)
    with contextlib.suppress(ConnectionError):  # the parent has gone
        if message := receive(link, parent):
            setup: Setup = pickle.loads(message[0])  # noqa: S301  as above
            ring = SharedRing(setup.grids, setup.slots, setup.by_step, ring_fd)
            worker = EncoderWorker(link, parent, setup, ring)
            link.sendall(ready())
            worker.serve()
    os._exit(0)  # threads that still encode do it for nobody
