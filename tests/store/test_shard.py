"""Shard files: chunks and index, absent chunks, and an index that lies."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from mosaic_collect.errors import CorruptStoreError
from mosaic_collect.store.codec import Compressor, crc_bytes
from mosaic_collect.store.posix import PosixBlobs
from mosaic_collect.store.schema import Field
from mosaic_collect.store.shard import ShardReader
from tests.helpers import one_block, one_shard

STATE = one_block(Field(name="a", dim=2, dtype="int32"), Compressor.named("lz4"), 5, 3)
GRID = STATE.grid("a")
BLOCK = np.arange(np.prod(GRID.buffer_shape), dtype=np.int32).reshape(GRID.buffer_shape)
ABSENT = 2**64 - 1


def shard_bytes() -> bytes:
    return one_shard(STATE, "a", [BLOCK[i : i + 2] for i in range(0, 6, 2)])


def with_index(data: bytes, index: list[tuple[int, int]]) -> bytes:
    table = b"".join(struct.pack("<QQ", *entry) for entry in index)
    return data[: -(16 * 3 + 4)] + table + crc_bytes(table)


def index_of(data: bytes) -> list[tuple[int, int]]:
    return list(struct.iter_unpack("<QQ", data[-(16 * 3 + 4) : -4]))


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "a").mkdir()
    return str(tmp_path / GRID.shard_key(0))


def open_bytes(path: str, data: bytes) -> ShardReader:
    Path(path).write_bytes(data)
    return ShardReader(PosixBlobs(str(Path(path).parents[1])), STATE, "a", 0)


def read(reader: ShardReader, chunk: int) -> np.ndarray:
    out = np.empty(GRID.chunk_shape, np.int32)
    reader.read(chunk, out)
    return out


def test_chunks_come_back_in_any_order(path: str) -> None:
    data = shard_bytes()
    with open_bytes(path, data) as reader:
        for chunk in (2, 0, 1):
            np.testing.assert_array_equal(read(reader, chunk), BLOCK[2 * chunk : 2 * chunk + 2])
            assert reader.stored_nbytes(chunk) == index_of(data)[chunk][1]


def test_an_absent_chunk_is_fill_value(path: str) -> None:
    data = shard_bytes()
    entries = index_of(data)
    with open_bytes(path, with_index(data, [entries[0], (ABSENT, ABSENT), entries[2]])) as reader:
        assert not read(reader, 1).any()
        assert reader.stored_nbytes(1) == 0
        np.testing.assert_array_equal(read(reader, 2), BLOCK[4:6])


@pytest.mark.parametrize("length", [0, 1, 51])
def test_a_file_too_short_for_an_index_is_corruption(path: str, length: int) -> None:
    with pytest.raises(CorruptStoreError, match="cannot hold an index"):
        open_bytes(path, b"\0" * length)


@pytest.mark.parametrize(
    "lie",
    [
        *((10**6, 10), (0, 10**6), (ABSENT - 5, 10)),
        *((10, ABSENT), (ABSENT, 10), (2**63, 2**63)),
    ],
)
def test_an_index_that_points_out_of_the_file_is_refused(path: str, lie: tuple[int, int]) -> None:
    data = shard_bytes()
    entries = index_of(data)
    with pytest.raises(CorruptStoreError, match="chunk 1 lies outside"):
        open_bytes(path, with_index(data, [entries[0], lie, entries[2]]))


def test_a_replaced_file_does_not_disturb_its_reader(path: str) -> None:
    with open_bytes(path, shard_bytes()) as reader:
        Path(path + ".new").write_bytes(b"other")
        os.replace(path + ".new", path)
        np.testing.assert_array_equal(read(reader, 0), BLOCK[:2])


def test_descriptors_are_closed_whatever_happens(path: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with open_bytes(path, shard_bytes()):
        pass
    with pytest.raises(CorruptStoreError):
        open_bytes(path, b"\0" * 100)
    assert len(os.listdir("/proc/self/fd")) == before
