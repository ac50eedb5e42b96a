"""Arguments that many calls take, checked where they come in; and packages that may be missing."""

from __future__ import annotations

import operator
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import numpy as np

from mosaic_collect.errors import InputError, MissingDependencyError, MosaicCollectError

_LFS = b"version https://git-lfs.github.com/spec/"
#: Bytes of a file by which a Git LFS pointer is known, and most bytes of one (its specification).
LFS_NBYTES, LFS_MOST_NBYTES = len(_LFS), 1024
_MOST_THREADS = 4  # more gain little beside a simulation
_OPENGL = ("MUJOCO_GL", "PYOPENGL_PLATFORM", "MUJOCO_EGL_DEVICE_ID", "EGL_DEVICE_ID")
#: What the user set of these: simulators set others when they are imported.
_OPENGL_SET = {name: os.environ[name] for name in _OPENGL if os.environ.get(name)}
#: With one slash, too: that is what a ``Path`` makes of two.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def local_path(path: Any, name: str) -> str:
    """A path of this machine as text; ``~`` is the home. ``name`` is the argument's, for errors.

    Raises:
        InputError: No path, or a URL, which would become a folder of that name.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str) or not text or "\0" in text:
        raise InputError(f"{name}: expected the name of a file or folder, got {text!r}")
    if _URL.match(text):
        raise InputError(f"{name}: expected a path on this machine, got the URL {text}")
    return os.path.expanduser(text)


def output_path(path: Any, name: str) -> str:
    """``local_path`` of a file that is to be written, refused before the work that it is of.

    Raises:
        InputError: No path of this machine, a folder, or in a folder that is not there.
    """
    told = local_path(path, name)
    folder = os.path.dirname(os.path.abspath(told))
    if not os.path.isdir(folder):
        raise InputError(f"{name}: expected a folder at {folder}, found none")
    if os.path.isdir(told):
        raise InputError(f"{name}: expected a file's name, got the folder {told}")
    return told


def regular_target(path: str) -> str | None:
    """Path of the regular file that ``path`` is or will be; links are followed.

    Returns:
        None for a pipe, a device, a socket, or a file that is this process's own output: to be
        written into, and never to be replaced.
    """
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return os.path.realpath(path)
    is_replaceable = stat.S_ISREG(there.st_mode) and own_output(there) is None
    return os.path.realpath(path) if is_replaceable else None


def own_output(there: os.stat_result) -> int | None:
    """Descriptor of standard output or error if it is this file, as of ``/dev/stdout``."""
    for fd in (1, 2):
        with suppress(OSError):  # closed
            if os.path.samestat(os.fstat(fd), there):
                return fd
    return None


def lfs_pointer(begin: bytes) -> str:
    """Words about a file that is only a Git LFS pointer, by its first ``LFS_NBYTES``; else empty.

    A clone without Git LFS has such small texts in place of large files.
    """
    is_pointer = begin.startswith(_LFS)
    return "a Git LFS pointer in place of the file: run git lfs pull" if is_pointer else ""


def whole(value: Any, name: str, least: int, most: int | None = None) -> int:
    """A whole number as Python's own; NumPy's are taken, too, but True and False are none.

    Raises:
        InputError: The value is no whole number, below ``least`` or above ``most``.
    """
    if is_whole(value, least, most):
        return operator.index(value)
    bounds = f"from {least}" if most is None else f"of {least}..{most}"
    raise InputError(f"{name}: expected a whole number {bounds}, got {value!r}")


def is_whole(value: Any, least: int, most: int | None = None) -> bool:
    """Whether ``whole`` would take the value."""
    if isinstance(value, (bool, np.bool_)):
        return False
    try:
        number = operator.index(value)
    except TypeError:
        return False
    return least <= number and (most is None or number <= most)


def pythons(value: Any) -> Any:
    """A number of NumPy's as Python's; others as they are."""
    return value.item() if isinstance(value, np.generic) else value


def is_tensor(value: Any) -> bool:
    """Whether ``value`` is a torch tensor: only if its caller has imported torch can it be one."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def unreadable(value: Any) -> str | None:
    """What keeps the values of an array or tensor from being read, in words; None: nothing."""
    if not is_tensor(value):
        masked = isinstance(value, np.ma.MaskedArray)
        return "a masked array, which lacks some of its values" if masked else None
    if value.is_meta:
        return "a meta tensor, which has no values"
    if value.is_nested:
        return "a nested tensor"
    if value.layout is not sys.modules["torch"].strided:
        return "a sparse tensor"
    return "a quantized tensor" if value.is_quantized else None


def thread_count(threads: Any = None) -> int:
    """Number of threads, a whole number from 1; None: one per processor, at most 4."""
    return min(processors(), _MOST_THREADS) if threads is None else whole(threads, "threads", 1)


@contextmanager
def needed(words: str, opengl: bool = False) -> Iterator[None]:
    """Around the import of an optional package: a failure becomes a MissingDependencyError.

    Args:
        words: Message of the error: what needs the package and how to install it.
        opengl: The package loads OpenGL as the environment says, whose values may not fit.
    """
    try:
        yield
    except Exception as error:
        is_import = isinstance(error, ImportError)
        if isinstance(error, MosaicCollectError) or not (is_import or opengl):
            raise
        told = f"{error}" if is_import else f"{type(error).__name__}: {error}"
        settings = opengl_settings() if opengl else ""
        raise MissingDependencyError(f"{words} ({told}{settings})") from error


def opengl_settings() -> str:
    """Variables of the environment that choose an OpenGL, as the end of an error; "" if none."""
    told = ", ".join(f"{name}={value}" for name, value in _OPENGL_SET.items())
    return f"; the environment has {told}, which may not fit this machine: unset it" if told else ""


def analysis_by(package: str) -> AbstractContextManager[None]:
    """Around the import of a package of the extra ``analysis``; errors as of ``needed``."""
    get = "pip install 'mosaic-collect[analysis]', with Python 3.11 or later"
    return needed(f"this call needs {package}: {get}")


def processors() -> int:
    """Processors that this process may use: a container or a job may have few of many."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_device(device: str) -> None:
    """Refuse what is neither the CPU nor a CUDA device that is there."""
    if device == "cpu":
        return
    with needed(f"device {device!r} needs torch"):
        import torch
    try:
        asked = torch.device(device)
    except RuntimeError as error:
        raise InputError(f'device: expected "cpu" or "cuda:0", got {device!r}') from error
    seen = torch.cuda.device_count() if asked.type == "cuda" else 0
    if (asked.index or 0) >= seen:
        raise InputError(f"device: expected cpu, or a CUDA device that torch sees, got {device!r}")
