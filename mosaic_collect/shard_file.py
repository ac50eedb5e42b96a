"""A shard on its way to its name: written, or given the file of another that has the same bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from mosaic_collect.files import NO_LINKS, Files, discard, finish, open_regular, temp_name

_COPIED_NBYTES = 1 << 20


class ShardFile:
    """A shard on its way: written under a temp name, then given its own."""

    def __init__(self, files: Files, path: str) -> None:
        self._files, self.path = files, path
        self._file = files.create(temp_name(path))
        self.nbytes = 0

    def write(self, buffers: Sequence[Any]) -> None:
        """Append the buffers."""
        self._file.write(buffers)
        self.nbytes += sum(len(b) for b in buffers)

    def fileno(self) -> int:
        """For a process that writes in this one's place; ``nbytes`` is then told how much."""
        return self._file.fileno()

    @property
    def temp_path(self) -> str:
        """Where its bytes lie until ``finish``."""
        return self._file.path

    def finish(self) -> None:
        """When it returns, the bytes are safe under a new name that is not yet safe itself."""
        finish(self._files, self._file, self.path)

    def abandon(self) -> None:
        """Remove the temp file, if the system lets us; if not, a resume will."""
        discard(self._files, self._file)


class ShardLink:
    """A shard whose bytes are another field's: a second name for that file, or a copy of it.

    Args:
        files: The seam.
        source: The other shard's path; finished before this one.
        path: This one's.
    """

    nbytes = 0

    def __init__(self, files: Files, source: str, path: str) -> None:
        self._files, self._source, self.path = files, source, path

    def finish(self) -> None:
        """As ``ShardFile.finish``; the bytes are safe already."""
        temp = temp_name(self.path)
        try:
            self._files.link(self._source, temp)
            self._files.rename(temp, self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._files.remove(temp)
            if error.errno not in NO_LINKS:
                raise
            self._copy()

    def abandon(self) -> None:
        """Nothing was made yet."""

    def _copy(self) -> None:
        shard = ShardFile(self._files, self.path)
        try:
            with open(open_regular(self._source), "rb") as source:
                while data := source.read(_COPIED_NBYTES):
                    shard.write([data])
        except BaseException:
            shard.abandon()
            raise
        shard.finish()
        self.nbytes = shard.nbytes
