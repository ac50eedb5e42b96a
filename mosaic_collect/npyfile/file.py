"""What was found in a ``.npy`` file that holds a dict, its arrays' values left where they lie."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from mosaic_collect.errors import CorruptExportError


@dataclass(frozen=True)
class StoredArray:
    """Where an array's values lie in a file: ``nbytes`` from ``offset`` on, C order."""

    offset: int
    nbytes: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class NpyFile:
    """What a file holds.

    Attributes:
        path: The file.
        nbytes: Its size.
        arrays: Key -> array.
        plain: Other keys and their values, of plain Python types.
    """

    path: str
    nbytes: int
    arrays: dict[str, StoredArray]
    plain: dict[str, Any]


def read_into(fd: int, buffer: memoryview, offset: int, path: str) -> None:
    """Fill the buffer from a file's bytes.

    Raises:
        CorruptExportError: There are fewer; ``path`` names the file.
    """
    while len(buffer):
        nbytes = os.preadv(fd, [buffer], offset)
        if not nbytes:
            raise changed(path)
        buffer, offset = buffer[nbytes:], offset + nbytes


def changed(path: str) -> CorruptExportError:
    """A file is not any more what was looked into."""
    return CorruptExportError(f"{path}: was changed while it was being read")
