"""``Files`` that do what they are told and write it down, and writers that work on them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from mosaic_collect.recording import opening
from mosaic_collect.store import posix
from mosaic_collect.store.commit import Store
from mosaic_collect.store.files import PosixFiles
from mosaic_collect.store.metadata import StoreState


class WrappedFiles:
    """``Files`` of which every operation passes through ``do``, for subclasses to meddle with."""

    def __init__(self) -> None:
        self.inner = PosixFiles()

    def do(self, kind: str, call: Any, path: str, *details: Any) -> Any:
        return call()

    def hold(self, folder: str, fd: int | None) -> None:
        self.inner.hold(folder, fd)

    def make_folder(self, path: str) -> None:
        self.do("make_folder", lambda: self.inner.make_folder(path), path)

    def create(self, path: str) -> Any:
        return self.do("create", lambda: self.inner.create(path), path)

    def write(self, path: str, fd: int, buffers: Sequence[Any]) -> None:
        data = b"".join(bytes(memoryview(b).cast("B")) for b in buffers if len(b))
        self.do("write", lambda: self.inner.write(path, fd, buffers), path, data)

    def sync(self, path: str, fd: int) -> None:
        self.do("sync", lambda: self.inner.sync(path, fd), path)

    def link(self, source: str, target: str) -> None:
        self.do("link", lambda: self.inner.link(source, target), source, target)

    def rename(self, source: str, target: str) -> None:
        self.do("rename", lambda: self.inner.rename(source, target), source, target)

    def take(self, source: str, target: str) -> None:
        self.do("take", lambda: self.inner.take(source, target), source, target)

    def sync_folder(self, path: str) -> None:
        self.do("sync_folder", lambda: self.inner.sync_folder(path), path)

    def remove(self, path: str) -> None:
        self.do("remove", lambda: self.inner.remove(path), path)

    def remove_folder(self, path: str) -> None:
        self.do("remove_folder", lambda: self.inner.remove_folder(path), path)


class GatedFiles(WrappedFiles):
    """Holds operations of a kind, on paths with that part, while it is shut.

    Attributes:
        shut: Whether such an operation waits for ``opened``.
        reached: Set when one waits.
    """

    def __init__(self, kind: str, part: str = "") -> None:
        super().__init__()
        self._kind, self._part, self.shut = kind, part, False
        self.reached, self.opened = threading.Event(), threading.Event()

    def do(self, kind: str, call: Any, path: str, *details: Any) -> Any:
        if self.shut and kind == self._kind and self._part in path:
            self.reached.set()
            assert self.opened.wait(300)
        return call()


class RecordingFiles(WrappedFiles):
    """Writes down every operation under ``root``, in the order in which they were done.

    Attributes:
        log: ``(kind, path, ...)`` with paths relative to ``root``; and marks, ``("mark", ...)``.
    """

    def __init__(self, root: str) -> None:
        super().__init__()
        self._root, self._order = root, threading.Lock()
        self.log: list[tuple[Any, ...]] = []

    def do(self, kind: str, call: Any, path: str, *details: Any) -> Any:
        with self._order:
            result = call()
            rest = [self._inside(d) if isinstance(d, str) else d for d in details]
            # The root's own name, above it, is taken to be safe.
            if not self._inside(path).startswith(os.pardir):
                self.log.append((kind, self._inside(path), *rest))
            return result

    def mark(self, what: str, number: int) -> None:
        """Write down that something became true between two operations."""
        with self._order:
            self.log.append(("mark", what, number))

    def _inside(self, path: str) -> str:
        relative = os.path.relpath(path, self._root)
        return "" if relative == "." else relative


class MarkedStore(Store):
    """Marks each commit as such when it returns; its files or objects are recorded."""

    def publish(self, state: StoreState, with_shards: bool) -> None:
        super().publish(state, with_shards)
        self.mark_committed(state)

    def mark_committed(self, state: StoreState) -> None:
        getattr(self.blobs, "_files", self.blobs).mark("committed", state.committed_steps)


class MarkedFirst(MarkedStore):
    """A mistake: a commit is called done before it is."""

    def publish(self, state: StoreState, with_shards: bool) -> None:
        self.mark_committed(state)
        super().publish(state, with_shards)


class ArraysBeforeRoot(MarkedStore):
    """A mistake: an array tells of steps that are not committed."""

    def publish(self, state: StoreState, with_shards: bool) -> None:
        self._write_array_documents(state)
        super().publish(state, with_shards)


@contextmanager
def writing_through(files: Any, kind: type[Store] = Store) -> Iterator[None]:
    """Writers opened inside use these files and this kind of store."""
    with patch.object(posix, "PosixFiles", lambda: files), patch.object(opening, "Store", kind):
        yield
