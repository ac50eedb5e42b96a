"""The file an export becomes: whole under its name, or not there at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from mosaic_collect.checks import local_path, output_path
from mosaic_collect.errors import InputError, SpaceError, WriteError
from mosaic_collect.store.files import PosixFiles, temp_name
from mosaic_collect.text import reason


def check_target(path: str | os.PathLike[str], stores: Sequence[str]) -> str:
    """The path, as a text; a name that MOSAIC could not load, or no place for a file, is refused.

    Raises:
        InputError: It does not end in ``.npy``, is a folder, or lies in a store or in no folder.
    """
    path = local_path(path, "path")
    if not path.endswith(".npy"):
        raise InputError(f"{path}: expected a name ending in .npy, the only one MOSAIC loads")
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
        token_at: Where a token lies, well behind the file's end.
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


class Target:
    """A temp file beside the target, renamed onto it on leaving without an exception.

    Args:
        path: The target; a file of that name is replaced at the end, in one.
        nbytes: Size to come, taken from the disk at once.

    Raises:
        SpaceError: The disk has not that much.
        WriteError: The file cannot be made, or another export writes it just now.
    """

    def __init__(self, path: str, nbytes: int) -> None:
        self._path, self._temp, self._nbytes = path, temp_name(path), nbytes
        free = shutil.disk_usage(os.path.dirname(os.path.abspath(path))).free
        if free < nbytes:
            raise SpaceError(f"{path}: {nbytes} bytes needed, {free} free")
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
                os.replace(self._temp, self._path)
                PosixFiles().sync_folder(os.path.dirname(os.path.abspath(self._path)))
        except BaseException:
            self._discard()
            raise
        finally:
            if kind is not None:
                self._discard()
            os.close(self.fd)

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
            os.path.abspath(self._temp),
            (self._nbytes // _APART_NBYTES + 1) * _APART_NBYTES,
            secrets.token_bytes(16),
        )
        os.pwrite(self.fd, file.token, file.token_at)
        os.fsync(self.fd)
        yield file
        os.ftruncate(self.fd, self._nbytes)

    def _claimed(self) -> int:
        """A new file under the temp name, locked.

        A killed export's file is not gone on with: processes elsewhere may still write into it.
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
            self._lock(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _lock(self, fd: int) -> None:
        try:
            # flock and not lockf: it keeps threads of one process apart, too.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise WriteError(f"{self._path}: another export is writing it") from error
        if not self._is_temp(fd):
            # It was another export's until just now, and has the target's name by now.
            raise WriteError(f"{self._path}: another export is writing it")

    def _allocate(self) -> None:
        try:
            os.posix_fallocate(self.fd, 0, self._nbytes)
        except OSError as error:
            self._discard()
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise SpaceError(
                    f"{self._path}: no room for {self._nbytes} bytes: {reason(error)}"
                ) from error
            raise WriteError(f"{self._path}: cannot be written: {reason(error)}") from error

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
