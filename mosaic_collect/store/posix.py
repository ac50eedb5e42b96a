"""``Blobs`` in a folder of a POSIX file system.

A blob is written under a temp name, synced, and renamed. Reading asks the system itself; whatever
changes goes through ``files.PosixFiles``. Where a file system has no locks, temp files lie in a
folder of each writer's own, its outbox; see docs/durability.md, *How: one writer*.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mosaic_collect.errors import CorruptStoreError, StoreLockedError, StoreLostError
from mosaic_collect.store.blobs import Blobs, ChangedError, Version, read_all
from mosaic_collect.store.files import (
    PosixFiles,
    PosixUpload,
    free_nbytes,
    is_temp_name,
    link_file,
    named,
    open_regular,
    temp_name,
    write_file,
)
from mosaic_collect.store.lock import StoreLock, is_locked


class PosixBlob:
    """A regular file, opened for reading; see ``open_regular``."""

    def __init__(self, path: str) -> None:
        self.address = path
        self._fd = open_regular(path)
        self.nbytes = os.fstat(self._fd).st_size

    def read(self, start: int, nbytes: int) -> bytes:
        data, at, end = b"", start, min(start + nbytes, self.nbytes)
        while at < end and (more := named(self.address, os.pread, self._fd, end - at, at)):
            data += more
            at += len(more)
        return data

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


_TRIES = 100
_REFILLED = (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY)
# Older packages, too, take it for something unfinished.
_NAME = re.compile(r"\.writer\.[0-9a-f]{16}\.tmp")


class PosixBlobs(Blobs):
    """The blobs of a store that is a folder, which changes through ``files``."""

    links, guards = True, False

    def __init__(self, path: str, files: PosixFiles | None = None) -> None:
        self.address = path
        self._files = PosixFiles() if files is None else files
        self._held: int | None = None
        self._claimed: os.stat_result | None = None
        self._outbox: str | None = None
        self._is_outbox_lost = False

    def __reduce__(self) -> Any:
        return PosixBlobs, (self.address,)

    def within(self, name: str) -> PosixBlobs:
        return PosixBlobs(self._path(name))

    def place(self) -> str | None:
        try:
            found = os.stat(self.address) if self._held is None else os.fstat(self._held)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return f"{found.st_dev}-{found.st_ino}"

    def is_there(self) -> bool:
        return os.path.isdir(self.address)

    def is_taken(self) -> bool:
        return os.path.lexists(self.address) and not (self.is_there() and not self.names())

    def make(self) -> None:
        """Make the folder, and those above it that are missing.

        Each name is made safe before the next is made, so a kill on the way leaves at most one
        unsafe: that of the lowest folder there is, which the next call makes safe.
        """
        folder, missing = os.path.realpath(self.address), []
        while not os.path.isdir(folder):
            missing.append(folder)
            folder = os.path.dirname(folder)
        # What is above a folder of ours may be another user's, closed to us: nothing to be done.
        with contextlib.suppress(PermissionError):
            self._files.sync_folder(os.path.dirname(folder))
        for folder in reversed(missing):
            self._files.make_folder(folder)
            self._files.sync_folder(os.path.dirname(folder))

    def make_folders(self, names: Iterable[str]) -> None:
        for path in map(self._path, names):
            # Writing through a link, or removing behind it, would reach files of someone else.
            if os.path.lexists(path) and (os.path.islink(path) or not os.path.isdir(path)):
                raise CorruptStoreError(f"{path}: expected a folder, found a link or a file")
            self._files.make_folder(path)

    def names(self, folder: str = "") -> list[str]:
        path = self._path(folder)
        try:
            return sorted(n for n in os.listdir(path) if not is_outbox(path, n))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def is_debris(self, name: str) -> bool:
        return is_temp_name(name)

    def find(self, key: str) -> Version | None:
        try:
            found = os.stat(self._path(key))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Version(found.st_size, f"{found.st_dev}-{found.st_ino}-{found.st_mtime_ns}")

    def versions(self, folder: str) -> dict[str, Version]:
        found = {name: self.find(os.path.join(folder, name)) for name in self.names(folder)}
        return {name: version for name, version in found.items() if version is not None}

    def open(self, key: str) -> PosixBlob:
        return PosixBlob(self._path(key))

    def upload(self, key: str, also: Iterable[str] = ()) -> PosixUpload:
        (path, temp), *others = [(p, self._temp(p)) for p in map(self._path, (key, *also))]
        return PosixUpload(self._files, path, temp, others)

    def link(self, source: str, key: str) -> None:
        path = self._path(key)
        link_file(self._files, self._path(source), path, self._temp(path))

    def put(self, documents: Mapping[str, bytes], synced: bool = True) -> None:
        for key, data in documents.items():
            path = self._path(key)
            write_file(self._files, path, [data], self._temp(path), synced=synced)

    def create(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        try:  # by a temp file that nobody else has who may be at it, too
            write_file(self._files, path, [data], temp_name(path, f".{secrets.token_hex(4)}"), True)
        except FileExistsError:
            return False
        self._files.sync_folder(os.path.dirname(path))
        return True

    def replace(self, key: str, data: bytes, over: Version | None) -> Version:
        self.require_place()
        if self.find(key) != over:
            raise ChangedError(self._path(key))
        self.put({key: data})
        found = self.find(key)
        # Where there are no locks a writer may have come since.
        if found is None or (self._outbox and read_all(self, key, len(data) + 1) != data):
            raise ChangedError(self._path(key))
        return found

    def require_place(self) -> None:
        try:
            there = os.stat(self.address)
        except (FileNotFoundError, NotADirectoryError):
            raise StoreLostError(f"{self.address}: removed, or moved away") from None
        # As it was when it was claimed: also for who asks why something failed after it was let go.
        if self._claimed is not None and not os.path.samestat(there, self._claimed):
            raise StoreLostError(f"{self.address}: another folder lies there now")
        is_lost = self._outbox and self._held is not None and not os.path.isdir(self._outbox)
        if is_lost or self._is_outbox_lost:
            raise StoreLostError(f"{self.address}: another writer came to it")

    def settle(self, folders: Iterable[str]) -> None:
        for folder in folders:
            self._files.sync_folder(self._path(folder))

    def remove(self, keys: Iterable[str]) -> None:
        for path in map(self._path, keys):
            if self._outbox is None:
                self._files.remove(path)
                continue
            try:
                self._files.rename(path, self._temp(path))
            except FileNotFoundError:
                self.require_place()
            else:
                self._files.remove(self._temp(path))

    def claim(self, require_ours: Callable[[], None]) -> Callable[[], None]:
        fd = os.open(self.address, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            lock = StoreLock(self.address, fd, self._let_go)
        except BaseException:
            os.close(fd)
            raise
        self._held, self._claimed = fd, os.fstat(fd)
        self._files.hold(self.address, fd)
        try:
            self._outbox, self._is_outbox_lost = None, False
            if not lock.is_real:
                self._outbox = _new_outbox(self.address)
                self._files.make_folder(self._outbox)
            self._stop_others()
        except BaseException:
            lock.release()
            raise
        return lock.release

    def is_claimed(self) -> bool | None:
        return is_locked(self.address)

    def for_zarr(self) -> str:
        return self.address

    def free_nbytes(self) -> int | None:
        folder = os.path.abspath(self.address)
        while not os.path.isdir(folder):
            folder = os.path.dirname(folder)
        return free_nbytes(folder)

    def _path(self, key: str) -> str:
        return os.path.join(self.address, key) if key else self.address

    def _temp(self, path: str) -> str:
        """Path of a file until it is whole."""
        if self._outbox is None:
            return temp_name(path)
        name = os.path.relpath(path, self.address).replace(os.sep, "..")
        return os.path.join(self._outbox, name)

    def _stop_others(self) -> None:
        """Stop all other writers that have outboxes, by removing those."""
        for name in os.listdir(self.address):
            path = self._path(name)
            if path == self._outbox or not is_outbox(self.address, name):
                continue
            # At once under another name, so that a writer that misses it knows why.
            left = _new_outbox(self.address)
            try:
                self._files.rename(path, left)
            except FileNotFoundError:
                left = path
            if not self._is_removed(left):
                raise StoreLockedError(
                    f"{self.address}: another writer is at work on it, by way of {name}"
                )

    def _is_removed(self, outbox: str) -> bool:
        for _ in range(_TRIES):
            try:
                for name in os.listdir(outbox):
                    self._files.remove(os.path.join(outbox, name))
                self._files.remove_folder(outbox)
                return True
            except FileNotFoundError:
                return True
            except OSError as error:
                if error.errno not in _REFILLED:
                    raise
        return False

    def _let_go(self) -> None:
        """Release the folder; a second call does nothing."""
        fd, self._held = self._held, None
        if fd is None:
            return
        if self._outbox is not None:
            try:
                self._files.remove_folder(self._outbox)
            except FileNotFoundError:
                self._is_outbox_lost = True
            except OSError:
                pass  # the next writer removes it
        self._files.hold("", None)
        os.close(fd)


def _new_outbox(store: str) -> str:
    return os.path.join(store, f".writer.{secrets.token_hex(8)}.tmp")


def is_outbox(store: str, name: str) -> bool:
    """Whether this name in a store's folder is an outbox, of a living writer or a dead one."""
    if _NAME.fullmatch(name) is None:
        return False
    with contextlib.suppress(OSError):  # gone meanwhile, or not ours to see
        return stat.S_ISDIR(os.lstat(os.path.join(store, name)).st_mode)
    return False
