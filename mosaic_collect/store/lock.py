"""File locks: one writer per store, one export per file.

A lock is ``flock(2)``: it belongs to the open file, so threads of one process exclude each other,
and it ends with its process. A forked child would share it, and closes its descriptor at once.

The lock file of a store is removed when the lock is released: what stays behind is Zarr and nothing
else. Whoever opened it just before finds that its name no longer leads to it, and opens the next.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import logging
import os
import socket
import time
import weakref
from collections.abc import Callable

from mosaic_collect.errors import StoreLockedError

_log = logging.getLogger(__name__)
LOCK_NAME = ".mosaic_collect.lock"
#: Errors of file systems without locks: Lustre without flock, some NFS and FUSE mounts.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_BUSY = (errno.EAGAIN, errno.EACCES)
#: Who asks whether a writer lives has the lock for an instant (``is_locked``).
_TRIES, _TRY_SECONDS = 4, 0.01
#: Descriptors of this process's store locks, by the number of the lock.
_held: dict[int, int] = {}
_numbers = itertools.count()


def try_lock(fd: int, kind: int = fcntl.LOCK_EX) -> bool | None:
    """Lock an open file until its last descriptor is closed, without waiting.

    Returns:
        Whether it is locked now; None where the file system has no locks.
    """
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        if error.errno in _BUSY:
            return False
        raise
    return True


class StoreLock:
    """The lock of a store's folder, held from construction to ``release`` or the process's end.

    The folder is a descriptor, and ``then`` is called when the lock is released.

    Attributes:
        is_real: Whether the lock keeps others out; if not, that was logged as a warning.

    Raises:
        StoreLockedError: Another living writer holds it; the message names it, as far as known.
    """

    def __init__(self, store: str, folder: int, then: Callable[[], None] | None = None) -> None:
        self._store, self._number, self.is_real = store, next(_numbers), True
        # An interrupt may fall between the making of a lock and its owner's taking it.
        self._held_by = self._number, folder, then
        weakref.finalize(self, _release, *self._held_by).atexit = False
        while self._number not in _held:
            # Not through a link: what it leads to would be overwritten.
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(LOCK_NAME, flags, 0o666, dir_fd=folder)
            try:
                self._take(fd)
                if _leads_to(fd, folder):
                    _held[self._number] = fd
            finally:
                if self._number not in _held:
                    os.close(fd)

    def release(self) -> None:
        """Let the next writer in; calling it twice is allowed."""
        _release(*self._held_by)

    def _take(self, fd: int) -> None:
        if _is_held_here(fd):
            raise StoreLockedError(
                f"{self._store}: a writer of this process is at work on it; takeover=True closes "
                "that one first, and commits what was added to it"
            )
        for _ in range(_TRIES):
            if (held := try_lock(fd)) is not False:
                break
            time.sleep(_TRY_SECONDS)
        else:
            holder = os.pread(fd, 200, 0).decode(errors="replace").strip() or "an unknown process"
            raise StoreLockedError(f"{self._store}: {holder} is writing to it")
        self.is_real = bool(held)
        if held is None:
            _log.warning(
                "%s: this file system has no locks: nothing keeps another writer out; if one "
                "comes, it continues the store, and this one gets a StoreLostError",
                self._store,
            )
        # Only words for others' errors: a full disk may leave them out.
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)


def is_locked(folder: str) -> bool | None:
    """Whether a living writer holds the lock of a store's folder; None if that cannot be known."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(os.path.join(folder, LOCK_NAME), flags)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return None
    try:
        # Shared, and let go at once: whoever opens the store just now tries again.
        free = try_lock(fd, fcntl.LOCK_SH)
        return None if free is None else not free
    except OSError:
        return None
    finally:
        os.close(fd)


def _release(number: int, folder: int, then: Callable[[], None] | None) -> None:
    fd = _held.pop(number, None)
    if fd is not None:
        # Only while it is held, and only this one: the next writer's has the same name.
        with contextlib.suppress(OSError):
            if _leads_to(fd, folder):
                os.unlink(LOCK_NAME, dir_fd=folder)
        os.close(fd)
    if then is not None:
        then()


def _leads_to(fd: int, folder: int) -> bool:
    """Whether the lock file's name leads to this open file."""
    try:
        there = os.stat(LOCK_NAME, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(fd))


def _is_held_here(fd: int) -> bool:
    """Whether a store lock of this process is on the same file."""
    for held in list(_held.values()):
        with contextlib.suppress(OSError):  # released just now
            if os.path.samestat(os.fstat(held), os.fstat(fd)):
                return True
    return False


def _forget() -> None:
    """Close a parent's locks in a forked child, which holds none of them."""
    for fd in list(_held.values()):
        os.close(fd)
    _held.clear()


os.register_at_fork(after_in_child=_forget)
