"""Shard bytes: a label, then chunks and an index as of Zarr v3's ``sharding_indexed`` codec.

    ┌───────┬─────────┬─────┬─────────┬─────┬───┬────────────────────────────┬─────┐
    │ label │ chunk 0 │ crc │ chunk 1 │ crc │ … │ (offset, nbytes) per chunk │ crc │
    └───────┴─────────┴─────┴─────────┴─────┴───┴────────────────────────────┴─────┘
     64 bytes                                     uint64 LE each, 16·chunks   4 bytes

Offsets count from the start of the file, so other readers pass over the label.

A chunk that is all fill value may be absent: both numbers are 2**64-1 then. This package never
writes one so, but reads it. Format: zarr-specs.readthedocs.io, v3 codec "sharding-indexed" 1.0.

The label says whose the shard is, which checksums do not tell: a shard of another recording, block
or field, or an older copy, would be a wrong pair in its place.

    0        8               24       32       40       48    50    52     56    60    64
    ┌────────┬───────────────┬────────┬────────┬────────┬─────┬─────┬──────┬─────┬─────┐
    │ magic  │ store         │ run    │ block  │ rows   │field│  0  │ twins│  0  │ crc │
    └────────┴───────────────┴────────┴────────┴────────┴─────┴─────┴──────┴─────┴─────┘
      8 B      16 B            8 B      uint64   uint64  uint16      uint32        CRC-32C

``twins`` has bit i for the i-th of the fields whose ``default`` is this one: they share the file.
"""

from __future__ import annotations

import errno
import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import LFS_MOST_NBYTES, LFS_NBYTES, lfs_pointer
from mosaic_collect.errors import CorruptStoreError
from mosaic_collect.store.blobs import Blob, Blobs, ReplacedError
from mosaic_collect.store.codec import CRC_NBYTES, checked, crc_bytes
from mosaic_collect.store.metadata import StoreState

T = TypeVar("T")
_ABSENT = 2**64 - 1
#: A chunk's payload as buffers, its checksum, and its number of pairs that hold NaN or infinity.
Encoded = tuple[Sequence[Any], bytes, int]
_MAGIC = b"MCshard\x02"  # its last byte is the format version
_PARTS = struct.Struct("<8s16s8sQQHHII")
LABEL_NBYTES = _PARTS.size + CRC_NBYTES
#: Fields of one default that a label has places for; others never share.
MOST_TWINS = 32


@dataclass(frozen=True)
class ShardLabel:
    """The label of one shard.

    Attributes:
        store: ``StoreState.identity``.
        run: ``Run.key`` of the writer.
        block: Number of the block.
        rows: Steps of the block that held rows when it was written.
        field: Place of its field among all stored ones.
        twins: Bits of the fields that share the file, as drawn above.
    """

    store: str
    run: str
    block: int
    rows: int
    field: int
    twins: int = 0

    @classmethod
    def of(cls, state: StoreState, name: str, block: int, twins: Iterable[str] = ()) -> ShardLabel:
        """Label of a shard that is about to be written, with the state of the store after that."""
        bits = sum(1 << _sharing(state, name).index(twin) for twin in twins)
        rows, place = len(state.steps_of(block)), state.schema.stored_names.index(name)
        return cls(state.identity, state.runs[-1].key, block, rows, place, bits)

    def pack(self) -> bytes:
        """Bytes of the label, 64."""
        store, run = bytes.fromhex(self.store), bytes.fromhex(self.run)
        numbers = (self.block, self.rows, self.field, 0, self.twins, 0)
        data = _PARTS.pack(_MAGIC, store, run, *numbers)
        return data + crc_bytes(data)

    @classmethod
    def unpack(cls, data: bytes, what: str) -> ShardLabel:
        """Read the label from a shard's first 64 bytes; ``what`` names the shard in errors.

        Raises:
            CorruptStoreError: There is no label, or a damaged one.
        """
        if len(data) < LABEL_NBYTES or data[:8] != _MAGIC:
            raise CorruptStoreError(
                f"{what}, label: there is none (another tool wrote it) or it is damaged"
            )
        parts = _PARTS.unpack(checked(memoryview(data), f"{what}, label"))
        _, store, run, block, rows, field, _, twins, _ = parts
        return cls(store.hex(), run.hex(), block, rows, field, twins)

    def problem(self, state: StoreState, name: str, block: int) -> str | None:
        """Why the shard does not belong to this field and block; None if it does."""
        if self.store != state.identity:
            return f"it belongs to another recording ({self.store}), not to this ({state.identity})"
        if not self._is_of(state, name):
            names = state.schema.stored_names
            whose = names[self.field] if self.field < len(names) else f"number {self.field}"
            return f"it holds the field {whose}"
        if self.block != block:
            return f"it is block {self.block}"
        steps = state.steps_of(block)
        if self.rows < len(steps):
            return f"it is older than the last commit: {self.rows} steps, committed {len(steps)}"
        return None if self._run_fits(state, steps) else f"it is of another run ({self.run})"

    def _is_of(self, state: StoreState, name: str) -> bool:
        names = state.schema.stored_names
        if self.field == names.index(name):
            return True
        source = state.schema[name].default
        if not isinstance(source, str) or self.field != names.index(source):
            return False
        return bool(self.twins >> _sharing(state, source).index(name) & 1)

    def _run_fits(self, state: StoreState, steps: range) -> bool:
        """A block's last row says which run wrote it.

        A partial block may be newer than its commit: of a run that was killed before it committed,
        or one whose steps nobody committed, since another writer took its place.
        """
        last = [run.key for run, span in state.spans() if steps and steps[-1] in span]
        keys = {run.key for run, span in state.spans() if span.start < state.committed_steps}
        return self.run in last or (len(steps) < state.block_steps and self.run not in keys)


def _sharing(state: StoreState, source: str) -> list[str]:
    """Fields whose default is this one, in order."""
    return [field.name for field in state.schema.fields if field.default == source]


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
