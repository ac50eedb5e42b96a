"""The file an export becomes: whole under its name, or not there at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Sequence
from types import TracebackType

from mosaic_collect.errors import InputError, SpaceError, WriteError
from mosaic_collect.store.files import PosixFiles, temp_name


def check_target(path: str, stores: Sequence[str]) -> None:
    """Refuse a name that MOSAIC could not load or that is no place for a file.

    Raises:
        InputError: It does not end in ``.npy``, is a folder, or lies in a store or in no folder.
    """
    if not path.endswith(".npy"):
        raise InputError(f"{path}: expected a name ending in .npy, the only one MOSAIC loads")
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise InputError(f"{path}: the folder {folder} does not exist")
    if os.path.isdir(path):
        raise InputError(f"{path}: expected a file's name, got a folder")
    for store in stores:
        inside = os.path.realpath(store) + os.sep
        if (os.path.realpath(folder) + os.sep).startswith(inside):
            raise InputError(
                f"{path}: lies inside the store {store}, which holds nothing but its own files"
            )


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
        self._path, self._temp = path, temp_name(path)
        free = shutil.disk_usage(os.path.dirname(os.path.abspath(path))).free
        if free < nbytes:
            raise SpaceError(f"{path}: {nbytes} bytes needed, {free} free")
        try:
            self.fd = self._open()
        except OSError as error:
            raise WriteError(f"{path}: cannot be written: {error}") from error
        try:
            self._claim(nbytes)
        except BaseException:
            os.close(self.fd)
            raise

    def __enter__(self) -> Target:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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

    def _open(self) -> int:
        return os.open(self._temp, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)

    def _claim(self, nbytes: int) -> None:
        try:
            # flock and not lockf: it keeps threads of one process apart, too.
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise WriteError(f"{self._path}: another export is writing it") from error
        if not self._is_temp():
            # It was another export's until just now, and has the target's name by now.
            raise WriteError(f"{self._path}: another export is writing it")
        os.ftruncate(self.fd, 0)
        try:
            os.posix_fallocate(self.fd, 0, nbytes)
        except OSError as error:
            self._discard()
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise SpaceError(f"{self._path}: no room for {nbytes} bytes: {error}") from error
            raise WriteError(f"{self._path}: cannot be written: {error}") from error

    def _is_temp(self) -> bool:
        """Whether the open file is the one that has the temp name now."""
        try:
            return os.path.samestat(os.fstat(self.fd), os.stat(self._temp))
        except FileNotFoundError:
            return False

    def _discard(self) -> None:
        if self._is_temp():
            with contextlib.suppress(OSError):
                os.unlink(self._temp)
