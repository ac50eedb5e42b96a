"""The file or folder an export becomes: whole under its name, or not there at all."""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mosaic_collect.checks import local_path, output_path, regular_target
from mosaic_collect.errors import InputError, MosaicCollectError, SpaceError, WriteError
from mosaic_collect.store.files import NO_ROOM, PosixFiles, free_nbytes, temp_name
from mosaic_collect.store.lock import try_lock
from mosaic_collect.text import reason

_log = logging.getLogger(__name__)
_MARK_NBYTES = 8  # random bytes in the name of a temp file
_STAYS = "%s: this file system has no locks: if this export is killed, its temp file stays"


def check_target(
    path: str | os.PathLike[str], stores: Sequence[str], endings: Sequence[str] = (".npy",)
) -> str:
    """Check the path of an export; return it as text.

    Args:
        path: File or folder to write.
        stores: Folders in which it may not lie.
        endings: Endings of the file; none: the export is a folder.

    Raises:
        InputError: The name has another ending, is a folder, a pipe or a device, lies in a store or
            in no folder, or is taken, where a folder is to be made.
    """
    path = local_path(path, "path")
    path = path if endings else path.rstrip("/") or "/"
    if endings and not path.endswith(tuple(endings)):
        why = ", the only one MOSAIC loads" if endings == (".npy",) else ""
        raise InputError(f"{path}: expected a name ending in {' or '.join(endings)}{why}")
    if not os.path.isdir(path) and regular_target(path) is None:
        raise InputError(
            f"{path}: expected a regular file, found a pipe or a device: an export is written at "
            "many places at once"
        )
    if not endings and os.path.lexists(path):
        raise InputError(f"{path}: expected a new folder's name: what is there is not replaced")
    folder = os.path.dirname(os.path.realpath(output_path(path, "path")))
    for store in stores:
        inside = os.path.realpath(store) + os.sep
        if (folder + os.sep).startswith(inside):
            raise InputError(
                f"{path}: lies inside the store {store}, which holds nothing but its own files"
            )
    return path


class Target:
    """A temp file or folder beside the target, renamed onto it on leaving without an exception.

    Its name is its own: no other export writes there, and a process on another machine that opens
    it by name has this export's file or none. A kill leaves it; the next export to the target
    removes those that nobody has locked, where the file system has locks.

    Args:
        path: Target of ``check_target``; a file of that name is replaced at the end, in one. A link
            stays, and the file that it leads to is replaced.
        nbytes: Size to come; a file takes it from the disk at once.
        is_folder: Whether a new folder is made; a library fills it.

    Attributes:
        temp_path: Path of the temp file, for a library that opens it by name; it may truncate it.
        fd: Descriptor of the temp file.

    Raises:
        SpaceError: The disk has not that much.
        WriteError: The temp file cannot be made, or another export writes the target just now.
    """

    def __init__(self, path: str, nbytes: int, is_folder: bool = False) -> None:
        self._path, self._nbytes, self._is_folder = path, nbytes, is_folder
        self._target = regular_target(path) or os.path.abspath(path)
        self.temp_path = temp_name(self._target, f".{secrets.token_hex(_MARK_NBYTES)}")
        self._remove_killed()
        free = free_nbytes(os.path.dirname(self._target))
        if free is not None and free < nbytes:
            raise SpaceError(f"{path}: {nbytes} bytes needed, {free} free")
        with self._named("cannot be written"):
            if is_folder:
                os.mkdir(self.temp_path)
            self.fd = self._open(self.temp_path, 0 if is_folder else os.O_CREAT | os.O_EXCL)
        try:
            self._lock()
            if not is_folder:
                self._reserve()
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> Target:
        return self

    def __exit__(self, kind: object, *more: object) -> None:
        try:
            if kind is None:
                if self._is_folder:
                    _sync_files(self.temp_path)
                else:
                    os.fsync(self.fd)
                os.replace(self.temp_path, self._target)
                PosixFiles().sync_folder(os.path.dirname(self._target))
        finally:
            self._end()

    def _open(self, path: str, flags: int = 0) -> int:
        flags |= (os.O_RDONLY | os.O_DIRECTORY) if self._is_folder else os.O_RDWR
        return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)

    def _remove_killed(self) -> None:
        """Remove what killed exports to the target left; refuse to disturb one that lives."""
        before, behind = (glob.escape(part) for part in temp_name(self._target, "\0").split("\0"))
        for path in glob.glob(f"{before}.{'[0-9a-f]' * 2 * _MARK_NBYTES}{behind}"):
            is_locked = None
            with contextlib.suppress(OSError):  # another user's, or gone meanwhile
                fd = self._open(path)
                try:
                    is_locked = try_lock(fd)
                    if is_locked:
                        _log.info("%s: removed: the export that made it was killed", path)
                        _remove(path)
                finally:
                    os.close(fd)
            if is_locked is False:
                raise self._busy()

    def _lock(self) -> None:
        with self._named("cannot be locked"):
            is_locked = try_lock(self.fd)
        if is_locked is None:
            _log.warning(_STAYS, self._path)
        elif not is_locked or not os.path.exists(self.temp_path):
            raise self._busy()  # which took it for a killed export's

    def _busy(self) -> WriteError:
        return WriteError(f"{self._path}: another export is writing it")

    def _reserve(self) -> None:
        """Take the space now where the system can: not all file systems and sandboxes can."""
        with self._named("cannot be written"):
            if hasattr(os, "posix_fallocate"):
                try:
                    os.posix_fallocate(self.fd, 0, self._nbytes)
                except OSError as error:
                    if error.errno in NO_ROOM:
                        raise
            os.ftruncate(self.fd, self._nbytes)

    @contextmanager
    def _named(self, problem: str) -> Iterator[None]:
        """Name the target and what is wrong in a system's error."""
        try:
            yield
        except OSError as error:
            is_full = error.errno in NO_ROOM
            words = f"no room for {self._nbytes} bytes" if is_full else problem
            kind = SpaceError if is_full else WriteError
            raise kind(f"{self._path}: {words}: {reason(error)}") from error

    def _end(self) -> None:
        """Remove the temp file, if it has not become the target, and close it."""
        _remove(self.temp_path)
        os.close(self.fd)


@contextmanager
def opened_target(path: str, nbytes: int, is_folder: bool = False) -> Iterator[Target]:
    """Open a ``Target``; a failure to write it is a ``WriteError`` that names it."""
    try:
        with Target(path, nbytes, is_folder) as target:
            yield target
    except MosaicCollectError:
        raise
    except (OSError, RuntimeError) as error:  # h5py raises either when a disk is full
        words = f"{path}: writing failed, nothing was left there: {reason(error)}"
        is_full = getattr(error, "errno", None) in NO_ROOM
        raise (SpaceError if is_full else WriteError)(words) from error


def _remove(path: str) -> None:
    """Remove a file or a folder, if it is there and the system lets us."""
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _sync_files(path: str) -> None:
    for folder, _, names in os.walk(path, topdown=False):
        for name in names:
            with open(os.path.join(folder, name), "r+b") as file:
                os.fsync(file.fileno())
        PosixFiles().sync_folder(folder)


@contextmanager
def opened_elsewhere(path: str) -> Iterator[int]:
    """Open a target's temp file in another process; what was written is safe on leaving.

    For writing only: a process that may read, too, has whole pages fetched, and on some file
    systems written back with what neighbours had not written by then.

    Raises:
        OSError: The export has ended, this machine does not share its folder, or writing fails.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        yield fd
        os.fsync(fd)
    finally:
        os.close(fd)


def write_at(fd: int, values: Any, offset: int) -> None:
    """Write all bytes of an array or a buffer at ``offset``, however few bytes a call takes."""
    data = memoryview(values).cast("B")
    while len(data):
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written
