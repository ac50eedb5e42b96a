"""A file system that can be taken away after any number of operations, as a kill would."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any

from tests.durability.recording import WrappedFiles


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

    def write(self, path: str, fd: int, buffers: Sequence[Any]) -> None:
        try:
            super().write(path, fd, buffers)
        except OSError:
            self.inner.write(path, fd, [b"".join(bytes(b) for b in buffers)[:7]])
            raise
