"""From what a user writes to where a store lies."""

from __future__ import annotations

import os

from mosaic_collect.errors import InputError
from mosaic_collect.store.blobs import Blobs
from mosaic_collect.store.posix import PosixBlobs

Address = str | os.PathLike[str] | Blobs


def blobs_at(where: Address) -> Blobs:
    """The blobs of the store at a path, made absolute now, or those that are given.

    A working directory that changes later makes no difference.

    Raises:
        InputError: No name of a folder.
    """
    if isinstance(where, Blobs):
        return where
    path = os.fspath(where) if isinstance(where, os.PathLike) else where
    if not isinstance(path, str) or not path or "\0" in path:
        raise InputError(f"path: expected the name of a folder, got {path!r}")
    return PosixBlobs(os.path.abspath(path))
