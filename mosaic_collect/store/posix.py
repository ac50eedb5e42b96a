"""``Blobs`` in a folder of a POSIX file system.

A blob is written under a temp name, synced, and renamed. Reading asks the system itself; whatever
changes goes through ``files.Files``.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mosaic_collect.errors import CorruptStoreError, StoreLostError
from mosaic_collect.store.blobs import ChangedError, Pending, Version, read_all
from mosaic_collect.store.files import (
    Files,
    PosixFiles,
    free_nbytes,
    is_temp_name,
    temp_name,
    write_file,
)
from mosaic_collect.store.lock import StoreLock, is_locked
from mosaic_collect.store.outbox import Outbox, is_outbox, take_away
from mosaic_collect.store.posix_io import PosixAlias, PosixBlob, PosixUpload


class PosixBlobs:
    """The blobs of a store that is a folder.

    Args:
        path: The folder.
        files: The seam through which it changes.
    """

    links, guards = True, False

    def __init__(self, path: str, files: Files | None = None) -> None:
        self.address = path
        self._files: Files = PosixFiles() if files is None else files
        self._held: int | None = None
        self._claimed: os.stat_result | None = None
        self._outbox: Outbox | None = None

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

    def check_folders(self, names: Iterable[str]) -> None:
        for path in map(self._path, names):
            # Writing through a link, or removing behind it, would reach files of someone else.
            if os.path.lexists(path) and (os.path.islink(path) or not os.path.isdir(path)):
                raise CorruptStoreError(f"{path}: expected a folder, found a link or a file")

    def make_folders(self, names: Iterable[str]) -> None:
        for name in names:
            self._files.make_folder(self._path(name))

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

    def upload(self, key: str) -> PosixUpload:
        path = self._path(key)
        return PosixUpload(self._files, path, self._temp(path))

    def alias(self, source: str, key: str) -> Pending:
        path = self._path(key)
        return PosixAlias(self._files, self._path(source), path, self._temp(path))

    def put(self, documents: Mapping[str, bytes]) -> None:
        for key, data in documents.items():
            path = self._path(key)
            write_file(self._files, path, data, self._temp(path))

    def create(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        try:  # by a temp file that nobody else has who may be at it, too
            write_file(self._files, path, data, temp_name(path, f".{secrets.token_hex(4)}"), True)
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
        if self._outbox is not None:
            self._outbox.require()

    def settle(self, folders: Iterable[str]) -> None:
        for folder in folders:
            self._files.sync_folder(self._path(folder))

    def remove(self, keys: Iterable[str]) -> None:
        remove = self._files.remove if self._outbox is None else self._outbox.remove
        for key in keys:
            remove(self._path(key))

    def claim(self, require_ours: Callable[[], None]) -> PosixClaim:
        fd = os.open(self.address, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            lock = StoreLock(self.address, fd)
        except BaseException:
            os.close(fd)
            raise
        claim = PosixClaim(self, lock)
        self._held, self._claimed = fd, os.fstat(fd)
        self._files.hold(self.address, fd)
        try:
            self._outbox = None if lock.is_real else Outbox(self._files, self.address)
            take_away(self._files, self.address, self._outbox)
        except BaseException:
            claim.release()
            raise
        return claim

    def let_go(self) -> None:
        """The folder is no longer held; called twice, it does nothing."""
        fd, self._held = self._held, None
        if fd is not None:
            if self._outbox is not None:
                self._outbox.close()
            self._files.hold("", None)
            os.close(fd)

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
        return temp_name(path) if self._outbox is None else self._outbox.temp(path)


class PosixClaim:
    """A folder that is held, and its lock."""

    def __init__(self, blobs: PosixBlobs, lock: StoreLock) -> None:
        self._blobs, self._lock = blobs, lock

    def __del__(self) -> None:
        # An interrupt may fall between the making of a claim and its owner's taking it.
        self.release()

    def release(self) -> None:
        self._lock.release()
        self._blobs.let_go()
