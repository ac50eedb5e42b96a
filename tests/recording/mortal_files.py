"""A file system that can be taken away after any number of operations, as a kill would."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any

from tests.durability.recording import WrappedFile, WrappedFiles


class MortalFiles(WrappedFiles):
    """Does what ``PosixFiles`` does until its ``fuel`` is used up; then nothing happens any more.

    What was done before stays, and a write may be torn: that is what a kill leaves. Nothing is
    synced, as a kill loses nothing that the system was given; power cuts are tests/durability's.

    Attributes:
        fuel: Operations left; None: as many as you like.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fuel: int | None = None
        self._lock = threading.Lock()

    def do(self, kind: str, call: Any, path: str, *details: Any) -> Any:
        with self._lock:
            if self.fuel is not None:
                if self.fuel <= 0:
                    raise OSError(5, "killed", "everything")
                self.fuel -= 1
        if kind == "sync_folder":
            os.stat(path)
        return call() if not kind.startswith("sync") else None

    def create(self, path: str) -> WrappedFile:
        return TornFile(self, self.do("create", lambda: self.inner.create(path), path))


class TornFile(WrappedFile):
    """A file of ``MortalFiles``."""

    def write(self, buffers: Sequence[Any]) -> None:
        try:
            super().write(buffers)
        except OSError:
            self._inner.write([b"".join(bytes(b) for b in buffers)[:7]])
            raise
