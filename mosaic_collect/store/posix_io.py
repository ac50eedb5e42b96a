"""Blobs of a folder as they are read and written: files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

from mosaic_collect.store.files import (
    NO_LINKS,
    Files,
    discard,
    finish,
    named,
    open_regular,
)

_COPIED_NBYTES = 1 << 20


class PosixBlob:
    """A regular file, opened for reading; see ``open_regular``."""

    def __init__(self, path: str) -> None:
        self.address = path
        self._fd = open_regular(path)
        self.nbytes = os.fstat(self._fd).st_size

    def read(self, start: int, nbytes: int) -> bytes:
        data: bytes = named(self.address, os.pread, self._fd, nbytes, start)
        while len(data) < nbytes and start + len(data) < self.nbytes:
            more = named(self.address, os.pread, self._fd, nbytes - len(data), start + len(data))
            if not more:
                break
            data += more
        return data

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class PosixUpload:
    """A file on its way: written under a temp name, then given its own.

    Args:
        files: The seam.
        path: The file's name.
        temp: Its temp name.
    """

    def __init__(self, files: Files, path: str, temp: str) -> None:
        self._files, self.address = files, path
        self._file = files.create(temp)
        self.nbytes = 0

    def write(self, buffers: Sequence[Any]) -> None:
        self._file.write(buffers)
        self.nbytes += sum(len(b) for b in buffers)

    def fileno(self) -> int:
        return self._file.fileno()

    def finish(self) -> None:
        finish(self._files, self._file, self.address)

    def abandon(self) -> None:
        discard(self._files, self._file)


class PosixAlias:
    """A second name for a file, or a copy of it where the system has no second names.

    Args:
        files: The seam.
        source: The other file; finished before this one.
        path: This one's name.
        temp: Its temp name.
    """

    def __init__(self, files: Files, source: str, path: str, temp: str) -> None:
        self._files, self._source, self.address, self._temp = files, source, path, temp
        self.nbytes = 0

    def finish(self) -> None:
        try:
            self._files.link(self._source, self._temp)
            self._files.rename(self._temp, self.address)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._files.remove(self._temp)
            if error.errno not in NO_LINKS:
                raise
            self._copy()

    def abandon(self) -> None:
        """Nothing was made yet."""

    def _copy(self) -> None:
        copy, source = PosixUpload(self._files, self.address, self._temp), PosixBlob(self._source)
        try:
            while data := source.read(copy.nbytes, _COPIED_NBYTES):
                copy.write([data])
        except BaseException:
            copy.abandon()
            raise
        finally:
            source.close()
        copy.finish()
        self.nbytes = copy.nbytes
