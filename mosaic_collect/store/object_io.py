"""One object: read in ranges of one content, or gathered in memory until it is sent."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mosaic_collect.store.blobs import ChangedError, ReplacedError, Version
from mosaic_collect.store.files import write_all
from mosaic_collect.store.service import Service

Send = Callable[[Any, Callable[[], None]], None]
#: What opening a blob reads of it: small ones whole, of shards the label.
_HEAD_NBYTES = 64 << 10


class ObjectBlob:
    """An object, opened for reading: a head of it is read at once, the rest in ranges.

    Args:
        service: To ask.
        address: For messages.
        key: The object's.
    """

    def __init__(self, service: Service, address: str, key: str) -> None:
        self._service, self.address, self._key = service, address, key
        try:
            self._head, found = self._get({"range": (0, _HEAD_NBYTES)})
        except FileNotFoundError:
            raise
        except OSError as error:
            # Of nothing, no range can be asked for.
            found = service.ask("read", key, _head_of, key)
            if found["size"]:
                raise error from None
            self._head = b""
        self.version = version_of(found)
        self.nbytes = self.version.nbytes

    def read(self, start: int, nbytes: int) -> bytes:
        end = min(start + nbytes, self.nbytes)
        if end <= len(self._head):
            return self._head[start:end]
        if start >= end:
            return b""
        options = {"range": (start, end), "if_match": self.version.tag.split("\n")[0]}
        try:
            return self._get(options)[0]
        except (ChangedError, FileNotFoundError):
            raise ReplacedError(errno.ESTALE, "it was replaced", self.address) from None

    def close(self) -> None:
        """Nothing is held."""

    def _get(self, options: Mapping[str, Any]) -> tuple[bytes, Any]:
        import obstore

        def whole(store: Any) -> tuple[bytes, Any]:
            found = obstore.get(store, self._key, options=options)
            return bytes(found.bytes()), found.meta

        data: tuple[bytes, Any] = self._service.ask("read", self._key, whole)
        return data


class ObjectUpload:
    """An object on its way, in a nameless file in memory that another process may write, too.

    Args:
        address: For messages.
        send: Begins to put the bytes it is given; calls what it is given with them at the end.
    """

    def __init__(self, address: str, send: Send) -> None:
        self.address, self._send = address, send
        self._fd = _nameless()
        self.nbytes = 0

    def write(self, buffers: Sequence[Any]) -> None:
        write_all(self._fd, buffers)
        self.nbytes += sum(len(b) for b in buffers)

    def fileno(self) -> int:
        return self._fd

    def finish(self) -> None:
        """Begin to send it; ``settle`` waits."""
        mapped = mmap.mmap(self._fd, self.nbytes, access=mmap.ACCESS_READ)
        self._send(memoryview(mapped), self.abandon)

    def abandon(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _head_of(store: Any, key: str) -> Any:
    import obstore

    return obstore.head(store, key)


def _nameless() -> int:
    """The descriptor of a new file in memory, or on the disk where the system gives none there."""
    if hasattr(os, "memfd_create"):
        with contextlib.suppress(OSError):  # a sandbox may refuse it
            return os.memfd_create("mosaic_upload", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def version_of(found: Mapping[str, Any]) -> Version:
    """Of what obstore says: Google's tells contents apart by the version, others by the etag."""
    return Version(found["size"], f"{found['e_tag'] or ''}\n{found['version'] or ''}")
