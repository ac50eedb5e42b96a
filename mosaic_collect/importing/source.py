"""An ``.npy`` file while it is being imported: read in bounded pieces, and held to be one file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import CorruptExportError
from mosaic_collect.importing.contents import Contents, check_contents
from mosaic_collect.npyfile.read import StoredArray, changed, read_into, scan_npy
from mosaic_collect.store.files import open_regular
from mosaic_collect.store.schema import TRAJECTORY_ID, VALID_MASK

#: Bytes to read at once, of all fields together, or of one step if that is more.
READ_NBYTES = 8 << 20

Progress = Callable[[int], object]


class SourceFile:
    """An open file whose contents were checked.

    Args:
        path: The file; nothing in it is executed.

    Raises:
        FileNotFoundError: No such file.
        CorruptExportError: Torn, hostile, or of another kind.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.contents: Contents = check_contents(scan_npy(path))
        self._fd = open_regular(path)
        self._stat = os.fstat(self._fd)
        if self._stat.st_size != self.contents.file.nbytes:
            self.close()
            raise changed(self.path)

    def __enter__(self) -> SourceFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def sha256(self, progress: Progress) -> str:
        """The digest of the whole file, read once from end to end."""
        digest = hashlib.sha256()
        buffer = bytearray(min(READ_NBYTES, self._stat.st_size))
        for start in range(0, self._stat.st_size, len(buffer)):
            piece = memoryview(buffer)[: self._stat.st_size - start]
            read_into(self._fd, piece, start, self.path)
            digest.update(piece)
            progress(len(piece))
        return digest.hexdigest()

    def pieces(self, first_step: int = 0) -> Iterator[dict[str, NDArray[Any]]]:
        """All steps from one on, some at a time: per field and mask ``(steps, N[, D])``.

        The caller may keep no piece longer than until the next.
        """
        arrays = dict(self.contents.arrays)
        if self.contents.mask is not None:
            arrays[VALID_MASK] = self.contents.mask
        yield from self._pieces(arrays, first_step)

    def check_values(self) -> bool:
        """Look at what says how the others are to be read: bools, and trajectory ids.

        Returns:
            Whether trajectories lie apart: in no environment do ids ever fall, so each change of
            an id is the end of a trajectory. False, too, if the file has no ids.

        Raises:
            CorruptExportError: A bool that is neither 0 nor 1.
        """
        for key, array in self.contents.file.arrays.items():
            if array.dtype.kind == "b":
                self._check_bools(key, array)
        return self.contents.id_field is not None and self._ids_never_fall()

    def check_unchanged(self) -> None:
        """Refuse to have read a file while somebody wrote it.

        Raises:
            CorruptExportError: It was changed since it was opened.
        """
        now = os.fstat(self._fd)
        if (now.st_size, now.st_mtime_ns) != (self._stat.st_size, self._stat.st_mtime_ns):
            raise changed(self.path)

    def _check_bools(self, key: str, array: StoredArray) -> None:
        as_bytes = StoredArray(array.offset, array.nbytes, array.shape, np.dtype("u1"))
        for piece in self._pieces({key: as_bytes}):
            largest = int(piece[key].max())
            if largest > 1:
                raise CorruptExportError(
                    f"{self.path}: {key}: expected bool, got a byte of {largest}"
                )

    def _ids_never_fall(self) -> bool:
        last = None
        for piece in self._pieces({TRAJECTORY_ID: self.contents.file.arrays[TRAJECTORY_ID]}):
            ids = piece[TRAJECTORY_ID]
            if (ids[1:] < ids[:-1]).any() or (last is not None and (ids[0] < last).any()):
                return False
            last = ids[-1].copy()
        return True

    def _pieces(
        self, arrays: dict[str, StoredArray], first_step: int = 0
    ) -> Iterator[dict[str, NDArray[Any]]]:
        num_steps = self.contents.num_steps
        step_nbytes = sum(array.nbytes for array in arrays.values()) // num_steps
        size = max(1, READ_NBYTES // step_nbytes)
        for start in range(first_step, num_steps, size):
            steps = range(start, min(start + size, num_steps))
            yield {name: self._steps(array, steps) for name, array in arrays.items()}

    def _steps(self, array: StoredArray, steps: range) -> NDArray[Any]:
        out = np.empty((len(steps), *array.shape[1:]), array.dtype)
        first = array.offset + steps.start * (array.nbytes // array.shape[0])
        read_into(self._fd, out.reshape(-1).view(np.uint8).data, first, self.path)
        return out
