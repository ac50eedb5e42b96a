"""The one seam through which a store's files change.

Whatever makes, writes, syncs, renames or removes goes through ``PosixFiles``, so that tests
can record every operation, fail any of them, or rebuild what a power cut would have left. Each
operation says what it promises; only ``sync`` and ``sync_folder`` promise anything about power.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import secrets
import stat
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from mosaic_collect.checks import own_output, regular_target

#: What systems say that cannot give a file a second name, or not one more.
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
#: Errors of a disk that is full, of a quota, and of a file that is too large for either.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: Bytes of a file's name that its temp name keeps; file systems take 143 to 255 in all.
_LONGEST_NAME = 120
_COPIED_NBYTES = 1 << 20
_IOV_MAX = 512  # below every system's limit on buffers a call


class PosixFiles:
    """File operations of a store. Every failure is an OSError that names the path."""

    _folder = ""
    _fd: int | None = None

    def hold(self, folder: str, fd: int | None) -> None:
        """Resolve paths below a folder from its descriptor, the caller's to close; None: not."""
        self._folder, self._fd = folder, fd

    def make_folder(self, path: str) -> None:
        """Make one folder; it may be there already. The name lasts after ``sync_folder``."""
        name, within = self._at(path)
        try:
            named(path, os.mkdir, name, dir_fd=within)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=within).st_mode):
                raise

    def create(self, path: str) -> int:
        """Open a new, empty file for writing, and return its descriptor.

        What had that name is removed, not opened: in a store made by someone else a link, or a file
        that has another name, too, could lead out of it.
        """
        self.remove(path)
        name, within = self._at(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd: int = named(path, os.open, name, flags, 0o666, dir_fd=within)
        return fd

    def write(self, path: str, fd: int, buffers: Sequence[Any]) -> None:
        """Append all bytes of ``buffers`` to an open file, or raise."""
        named(path, write_all, fd, buffers)

    def sync(self, path: str, fd: int) -> None:
        """When it returns, the bytes written so far survive a power cut, though not the name."""
        named(path, os.fsync, fd)

    def link(self, source: str, target: str) -> None:
        """Give a file a second name, in any folder; what had that name is removed."""
        self.remove(target)
        self._move(os.link, source, target)

    def rename(self, source: str, target: str) -> None:
        """Atomically give the file the other name, replacing what had it."""
        self._move(os.replace, source, target)

    def take(self, source: str, target: str) -> None:
        """Give the file the other name if nothing has it; of many who try at once one does.

        Raises:
            FileExistsError: Something has it.
            OSError: ``ENOTSUP``: the file system has neither hard links nor ``RENAME_NOREPLACE``.
        """
        try:
            self._move(os.link, source, target)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            self._move(_rename_new, source, target)
        else:
            self.remove(source)

    def sync_folder(self, path: str) -> None:
        """When it returns, names made, changed or removed in the folder survive a power cut."""
        name, within = self._at(path)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        fd: int = named(path, os.open, name, flags, dir_fd=within)
        try:
            named(path, os.fsync, fd)
        except OSError as error:
            # Some file systems (of the network, mostly) have no such sync and say so.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(fd)

    def remove(self, path: str) -> None:
        """Remove a file; it may be gone already."""
        name, within = self._at(path)
        with contextlib.suppress(FileNotFoundError):
            named(path, os.unlink, name, dir_fd=within)

    def remove_folder(self, path: str) -> None:
        """Remove an empty folder."""
        name, within = self._at(path)
        named(path, os.rmdir, name, dir_fd=within)

    def _move(self, call: Any, source: str, target: str) -> None:
        (old, within), (new, there) = self._at(source), self._at(target)
        named(target, call, old, new, src_dir_fd=within, dst_dir_fd=there)

    def _at(self, path: str) -> tuple[str, int | None]:
        """The path, or what it is from the folder that is held."""
        if self._fd is None or not f"{path}{os.sep}".startswith(f"{self._folder}{os.sep}"):
            return path, None
        return path[len(self._folder) + 1 :] or os.curdir, self._fd


def _rename_new(old: str, new: str, src_dir_fd: int | None, dst_dir_fd: int | None) -> None:
    """Rename, unless something has the new name: Linux's ``renameat2``, which Python lacks."""
    here, no_replace = -100, 1  # AT_FDCWD, RENAME_NOREPLACE
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    old_fd, new_fd = (here if fd is None else fd for fd in (src_dir_fd, dst_dir_fd))
    if call is not None and not call(
        old_fd, os.fsencode(old), new_fd, os.fsencode(new), no_replace
    ):
        return
    code = errno.ENOSYS if call is None else ctypes.get_errno()
    if code in (errno.EINVAL, *NO_LINKS):
        raise OSError(
            errno.ENOTSUP,
            "this file system has neither hard links nor exclusive renames, which several ranks "
            "in one folder need: record each rank as a store of its own",
        )
    raise OSError(code, os.strerror(code))


def write_all(fd: int, buffers: Sequence[Any]) -> None:
    """Write all bytes of the buffers to a descriptor, or raise."""
    views = deque(memoryview(b).cast("B") for b in buffers if len(b))
    while views:
        written = os.writev(fd, list(islice(views, _IOV_MAX)))
        while views and written >= len(views[0]):
            written -= len(views.popleft())
        if written:
            views[0] = views[0][written:]


class PosixUpload:
    """A file on its way: written at ``temp``, then given its path, then those of ``also``."""

    def __init__(
        self, files: PosixFiles, path: str, temp: str, also: Sequence[tuple[str, str]] = ()
    ) -> None:
        self._files, self.address, self._temp, self._also = files, path, temp, also
        self._fd = files.create(temp)
        self.nbytes = 0

    def write(self, buffers: Sequence[Any]) -> None:
        """Append the buffers."""
        self._files.write(self._temp, self._fd, buffers)
        self.nbytes += sum(len(b) for b in buffers)

    def fileno(self) -> int:
        """Descriptor, for a process that writes in this one's place."""
        return self._fd

    def finish(self, anew: bool = False, synced: bool = True) -> None:
        """Sync and close the temp file, then give it its names.

        A name is given only if both succeeded: what was never on the disk never gets a name. Not
        ``synced``, a power cut may leave neither the old content nor the new one.

        Raises:
            FileExistsError: The file is there, although it is to be made ``anew``.
        """
        try:
            try:
                if synced:
                    self._files.sync(self._temp, self._fd)
            finally:
                self._close()
            (self._files.take if anew else self._files.rename)(self._temp, self.address)
        except BaseException:
            self.abandon()
            raise
        for path, temp in self._also:
            self.nbytes += link_file(self._files, self.address, path, temp)

    def abandon(self) -> None:
        """Close and remove the temp file, if the system lets us."""
        with contextlib.suppress(OSError):
            self._close()
        with contextlib.suppress(OSError):
            self._files.remove(self._temp)

    def _close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            named(self._temp, os.close, fd)


def link_file(files: PosixFiles, source: str, path: str, temp: str) -> int:
    """Give a file a second name, or copy it where the system has none; return bytes copied."""
    try:
        files.link(source, temp)
        files.rename(temp, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            files.remove(temp)
        if error.errno not in NO_LINKS:
            raise
    else:
        return 0
    with open(open_regular(source), "rb") as file:
        pieces = iter(lambda: named(source, file.read, _COPIED_NBYTES), b"")
        return write_file(files, path, pieces, temp)


def write_file(
    files: PosixFiles,
    path: str,
    pieces: Iterable[bytes],
    temp: str,
    anew: bool = False,
    synced: bool = True,
) -> int:
    """Replace a file's content as a whole, and return its bytes; see ``PosixUpload.finish``.

    After a kill or a power cut the file has the old content or the new one. Only after
    ``sync_folder`` of its folder is it surely the new one.
    """
    upload = PosixUpload(files, path, temp)
    try:
        for piece in pieces:
            upload.write([piece])
    except BaseException:
        upload.abandon()
        raise
    upload.finish(anew, synced)
    return upload.nbytes


def write_target(path: str, data: bytes) -> None:
    """Write a file that a user named.

    A regular file is written beside its place and renamed: it has the old content or the new one.
    A link stays, and the file that it leads to is replaced. A pipe or a device is written into.
    """
    target = regular_target(path)
    if target is None:
        _write_into(path, data)
        return
    files = PosixFiles()
    write_file(files, target, [data], temp_name(target, f".{secrets.token_hex(4)}"))
    with contextlib.suppress(PermissionError):  # of a folder that this user may not read
        files.sync_folder(os.path.dirname(target))


def _write_into(path: str, data: bytes) -> None:
    own = own_output(os.stat(path))
    if own is None:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    else:  # opened anew, it would be written from its beginning
        sys.stdout.flush()
        fd = os.dup(own)
    try:
        named(path, write_all, fd, [data])
    finally:
        os.close(fd)


def free_nbytes(folder: str) -> int | None:
    """Room on the disk of a folder; None where the file system reports no size at all."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize if found.f_blocks else None


def open_regular(path: str) -> int:
    """A descriptor for reading a regular file, or a link to one; an OSError for all else.

    Without waiting: a store from elsewhere may hold a pipe where a file belongs.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "no regular file", path)
    return fd


def temp_name(path: str, mark: str = "") -> str:
    """Where a file lies until it is whole; reopening a store for writing removes leftovers.

    A name that would become too long for the file system is shortened to its hash. ``mark`` tells
    this writer's temp file from another's.
    """
    folder, name = os.path.split(path)
    encoded = os.fsencode(name)
    if len(encoded) > _LONGEST_NAME:
        name = hashlib.sha256(encoded).hexdigest()
    return os.path.join(folder, f".{name}{mark}.tmp")


def is_temp_name(name: str) -> bool:
    """Whether ``temp_name`` made this file name."""
    return name.startswith(".") and name.endswith(".tmp")


def named(path: str, call: Any, *args: Any, **options: Any) -> Any:
    """Make a call on a descriptor; such calls leave the path out of their errors: put it in."""
    try:
        return call(*args, **options)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
