"""One writer a store: an OS lock that dies with its process.

The lock belongs to the open file (Linux: open file description locks, fcntl(2)), so whoever else
opens and closes the file, a backup in this very process for one, takes nothing away. A child made
by fork, a data loader's worker say, would share it, and closes its descriptor at once. Where the
system has no such locks, POSIX record locks do, which belong to the process and are dropped when
any of its descriptors of the file is closed; they do not exclude two holders in one process, so a
set of held files does that.

The file is removed when the lock is let go: what stays behind is Zarr and nothing else. Whoever
opened it just before finds that its name no longer leads to it, and opens the next one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import logging
import os
import socket
import struct
import threading

from mosaic_collect.errors import StoreLockedError

_log = logging.getLogger(__name__)
LOCK_NAME = ".mosaic_collect.lock"
#: What file systems say that have no locks: Lustre without flock, some NFS and FUSE mounts.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_BUSY = (errno.EAGAIN, errno.EACCES)
# struct flock: type, whence, start, length (0: all), pid (0, as it must be); padded as C does.
_WHOLE_FILE = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
#: This process's locks by their numbers: the descriptor, and which file it is.
_held: dict[int, tuple[int, tuple[int, int]]] = {}
_numbers = itertools.count()
# Reentrant: while one lock is taken, the garbage collector may let another one go.
_guard = threading.RLock()


class StoreLock:
    """Held from construction to ``release`` or the process's end.

    Args:
        store: The folder, for messages.
        folder: Its descriptor.

    Attributes:
        is_real: Whether it keeps others out; if not, that was logged as a warning.

    Raises:
        StoreLockedError: Another living writer holds it; says which, as far as known.
    """

    def __init__(self, store: str, folder: int) -> None:
        self._store, self._folder = store, folder
        self._number, self.is_real = next(_numbers), True
        with _guard:
            while self._number not in _held:
                self._refuse_own()
                # Not through a link: what it leads to would be overwritten.
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                fd = os.open(LOCK_NAME, flags, 0o666, dir_fd=folder)
                try:
                    self._take(fd)
                    identity = _identity(os.fstat(fd))
                    if identity == self._there():
                        _held[self._number] = fd, identity
                finally:
                    if self._number not in _held:
                        os.close(fd)

    def __del__(self) -> None:
        # An interrupt may fall between the making of a lock and its owner's taking it.
        if getattr(self, "_number", -1) in _held:
            self.release()

    def __reduce__(self) -> str:
        raise TypeError("a StoreLock cannot be copied: it belongs to one open file")

    def release(self) -> None:
        """Let the next writer in; calling it twice is allowed."""
        with _guard:
            if self._number not in _held:
                return
            fd, identity = _held.pop(self._number)
            # Only while it is held, and only this one: the next writer's has the same name.
            with contextlib.suppress(OSError):
                if identity == self._there():
                    os.unlink(LOCK_NAME, dir_fd=self._folder)
            os.close(fd)

    def _there(self) -> tuple[int, int] | None:
        """What the name leads to now."""
        try:
            return _identity(os.stat(LOCK_NAME, dir_fd=self._folder, follow_symlinks=False))
        except FileNotFoundError:
            return None

    def _refuse_own(self) -> None:
        there = self._there()
        if any(identity == there for _, identity in list(_held.values())):
            raise StoreLockedError(
                f"{self._store}: a writer of this process is at work on it; takeover=True closes "
                "that one first, and commits what was added to it"
            )

    def _take(self, fd: int) -> None:
        try:
            _lock(fd)
        except OSError as error:
            if error.errno in NO_LOCKS:
                self.is_real = False
                _log.warning(
                    "%s: this file system has no locks (%s): nothing keeps another writer out; "
                    "if one comes, it goes on with the store, and this one is told",
                    self._store,
                    error.strerror,
                )
            elif error.errno in _BUSY:
                raise StoreLockedError(f"{self._store}: {_holder(fd)} is writing to it") from error
            else:
                raise
        # Only words for others' errors: a full disk may leave them out.
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)


def is_locked(folder: str) -> bool | None:
    """Whether a living writer holds the lock of a store's folder.

    It only looks: the lock is not taken, not even for a moment.

    Returns:
        None where that cannot be known: the file system has no locks, or the file is not ours to
        read.
    """
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(os.path.join(folder, LOCK_NAME), flags)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return None
    try:
        command = getattr(fcntl, "F_OFD_GETLK", fcntl.F_GETLK)
        found = fcntl.fcntl(fd, command, _WHOLE_FILE)
        return bool(struct.unpack("hhqqi0q", found)[0] != fcntl.F_UNLCK)
    except OSError:
        return None
    finally:
        os.close(fd)


def _lock(fd: int) -> None:
    if hasattr(fcntl, "F_OFD_SETLK"):
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _WHOLE_FILE)
        except OSError as error:
            if error.errno != errno.EINVAL:  # of a kernel without them
                raise
        else:
            return
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _holder(fd: int) -> str:
    return os.pread(fd, 200, 0).decode(errors="replace").strip() or "an unknown process"


def _forget() -> None:
    """A forked child holds none of its parent's locks, which stay as they are."""
    global _guard  # noqa: PLW0603  the parent's may have been held while it forked
    _guard = threading.RLock()
    for fd, _ in list(_held.values()):
        os.close(fd)
    _held.clear()


os.register_at_fork(after_in_child=_forget)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
