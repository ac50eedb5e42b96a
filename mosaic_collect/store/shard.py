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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import LFS_MOST_NBYTES, LFS_NBYTES, lfs_pointer
from mosaic_collect.errors import CorruptStoreError
from mosaic_collect.store.blobs import Blob, Blobs, ReplacedError
from mosaic_collect.store.codec import CRC_NBYTES, Compressor, checked, crc_bytes
from mosaic_collect.store.grid import FieldGrid
from mosaic_collect.store.label import LABEL_NBYTES, ShardLabel

_ABSENT = np.uint64(2**64 - 1)


#: A chunk's payload as buffers, its checksum, and its number of pairs that hold NaN or infinity.
Encoded = tuple[Sequence[Any], bytes, int]


def write_chunks(
    encoded: Iterable[Encoded], write: Callable[[list[Any]], None], start: int = 0
) -> tuple[int, int]:
    """Write one shard: encoded chunks in order, then the index.

    Args:
        encoded: All chunks of the shard.
        write: Takes a list of buffers and appends them to the file.
        start: Bytes that the file holds already.

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


#: A shard's blob and index, of one content.
_Opened = tuple[Blob, NDArray[np.uint64]]


class ShardReader:
    """One open shard. Whoever replaces it meanwhile does not disturb this reader.

    Committed rows are the same in whatever replaces it, so where the medium keeps no older content
    the newer one is opened.

    Args:
        blobs: Files of the store.
        grid: The field's cutting.
        codec: For the chunks.
        block: Number of the block.
        problem: Tells of a label why the shard does not belong there; None: nobody asks.

    Attributes:
        what: Names the shard in errors.

    Raises:
        CorruptStoreError: The shard is missing, its index damaged or pointing out of it, or it
            does not belong there.
        OSError: The system does not let us read it; names the place, as ``read`` does.
    """

    def __init__(
        self,
        blobs: Blobs,
        grid: FieldGrid,
        codec: Compressor,
        block: int,
        problem: Callable[[ShardLabel], str | None] | None = None,
    ) -> None:
        self._grid, self._codec, self._problem = grid, codec, problem
        self._blobs, self._key = blobs, grid.shard_key(block)
        self.what = f"{blobs.address}: {grid.field.name}, block {block}"
        self._opening = threading.Lock()
        self._opened = self._open_whole()

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
        what = f"{self.what}, chunk {chunk}"
        data, nbytes = self._fetch(chunk)
        if data is None:
            out[...] = self._grid.field.fill_value
            return
        if len(data) != nbytes:
            raise CorruptStoreError(
                f"{what}: expected {nbytes} bytes, the file ends after {len(data)}"
            )
        self._codec.decode(memoryview(data), out, what)

    def whole(self) -> bytes:
        """The shard as it is stored; every chunk's checksum was looked at.

        Raises:
            CorruptStoreError: A chunk's bytes are damaged.
        """
        opened = blob, index = self._opened
        try:
            data = blob.read(0, blob.nbytes)
        except ReplacedError:
            self._reopen(opened)
            return self.whole()
        for chunk, (offset, nbytes) in enumerate(index.tolist()):
            if offset != _ABSENT:
                stored = memoryview(data)[offset : offset + nbytes]
                checked(stored, f"{self.what}, chunk {chunk}")
        return data

    def _fetch(self, chunk: int) -> tuple[bytes | None, int]:
        """A chunk's stored bytes, None if it is absent; and how many they should be."""
        while True:
            opened = blob, index = self._opened
            offset, nbytes = (int(v) for v in index[chunk])
            if offset == _ABSENT:
                return None, 0
            try:
                return blob.read(offset, nbytes), nbytes
            except ReplacedError:
                self._reopen(opened)

    def _reopen(self, old: _Opened) -> None:
        with self._opening:
            if self._opened is old:
                self._opened = self._open_whole()
        old[0].close()

    def _open_whole(self) -> _Opened:
        """The blob, once its index and label are good."""
        while True:
            blob = self._open()
            try:
                index = self._read_index(blob)
                label = blob.read(0, LABEL_NBYTES) if self._problem else b""
                if self._problem and (words := self._problem(ShardLabel.unpack(label, self.what))):
                    raise CorruptStoreError(
                        f"{self.what}: the shard does not belong there: {words}"
                    )
            except ReplacedError:
                blob.close()
            except BaseException:
                blob.close()
                raise
            else:
                return blob, index

    def _open(self) -> Blob:
        key = self._key
        try:
            return self._blobs.open(key)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise CorruptStoreError(f"{self.what}: the file {key} is missing") from error
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ELOOP):
                raise CorruptStoreError(f"{self.what}: {key}: {error.strerror}") from error
            raise

    def _read_index(self, blob: Blob) -> NDArray[np.uint64]:
        chunks = self._grid.chunks
        nbytes = 16 * chunks + CRC_NBYTES
        size = blob.nbytes
        if size <= LFS_MOST_NBYTES and (words := lfs_pointer(blob.read(0, LFS_NBYTES))):
            raise CorruptStoreError(f"{self.what}: {self._key} is {words}")
        if size < nbytes:
            raise CorruptStoreError(f"{self.what}: {size} bytes cannot hold an index of {nbytes}")
        raw = memoryview(blob.read(size - nbytes, nbytes))
        table = np.frombuffer(checked(raw, f"{self.what}, index"), dtype="<u8")
        index = table.reshape(chunks, 2).astype(np.uint64)
        self._check_index(index, size - nbytes)
        return index

    def _check_index(self, index: NDArray[np.uint64], end: int) -> None:
        absent = (index == _ABSENT).all(axis=1)
        offsets, sizes = index[:, 0], index[:, 1]
        # Compared one by one, as offset + size could wrap around.
        inside = (
            (offsets <= end) & (sizes <= end) & (sizes <= np.uint64(end) - np.minimum(offsets, end))
        )
        if not (inside | absent).all():
            bad = int(np.flatnonzero(~(inside | absent))[0])
            raise CorruptStoreError(f"{self.what}, index: chunk {bad} lies outside the file")
