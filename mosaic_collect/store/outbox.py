"""Where a file system has no locks: what keeps a writer from harm that it does not know of.

Each writer has a folder of its own in the store. A file gets its name by a rename out of there,
and loses it by one into there; the file system carries out either as a whole or not at all. Who
comes later takes the folder away, and only then looks at the store: from then on nothing that the
earlier writer has under way can change it, however late that arrives, and the writer is told.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat

from mosaic_collect.errors import StoreLockedError, StoreLostError
from mosaic_collect.store.files import Files

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
