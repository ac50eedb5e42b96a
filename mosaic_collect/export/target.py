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
from typing import Any, NamedTuple

from mosaic_collect.checks import local_path, output_path, regular_target
from mosaic_collect.errors import InputError, MosaicCollectError, SpaceError, WriteError
from mosaic_collect.store.files import NO_ROOM, PosixFiles, free_nbytes, temp_name
from mosaic_collect.store.lock import try_lock
from mosaic_collect.text import reason

_log = logging.getLogger(__name__)
_NBYTES = 8  # random bytes in the name of a temp file
_FAILED = "writing failed, nothing was left there"
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


class Target(NamedTuple):
    """The temp file or folder of an export.

    Attributes:
        temp_path: Its path, for a library that opens it by name; it may truncate it.
        fd: Its descriptor.
    """

    temp_path: str
    fd: int


@contextmanager
def opened_target(path: str, nbytes: int, is_folder: bool = False) -> Iterator[Target]:
    """Make a temp file or folder beside the target, which it replaces once the block is left.

    An exception removes it. Its name is its own: no other export writes there, and a process on
    another machine that opens it by name has this export's file or none. A kill leaves it; the next
    export to the target removes those that nobody has locked, where the file system has locks.

    Args:
        path: Target of ``check_target``; a file of that name is replaced at the end, in one. A link
            stays, and the file that it leads to is replaced.
        nbytes: Size to come; a file takes it from the disk at once.
        is_folder: Whether a new folder is made; a library fills it.

    Raises:
        SpaceError: The disk has not that much.
        WriteError: The target cannot be written, or another export writes it just now.
    """
    no_room = f"no room for {nbytes} bytes"
    with _named(path, _FAILED, _FAILED):
        target = regular_target(path) or os.path.abspath(path)
        folder = os.path.dirname(target)
        temp_path = temp_name(target, f".{secrets.token_hex(_NBYTES)}")
        _remove_killed(path, target, is_folder)
        free = free_nbytes(folder)
        if free is not None and free < nbytes:
            raise SpaceError(f"{path}: {nbytes} bytes needed, {free} free")
        with _named(path, "cannot be written", no_room):
            if is_folder:
                os.mkdir(temp_path)
            fd = _open(temp_path, is_folder, 0 if is_folder else os.O_CREAT | os.O_EXCL)
        try:
            with _named(path, "cannot be locked", no_room):
                is_locked = try_lock(fd)
            if is_locked is None:
                _log.warning(_STAYS, path)
            elif not is_locked or not os.path.exists(temp_path):
                raise _busy(path)  # which took it for a killed export's
            if not is_folder:
                with _named(path, "cannot be written", no_room):
                    _reserve(fd, nbytes)
            yield Target(temp_path, fd)
            if is_folder:
                _sync_files(temp_path)
            else:
                os.fsync(fd)
            os.replace(temp_path, target)
            PosixFiles().sync_folder(folder)
        finally:  # what has become the target is no longer there
            _remove(temp_path)
            os.close(fd)


@contextmanager
def _named(path: str, problem: str, no_room: str) -> Iterator[None]:
    """Name the target and what is wrong in a system's or a library's error."""
    try:
        yield
    except MosaicCollectError:
        raise
    except (OSError, RuntimeError) as error:  # h5py raises either when a disk is full
        is_full = getattr(error, "errno", None) in NO_ROOM
        kind, words = (SpaceError, no_room) if is_full else (WriteError, problem)
        raise kind(f"{path}: {words}: {reason(error)}") from error


def _open(path: str, is_folder: bool, flags: int = 0) -> int:
    flags |= (os.O_RDONLY | os.O_DIRECTORY) if is_folder else os.O_RDWR
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)


def _busy(path: str) -> WriteError:
    return WriteError(f"{path}: another export is writing it")


def _remove_killed(path: str, target: str, is_folder: bool) -> None:
    """Remove what killed exports to the target left; refuse to disturb one that lives."""
    before, behind = (glob.escape(part) for part in temp_name(target, "\0").split("\0"))
    for left in glob.glob(f"{before}.{'[0-9a-f]' * 2 * _NBYTES}{behind}"):
        is_locked = None
        with contextlib.suppress(OSError):  # another user's, or gone meanwhile
            fd = _open(left, is_folder)
            try:
                is_locked = try_lock(fd)
                if is_locked:
                    _log.info("%s: removed: the export that made it was killed", left)
                    _remove(left)
            finally:
                os.close(fd)
        if is_locked is False:
            raise _busy(path)


def _reserve(fd: int, nbytes: int) -> None:
    """Take the space now where the system can: not all file systems and sandboxes can."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(fd, 0, nbytes)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise
    os.ftruncate(fd, nbytes)


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
