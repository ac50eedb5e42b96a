"""Shard bytes: chunks, then an index, as Zarr v3's ``sharding_indexed`` codec lays them out.

    ┌───────┬─────────┬─────┬─────────┬─────┬───┬────────────────────────────┬─────┐
    │ label │ chunk 0 │ crc │ chunk 1 │ crc │ … │ (offset, nbytes) per chunk │ crc │
    └───────┴─────────┴─────┴─────────┴─────┴───┴────────────────────────────┴─────┘
     64 bytes, ``label``                          uint64 LE each, 16·chunks   4 bytes

Offsets count from the start of the file, so other readers pass over the label.

A chunk that is all fill value may be absent: both numbers are 2**64-1 then. This package never
writes one so, but reads it. Format: zarr-specs.readthedocs.io, v3 codec "sharding-indexed" 1.0.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import LFS_MOST_NBYTES, LFS_NBYTES, lfs_pointer
from mosaic_collect.errors import CorruptStoreError
from mosaic_collect.store.blobs import Blob, Blobs, ReplacedError
from mosaic_collect.store.codec import CRC_NBYTES, checked, crc_bytes
from mosaic_collect.store.label import LABEL_NBYTES, ShardLabel
from mosaic_collect.store.metadata import StoreState

T = TypeVar("T")
_ABSENT = 2**64 - 1
#: A chunk's payload as buffers, its checksum, and its number of pairs that hold NaN or infinity.
Encoded = tuple[Sequence[Any], bytes, int]


def write_chunks(
    encoded: Iterable[Encoded], write: Callable[[list[Any]], None], start: int = 0
) -> tuple[int, int]:
    """Append a shard's encoded chunks in order, then the index, to the ``start`` bytes of a file.

    Returns:
        Bytes of the file then, and pairs that hold NaN or infinity.
    """
    index: list[tuple[int, int]] = []
    offset, nonfinite = start, 0
    for buffers, crc, found in encoded:
        write([*buffers, crc])
        nbytes = sum(map(len, buffers)) + CRC_NBYTES
        index.append((offset, nbytes))
        offset += nbytes
        nonfinite += found
    table = np.array(index, dtype="<u8").tobytes()
    write([table, crc_bytes(table)])
    return offset + len(table) + CRC_NBYTES, nonfinite


class ShardReader:
    """One open shard of a store in a state, to which it must belong.

    Whoever replaces it meanwhile does not disturb this reader: committed rows are the same in
    whatever replaces it, so where the medium keeps no older content the newer one is opened.

    Raises:
        CorruptStoreError: The shard is missing, its index damaged or pointing out of it, or it
            does not belong there.
        OSError: The system does not let us read it; names the place, as ``read`` does.
    """

    def __init__(self, blobs: Blobs, state: StoreState, field: str, block: int) -> None:
        self._blobs, self._state, self._block = blobs, state, block
        self._grid = state.grid(field)
        self._what = f"{blobs.address}: {field}, block {block}"
        self._opening = threading.Lock()
        self._opened = self._open()

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._opened[0].close()

    def stored_nbytes(self, chunk: int) -> int:
        """Bytes the chunk takes in the file; 0 if it is absent."""
        offset, nbytes = self._opened[1][chunk]
        return 0 if offset == _ABSENT else int(nbytes)

    def read(self, chunk: int, out: NDArray[Any]) -> None:
        """Decode one chunk into C-contiguous ``out``, shape ``(chunk_envs, chunk_steps[, dim])``.

        Raises:
            CorruptStoreError: The chunk's bytes are damaged.
        """
        what = f"{self._what}, chunk {chunk}"

        def fetch(blob: Blob, index: NDArray[np.uint64]) -> memoryview | None:
            offset, nbytes = index[chunk].tolist()
            if offset == _ABSENT:
                return None
            data = blob.read(offset, nbytes)
            if len(data) != nbytes:
                raise CorruptStoreError(
                    f"{what}: expected {nbytes} bytes, the file ends after {len(data)}"
                )
            return memoryview(data)

        data = self._newest(fetch)
        if data is None:
            out[...] = self._grid.field.fill_value
        else:
            self._state.compressor.decode(data, out, what)

    def whole(self) -> bytes:
        """The shard as it is stored; every chunk's checksum was looked at.

        Raises:
            CorruptStoreError: A chunk's bytes are damaged.
        """
        data, index = self._newest(lambda blob, index: (blob.read(0, blob.nbytes), index))
        for chunk, (offset, nbytes) in enumerate(index.tolist()):
            if offset != _ABSENT:
                stored = memoryview(data)[offset : offset + nbytes]
                checked(stored, f"{self._what}, chunk {chunk}")
        return data

    def _newest(self, read: Callable[[Blob, NDArray[np.uint64]], T]) -> T:
        """Read from the blob; from the one that replaced it where the medium keeps no older one."""
        while True:
            opened = self._opened
            try:
                return read(*opened)
            except ReplacedError:
                with self._opening:
                    if self._opened is opened:
                        self._opened = self._open()
                opened[0].close()

    def _open(self) -> tuple[Blob, NDArray[np.uint64]]:
        """Open the blob, and read its index; its label is checked, too."""
        key = self._grid.shard_key(self._block)
        try:
            blob = self._blobs.open(key)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise CorruptStoreError(f"{self._what}: the file {key} is missing") from error
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ELOOP):
                raise CorruptStoreError(f"{self._what}: {key}: {error.strerror}") from error
            raise
        try:
            index = self._read_index(blob)
            label = ShardLabel.unpack(blob.read(0, LABEL_NBYTES), self._what)
            if words := label.problem(self._state, self._grid.field.name, self._block):
                raise CorruptStoreError(f"{self._what}: the shard does not belong there: {words}")
        except ReplacedError:
            blob.close()
            return self._open()
        except BaseException:
            blob.close()
            raise
        return blob, index

    def _read_index(self, blob: Blob) -> NDArray[np.uint64]:
        chunks = self._grid.chunks
        nbytes, end = 16 * chunks + CRC_NBYTES, blob.nbytes - 16 * chunks - CRC_NBYTES
        if blob.nbytes <= LFS_MOST_NBYTES and (words := lfs_pointer(blob.read(0, LFS_NBYTES))):
            key = self._grid.shard_key(self._block)
            raise CorruptStoreError(f"{self._what}: {key} is {words}")
        if end < 0:
            raise CorruptStoreError(
                f"{self._what}: {blob.nbytes} bytes cannot hold an index of {nbytes}"
            )
        table = checked(memoryview(blob.read(end, nbytes)), f"{self._what}, index")
        index = np.frombuffer(table, "<u8").reshape(chunks, 2)
        offsets, sizes = index[:, 0], index[:, 1]
        # Without offset + size, which could wrap around.
        inside = (offsets <= end) & (sizes <= np.uint64(end) - np.minimum(offsets, np.uint64(end)))
        bad = np.flatnonzero(~(inside | (index == _ABSENT).all(axis=1)))
        if len(bad):
            raise CorruptStoreError(f"{self._what}, index: chunk {bad[0]} lies outside the file")
        return index
