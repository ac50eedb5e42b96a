"""A file system that can be taken away after any number of operations, as a kill would."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any

from mosaic_collect.store.files import PosixFile, PosixFiles


class MortalFiles(PosixFiles):
    """Does what ``PosixFiles`` does until its ``fuel`` is used up; then nothing happens any more.

    What was done before stays, and a write may be torn: that is what a kill leaves. Nothing is
    synced, as a kill loses nothing that the system was given; power cuts are tests/durability's.

    Attributes:
        fuel: Operations left; None: as many as you like.
    """

    def __init__(self) -> None:
        self.fuel: int | None = None
        self._lock = threading.Lock()

    def again(self) -> MortalFiles:
        """These files, where a factory of files is expected."""
        return self

    def spend(self) -> None:
        """Take one operation's worth, or die."""
        with self._lock:
            if self.fuel is None:
                return
            if self.fuel <= 0:
                raise OSError(5, "killed", "everything")
            self.fuel -= 1

    def make_folder(self, path: str) -> None:
        self.spend()
        super().make_folder(path)

    def create(self, path: str) -> MortalFile:
        self.spend()
        return MortalFile(self, path, *self._at(path))

    def link(self, source: str, target: str) -> None:
        self.spend()
        super().link(source, target)

    def rename(self, source: str, target: str) -> None:
        self.spend()
        super().rename(source, target)

    def sync_folder(self, path: str) -> None:
        self.spend()
        os.stat(path)

    def remove(self, path: str) -> None:
        self.spend()
        super().remove(path)


class MortalFile(PosixFile):
    """A file of ``MortalFiles``."""

    def __init__(self, files: MortalFiles, path: str, *place: Any) -> None:
        super().__init__(path, *place)
        self._files = files

    def write(self, buffers: Sequence[Any]) -> None:
        try:
            self._files.spend()
        except OSError:
            super().write([b"".join(bytes(b) for b in buffers)[:7]])
            raise
        super().write(buffers)

    def sync(self) -> None:
        self._files.spend()
