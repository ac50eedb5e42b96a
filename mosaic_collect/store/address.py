"""From what a user writes to where a store lies."""

from __future__ import annotations

import os
import zipfile

from mosaic_collect.checks import local_path
from mosaic_collect.errors import InputError
from mosaic_collect.store.blobs import Blobs
from mosaic_collect.store.posix import PosixBlobs

Address = str | os.PathLike[str] | Blobs


def blobs_at(where: Address) -> Blobs:
    """The blobs of the store at a path, made absolute now, or those that are given.

    A working directory that changes later makes no difference.

    Raises:
        InputError: No name of a folder, a URL, or a zip archive.
    """
    if isinstance(where, Blobs):
        return where
    path = os.path.abspath(local_path(where, "path"))
    if os.path.isfile(path) and zipfile.is_zipfile(path):
        raise InputError(
            f"path: expected a store's folder, got the zip archive {path}: unpack it first, such "
            f"as by python -m zipfile -e {path} FOLDER"
        )
    return PosixBlobs(path)
