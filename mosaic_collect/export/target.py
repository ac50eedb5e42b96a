"""The file an export becomes: whole under its name, or not there at all."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from mosaic_collect.checks import local_path, output_path, regular_target
from mosaic_collect.errors import InputError, SpaceError, WriteError
from mosaic_collect.store.files import NO_ROOM, PosixFiles, free_nbytes, temp_name
from mosaic_collect.store.lock import try_lock
from mosaic_collect.text import reason

_log = logging.getLogger(__name__)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
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


#: More than what any file system's client fetches or writes at a time.
_APART_NBYTES = 16 << 20


@dataclass(frozen=True)
class SharedFile:
    """A target on its way, for other processes, on this machine or on others that share its disk.

    Attributes:
        path: Its temp file.
        token_at: Offset of the token, well behind the file's end.
        token: By which this very export is known: not the file of another machine by that name, nor
            that of another export, which a process that its cluster gave up may find there.
    """

    path: str
    token_at: int
    token: bytes

    @contextmanager
    def opened(self) -> Iterator[int]:
        """Opened for writing; what was written is safe when the block is left.

        Raises:
            WriteError: Another file lies there.
            OSError: None does, or it cannot be written.
        """
        # For writing only: who may read, too, has whole pages fetched, and on some file systems
        # written back with what neighbours had not written by then.
        fd = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self._check(fd)
            yield fd
            os.fsync(fd)
        finally:
            os.close(fd)

    def _check(self, fd: int) -> None:
        looked = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            same = os.path.samestat(os.fstat(fd), os.fstat(looked))
            if not same or os.pread(looked, len(self.token), self.token_at) != self.token:
                raise WriteError(f"{self.path}: expected this export's file, found another")
        finally:
            os.close(looked)


class TargetFolder:
    """A temp folder beside the target, renamed onto it on leaving without an exception.

    Args:
        path: Target of ``check_target``; nothing is there.
        nbytes: Size to come.

    Attributes:
        temp_path: Path of the temp folder, locked. A kill leaves it; the next export to the target
            removes those that nobody has locked, where the file system has locks.

    Raises:
        SpaceError: The disk has not that much.
        WriteError: The folder cannot be made.
    """

    def __init__(self, path: str, nbytes: int) -> None:
        self._target = os.path.abspath(path)
        _check_room(path, self._target, nbytes)
        self.temp_path = temp_name(self._target, f".{secrets.token_hex(4)}")
        try:
            _remove_killed(self._target)
            os.mkdir(self.temp_path)
            self._fd = os.open(self.temp_path, _FOLDER)
        except OSError as error:
            raise WriteError(f"{path}: cannot be written: {reason(error)}") from error
        if try_lock(self._fd) is None:
            _log.warning(_STAYS, path)

    def __enter__(self) -> TargetFolder:
        return self

    def __exit__(self, kind: object, *more: object) -> None:
        try:
            if kind is None:
                for folder, _, names in os.walk(self.temp_path, topdown=False):
                    for name in names:
                        with open(os.path.join(folder, name), "r+b") as file:
                            os.fsync(file.fileno())
                    PosixFiles().sync_folder(folder)
                os.rename(self.temp_path, self._target)
                PosixFiles().sync_folder(os.path.dirname(self._target))
        finally:
            shutil.rmtree(self.temp_path, ignore_errors=True)
            os.close(self._fd)


def _remove_killed(target: str) -> None:
    """Remove temp folders of killed exports to a target: those of its name that nobody locked."""
    before, behind = (re.escape(part) for part in temp_name(target, "\0").split("\0"))
    folder = os.path.dirname(target)
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if not re.fullmatch(rf"{before}\.[0-9a-f]{{8}}{behind}", path):
            continue
        with contextlib.suppress(OSError):  # another user's, or removed meanwhile
            fd = os.open(path, _FOLDER)
            try:
                if try_lock(fd):
                    _log.info("%s: removed: the export that made it was killed", path)
                    shutil.rmtree(path)
            finally:
                os.close(fd)


def _check_room(path: str, target: str, nbytes: int) -> None:
    free = free_nbytes(os.path.dirname(target))
    if free is not None and free < nbytes:
        raise SpaceError(f"{path}: {nbytes} bytes needed, {free} free")


class Target:
    """A temp file beside the target, renamed onto it on leaving without an exception.

    Args:
        path: The target of ``check_target``; a file of that name is replaced at the end, in one. A
            link stays, and the file that it leads to is replaced.
        nbytes: Size to come, taken from the disk at once.

    Raises:
        SpaceError: The disk has not that much.
        WriteError: The file cannot be made, or another export writes it just now.
    """

    def __init__(self, path: str, nbytes: int) -> None:
        self._path, self._nbytes = path, nbytes
        self._target = regular_target(path) or os.path.abspath(path)
        self._temp, self._is_own = temp_name(self._target), False
        _check_room(path, self._target, nbytes)
        self.fd = self._claimed()
        try:
            self._allocate()
        except BaseException:
            os.close(self.fd)
            raise

    def __enter__(self) -> Target:
        return self

    def __exit__(self, kind: object, *more: object) -> None:
        try:
            if kind is None:
                os.fsync(self.fd)
                os.replace(self._temp, self._target)
                PosixFiles().sync_folder(os.path.dirname(self._target))
        except BaseException:
            self._discard()
            raise
        finally:
            if kind is not None:
                self._discard()
            os.close(self.fd)

    @property
    def temp_path(self) -> str:
        """Path of the temp file, for a library that opens it by name; it may truncate it."""
        return self._temp

    def opened(self) -> AbstractContextManager[int]:
        """The file for threads of this process."""
        return nullcontext(self.fd)

    @contextmanager
    def shared(self) -> Iterator[SharedFile]:
        """The file for other processes, until the block is left; this one writes no more to it.

        What was written so far is safe then: a file system of several machines that keeps whole
        pages would else write them over their neighbours'.
        """
        file = SharedFile(
            self._temp,
            (self._nbytes // _APART_NBYTES + 1) * _APART_NBYTES,
            secrets.token_bytes(16),
        )
        os.pwrite(self.fd, file.token, file.token_at)
        os.fsync(self.fd)
        yield file
        os.ftruncate(self.fd, self._nbytes)

    def _claimed(self) -> int:
        """A new file under the temp name, locked.

        A killed export's file is not continued: processes elsewhere may still write into it.
        """
        fd = self._open()
        while os.fstat(fd).st_size:
            try:
                os.unlink(self._temp)
            finally:
                os.close(fd)
            fd = self._open()
        return fd

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(self._temp, flags, 0o666)
        except OSError as error:
            raise WriteError(f"{self._path}: cannot be written: {reason(error)}") from error
        try:
            is_locked = self._lock(fd)
        except BaseException:
            os.close(fd)
            raise
        if is_locked or self._is_own:
            return fd
        return self._open_own(fd)

    def _open_own(self, shared: int) -> int:
        """Open a temp file of this export alone, where no lock keeps another one out."""
        _log.warning(_STAYS, self._path)
        try:
            if not os.fstat(shared).st_size:
                os.unlink(self._temp)
        finally:
            os.close(shared)
        self._temp, self._is_own = temp_name(self._target, f".{secrets.token_hex(4)}"), True
        return self._open()

    def _lock(self, fd: int) -> bool:
        """Whether the file is locked now; False where there are no locks."""
        try:
            is_locked = try_lock(fd)
        except OSError as error:
            raise WriteError(f"{self._path}: cannot be locked: {reason(error)}") from error
        # It may have been another export's until just now, and have the target's name by now.
        if is_locked is False or not self._is_temp(fd):
            raise WriteError(f"{self._path}: another export is writing it")
        return bool(is_locked)

    def _allocate(self) -> None:
        try:
            self._reserve()
        except OSError as error:
            self._discard()
            if error.errno in NO_ROOM:
                raise SpaceError(
                    f"{self._path}: no room for {self._nbytes} bytes: {reason(error)}"
                ) from error
            raise WriteError(f"{self._path}: cannot be written: {reason(error)}") from error

    def _reserve(self) -> None:
        """Take the space now where the system can: not all file systems and sandboxes can."""
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self.fd, 0, self._nbytes)
            except OSError as error:
                if error.errno in NO_ROOM:
                    raise
        os.ftruncate(self.fd, self._nbytes)

    def _is_temp(self, fd: int) -> bool:
        """Whether the open file is the one that has the temp name now."""
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self._temp))
        except FileNotFoundError:
            return False

    def _discard(self) -> None:
        if self._is_temp(self.fd):
            with contextlib.suppress(OSError):
                os.unlink(self._temp)
