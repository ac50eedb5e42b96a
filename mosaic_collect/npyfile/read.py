"""All that a ``.npy`` dict holds, in memory, without unpickling it."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import CorruptExportError
from mosaic_collect.npyfile.file import StoredArray, read_into
from mosaic_collect.npyfile.scan import scan_npy
from mosaic_collect.npyfile.standins import Array, Extent, Global
from mosaic_collect.store.files import open_regular
from mosaic_collect.text import shown

_PLAIN = (str, int, float, bool, type(None))


def read_npy(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What ``np.load(path, allow_pickle=True).item()`` gives: arrays and plain values alone.

    Raises:
        FileNotFoundError: No such file.
        CorruptExportError: Torn, hostile, or with other things in it; the message names which.
    """
    file = scan_npy(path)
    fd = open_regular(file.path)
    try:
        values = _Values(fd, file.path)
        arrays = {name: values.array(stored) for name, stored in file.arrays.items()}
        return {**arrays, **{name: values.solid(value) for name, value in file.plain.items()}}
    except RecursionError as error:
        raise CorruptExportError(f"{file.path}: nested too deeply") from error
    finally:
        os.close(fd)


class _Values:
    """Reads values, each byte and each container once, however often the file speaks of it."""

    def __init__(self, fd: int, path: str) -> None:
        self._fd, self._path = fd, path
        self._bytes: dict[tuple[int, int], NDArray[np.uint8]] = {}  # by offset and size
        self._made: dict[int, Any] = {}  # by the stand-in's id

    def array(self, stored: StoredArray) -> NDArray[Any]:
        """An array's values."""
        data = self._read(stored.offset, stored.nbytes)
        if stored.dtype.kind == "b" and data.max(initial=0) > 1:
            raise CorruptExportError(f"{self._path}: expected bool, got a byte of {data.max()}")
        return data.view(stored.dtype).reshape(stored.shape)

    def solid(self, value: Any) -> Any:
        """A plain value, with arrays and byte strings where stand-ins were."""
        if isinstance(value, _PLAIN):
            return value
        if id(value) not in self._made:
            self._make(value)
        return self._made[id(value)]

    def _make(self, value: Any) -> None:
        made: Any
        if isinstance(value, (dict, list)):
            made = self._made[id(value)] = type(value)()  # before its inside, which may hold it
            if isinstance(value, dict):
                made.update((key, self.solid(inner)) for key, inner in value.items())
            else:
                made.extend(map(self.solid, value))
        elif isinstance(value, tuple):
            made = tuple(map(self.solid, value))
        elif isinstance(value, Array):
            made = self.array(value.stored(f"{self._path}: metadata"))
        elif isinstance(value, Extent):
            made = self._read(value.offset, value.nbytes).tobytes()
        else:
            told = value.plain if isinstance(value, Global) else value
            raise CorruptExportError(
                f"{self._path}: expected arrays and plain values, got {shown(told)}"
            )
        self._made[id(value)] = made

    def _read(self, offset: int, nbytes: int) -> NDArray[np.uint8]:
        if (offset, nbytes) not in self._bytes:
            data = np.empty(nbytes, np.uint8)
            read_into(self._fd, data.data, offset, self._path)
            self._bytes[offset, nbytes] = data
        return self._bytes[offset, nbytes]
