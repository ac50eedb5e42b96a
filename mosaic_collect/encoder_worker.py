"""What the encoding process does: fields of the shared ring to open files, and nothing else.

It knows no store and no file's name: what it writes becomes a shard only if its parent says so. It
ends when its parent does.

    parent ── Setup ──▶               ◀── READY ──
           ── Request + file ──▶ …    ◀── Reply ── …
           ── end ──▶
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mosaic_collect.codec import Compressor
from mosaic_collect.encoder import Encoded, encode_chunk
from mosaic_collect.field_encoder import FieldEncoder
from mosaic_collect.files import write_all
from mosaic_collect.grid import FieldGrid
from mosaic_collect.shard import write_chunks
from mosaic_collect.shared_ring import SharedRing
from mosaic_collect.workers import WorkerPool

READY = b"ready"
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
    compressor: Compressor
    threads: int


class Request(NamedTuple):
    """A field of a slot, to be written to the file that comes along.

    ``whole`` says whether all steps of the block hold rows.
    """

    slot: int
    name: str
    whole: bool


class Reply(NamedTuple):
    """Bytes written for a field, its pairs that hold NaN or infinity; or what went wrong."""

    name: str
    nbytes: int = 0
    nonfinite: int = 0
    error: OSError | RuntimeError | None = None


class EncoderWorker:
    """Answers requests that come in over ``link``."""

    def __init__(self, link: socket.socket, setup: Setup, ring: SharedRing) -> None:
        self._link, self._grids = link, setup.grids
        self._slots = [ring.slot(i) for i in range(setup.slots)]
        self._encoders = {name: FieldEncoder(setup.compressor) for name in setup.grids}
        self._pool = WorkerPool(setup.threads, "mosaic-compress")
        self._shards = WorkerPool(SHARDS_AHEAD, "mosaic-shard")
        self._answering = threading.Lock()

    def serve(self) -> None:
        """Return when the parent is gone or wants no more."""
        parent = os.getppid()
        self._link.settimeout(_ORPHAN_SECONDS)
        while True:
            try:
                message, fds, _, _ = socket.recv_fds(self._link, MOST_MESSAGE_NBYTES, 1)
            except TimeoutError:
                # A fork of the parent may hold the other end open and outlive it.
                if os.getppid() != parent:
                    return
                continue
            if not message:
                return
            request = pickle.loads(message)  # noqa: S301  from this package's other half
            self._shards.start(self._answer, (request, fds[0]))

    def _answer(self, asked: tuple[Request, int]) -> None:
        request, fd = asked
        try:
            reply = self.write(request, fd)
        except OSError as error:
            reply = Reply(request.name, error=OSError(error.errno, error.strerror))
        except Exception as error:  # noqa: BLE001  raised again in the parent
            # In words: not every exception can be sent.
            reply = Reply(request.name, error=RuntimeError(f"{type(error).__name__}: {error}"))
        finally:
            os.close(fd)
        with self._answering:
            self._link.sendall(pickle.dumps(reply))

    def write(self, request: Request, fd: int) -> Reply:
        """Write one shard."""
        encoder, grid = self._encoders[request.name], self._grids[request.name]
        values = self._slots[request.slot][request.name]
        nbytes = nonfinite = 0

        def encode(chunk: int) -> Encoded:
            return encode_chunk(encoder, values[grid.rows(chunk)], request.whole)

        def encoded() -> Iterator[tuple[list[Any], bytes]]:
            nonlocal nonfinite
            for buffers, crc, found in self._pool.map_ahead(encode, range(grid.chunks)):
                nonfinite += found
                yield buffers, crc

        def write(buffers: list[Any]) -> None:
            nonlocal nbytes
            write_all(fd, buffers)
            nbytes += sum(map(len, buffers))

        write_chunks(encoded(), write)
        return Reply(request.name, nbytes, nonfinite)


def main(link_fd: int, ring_fd: int) -> None:
    """The process, from its descriptors on."""
    os.nice(_NICENESS)
    link = socket.socket(fileno=link_fd)
    with contextlib.suppress(ConnectionError, EOFError):  # the parent has gone
        setup: Setup = pickle.loads(link.recv(MOST_MESSAGE_NBYTES))  # noqa: S301  as above
        worker = EncoderWorker(link, setup, SharedRing(setup.grids, setup.slots, ring_fd))
        link.sendall(READY)
        worker.serve()
    os._exit(0)  # threads that still encode do it for nobody
