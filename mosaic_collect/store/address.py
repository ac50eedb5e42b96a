"""From what a user writes to where a store lies."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Union

from mosaic_collect.checks import local_path
from mosaic_collect.errors import InputError
from mosaic_collect.store.blobs import Blobs
from mosaic_collect.store.posix import PosixBlobs
from mosaic_collect.store.urls import blobs_at_url, blobs_in, is_store_object, is_url

if TYPE_CHECKING:
    from obstore.store import ObjectStore
else:
    ObjectStore = Any

#: A store's place: a path, a URL of object storage, or a store object of obstore.
Address = Union[str, os.PathLike[str], Blobs, ObjectStore]  # noqa: UP007  obstore's is no type at run time
#: One store's place, or those of several.
Addresses = Union[Address, Sequence[Address]]  # noqa: UP007


def blobs_at(where: Address, name: str = "path") -> Blobs:
    """The blobs of the store at a path, made absolute now, at a URL, or those that are given.

    A working directory that changes later makes no difference.

    Args:
        where: The place.
        name: The argument's name, for errors.

    Raises:
        InputError: No name of a folder, a URL of no object storage, or a zip archive.
        MissingDependencyError: Object storage, and obstore is not installed.
    """
    if isinstance(where, Blobs):
        return where
    if is_store_object(where):
        return blobs_in(where, name)
    if is_url(where):
        return blobs_at_url(str(where), name)
    path = os.path.abspath(local_path(where, name))
    if os.path.isfile(path) and zipfile.is_zipfile(path):
        raise InputError(
            f"{name}: expected a store's folder, got the zip archive {path}: unpack it first, such "
            f"as by python -m zipfile -e {path} FOLDER"
        )
    return PosixBlobs(path)
