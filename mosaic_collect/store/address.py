"""From what a user writes to where a store lies."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence

from mosaic_collect.checks import local_path
from mosaic_collect.errors import InputError
from mosaic_collect.store.blobs import Blobs
from mosaic_collect.store.posix import PosixBlobs

#: A store's place.
Address = str | os.PathLike[str] | Blobs
#: One store's place, or those of several.
Addresses = Address | Sequence[Address]


def blobs_at(where: Address, name: str = "path") -> Blobs:
    """The blobs of the store at a path, made absolute now, or those that are given.

    A working directory that changes later makes no difference.

    Args:
        where: The place.
        name: The argument's name, for errors.

    Raises:
        InputError: No name of a folder, a URL, or a zip archive.
    """
    if isinstance(where, Blobs):
        return where
    path = os.path.abspath(local_path(where, name))
    if os.path.isfile(path) and zipfile.is_zipfile(path):
        raise InputError(
            f"{name}: expected a store's folder, got the zip archive {path}: unpack it first, such "
            f"as by python -m zipfile -e {path} FOLDER"
        )
    return PosixBlobs(path)


def blobs_of_each(where: Addresses, name: str = "store") -> list[Blobs]:
    """The blobs of one store, or of several; errors as ``blobs_at``'s."""
    several = where if isinstance(where, Sequence) and not isinstance(where, str) else [where]
    return [blobs_at(place, name) for place in several]
