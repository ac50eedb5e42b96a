"""One writer a store: an OS lock that dies with its process.

POSIX record locks (``lockf``) and not ``flock``: a child made by fork, a data loader's worker say,
would keep a ``flock`` alive after the writer died. Record locks do not exclude two holders in one
process, so a set of held paths does that.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading

from mosaic_collect.errors import StoreLockedError

LOCK_NAME = ".mosaic_collect.lock"
_held: set[tuple[int, int]] = set()
_guard = threading.Lock()


class StoreLock:
    """Held from construction to ``release`` or the process's end.

    Raises:
        StoreLockedError: Another living writer holds it; says which, as far as known.
    """

    def __init__(self, store: str) -> None:
        self._store = store
        self._fd = -1
        path = os.path.join(store, LOCK_NAME)
        with _guard:
            self._refuse_own(path)
            # Opened only now: closing any descriptor of the file would drop this process's lock.
            # Not through a link: what it leads to would be overwritten.
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            try:
                self._take(fd)
            except BaseException:
                os.close(fd)
                raise
            self._fd, self._key = fd, _identity(os.fstat(fd))
            _held.add(self._key)

    def __del__(self) -> None:
        # An interrupt may fall between the making of a lock and its owner's taking it.
        if self._fd >= 0:
            self.release()

    def release(self) -> None:
        """Let the next writer in."""
        with _guard:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
                _held.discard(self._key)

    def _refuse_own(self, path: str) -> None:
        if os.path.exists(path) and _identity(os.stat(path)) in _held:
            raise StoreLockedError(
                f"{self._store}: another writer of this process is at work on it"
            )

    def _take(self, fd: int) -> None:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            holder = os.pread(fd, 200, 0).decode(errors="replace").strip() or "an unknown process"
            raise StoreLockedError(f"{self._store}: {holder} is writing to it") from error
        # Only words for others' errors: a full disk may leave them out.
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)


def _forget() -> None:
    """A forked child holds none of its parent's locks."""
    global _guard  # noqa: PLW0603  the parent's may have been held while it forked
    _guard = threading.Lock()
    _held.clear()


os.register_at_fork(after_in_child=_forget)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
