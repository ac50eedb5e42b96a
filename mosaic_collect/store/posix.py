"""``Blobs`` in a folder of a POSIX file system.

A blob is written under a temp name, synced, and renamed. Reading asks the system itself; whatever
changes goes through ``files.Files``.

Where a file system has no locks, each writer has a folder of its own in the store, its outbox. A
file gets its name by a rename out of there, and loses it by one into there; the file system carries
out either as a whole or not at all. Who comes later takes the folder away, and only then looks at
the store: from then on nothing that the earlier writer has under way can change it, however late
that arrives, and that writer gets a ``StoreLostError``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mosaic_collect.errors import CorruptStoreError, StoreLockedError, StoreLostError
from mosaic_collect.store.blobs import ChangedError, Pending, Version, read_all
from mosaic_collect.store.files import (
    NO_LINKS,
    Files,
    PosixFiles,
    discard,
    finish,
    free_nbytes,
    is_temp_name,
    named,
    open_regular,
    temp_name,
    write_file,
)
from mosaic_collect.store.lock import StoreLock, is_locked

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


_TRIES = 100
_REFILLED = (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY)
# Older packages, too, take it for something unfinished.
_NAME = re.compile(r"\.writer\.[0-9a-f]{16}\.tmp")


class Outbox:
    """A writer's own folder.

    Args:
        files: The seam.
        store: The folder of the store.

    Attributes:
        name: Its own.
    """

    def __init__(self, files: Files, store: str) -> None:
        self._files, self._store = files, store
        self._path = _new_path(store)
        self.name = os.path.basename(self._path)
        self._closed = self._lost = False
        files.make_folder(self._path)

    def temp(self, path: str) -> str:
        """Where a file of the store lies until it is whole."""
        return os.path.join(self._path, os.path.relpath(path, self._store).replace(os.sep, ".."))

    def remove(self, path: str) -> None:
        """Remove a file of the store; it may be gone already.

        Raises:
            StoreLostError: Another writer came.
        """
        away = self.temp(path)
        try:
            self._files.rename(path, away)
        except FileNotFoundError:
            self.require()
        else:
            self._files.remove(away)

    def require(self) -> None:
        """Make sure that it is still there, or was when it was closed.

        Raises:
            StoreLostError: Another writer took it away.
        """
        if self._lost or not (self._closed or os.path.isdir(self._path)):
            raise StoreLostError(f"{self._store}: another writer came to it")

    def close(self) -> None:
        """Leave nothing behind, as far as the system lets us; if not, the next writer will."""
        self._closed = True
        try:
            self._files.remove_folder(self._path)
        except FileNotFoundError:
            self._lost = True
        except OSError:
            pass


def _new_path(store: str) -> str:
    return os.path.join(store, f".writer.{secrets.token_hex(8)}.tmp")


def is_outbox(store: str, name: str) -> bool:
    """Whether this name in a store's folder is an outbox, of a living writer or a dead one."""
    if _NAME.fullmatch(name) is None:
        return False
    with contextlib.suppress(OSError):  # gone meanwhile, or not ours to see
        return stat.S_ISDIR(os.lstat(os.path.join(store, name)).st_mode)
    return False


def take_away(files: Files, store: str, but: Outbox | None) -> None:
    """Stop all writers of a store that have outboxes, but one.

    Raises:
        StoreLockedError: One goes on filling its outbox, or what lies there cannot be removed yet.
    """
    for name in os.listdir(store):
        if (
            is_outbox(store, name)
            and (but is None or name != but.name)
            and not _taken(files, os.path.join(store, name))
        ):
            raise StoreLockedError(f"{store}: another writer is at work on it, by way of {name}")


def _taken(files: Files, path: str) -> bool:
    """Whether it is gone; at once under its name, so that who misses it knows why."""
    with contextlib.suppress(FileNotFoundError):
        path, left = _new_path(os.path.dirname(path)), path
        files.rename(left, path)
    for _ in range(_TRIES):
        try:
            for name in os.listdir(path):
                files.remove(os.path.join(path, name))
            files.remove_folder(path)
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno not in _REFILLED:
                raise
        else:
            return True
    return False


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

    def put(self, documents: Mapping[str, bytes], synced: bool = True) -> None:
        for key, data in documents.items():
            path = self._path(key)
            write_file(self._files, path, data, self._temp(path), synced=synced)

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
        # An interrupt may fall between the making of a claim and its owner's taking it.
        weakref.finalize(self, _release, blobs, lock).atexit = False

    def release(self) -> None:
        _release(self._blobs, self._lock)


def _release(blobs: PosixBlobs, lock: StoreLock) -> None:
    lock.release()
    blobs.let_go()
