"""Promise 4: a flipped bit anywhere in a data file is reported with its place, the rest is read."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest

from mosaic_collect import Field, Schema, TrajectoryDataset
from mosaic_collect.errors import CorruptStoreError, StoreError
from mosaic_collect.reading.verify import verify_store
from mosaic_collect.store.codec import CODECS
from mosaic_collect.store.shard import LABEL_NBYTES
from tests.durability.figures import count
from tests.durability.rig import add_tiny, check_resume, open_tiny
from tests.helpers import assert_holds, open_writer, rows

STEPS, BLOCK, ENVS = 5, 2, 5
SCHEMA = Schema((Field(name="wide", dim=9), Field(name="flat", dtype="int32")))
CRC = 4
KINDS = ("label", "data", "chunk checksum", "index", "index checksum")


@dataclass(frozen=True)
class Place:
    """A byte of a shard.

    Attributes:
        kind: Which class of byte it is.
        chunk: The chunk it belongs to; None for label and index, which belong to all.
    """

    kind: str
    chunk: int | None

    @property
    def words(self) -> str:
        """How a message names it."""
        return self.kind.split()[0] if self.chunk is None else f"chunk {self.chunk}"


@pytest.fixture(params=CODECS)
def flipped_store(request: pytest.FixtureRequest, ram_store: str, small_chunks: int) -> str:
    """Three blocks of two steps, the last half full; several chunks a shard."""
    with open_writer(ram_store, ENVS, SCHEMA, BLOCK, compressor=request.param) as writer:
        for step in range(STEPS):
            writer.add_step(**rows(step, ENVS, SCHEMA))
    assert TrajectoryDataset(ram_store).state.grid("wide").chunks > 2
    return ram_store


@contextmanager
def flipped(path: str, at: int, bit: int) -> Iterator[None]:
    """The file with one bit of one byte turned over."""
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))
        file.flush()
        yield
        file.seek(at)
        file.write(bytes([byte]))


def places(path: str, chunks: int) -> list[Place]:
    """What each byte of a shard is, in order."""
    with open(path, "rb") as file:
        data = file.read()
    index = data[-16 * chunks - CRC : -CRC]
    found = [Place("label", None)] * LABEL_NBYTES
    for chunk in range(chunks):
        offset, nbytes = struct.unpack_from("<QQ", index, 16 * chunk)
        assert offset == len(found)
        found += [Place("data", chunk)] * (nbytes - CRC) + [Place("chunk checksum", chunk)] * CRC
    return found + [Place("index", None)] * len(index) + [Place("index checksum", None)] * CRC


def shards(dataset: TrajectoryDataset) -> Iterator[tuple[str, int, str, list[Place]]]:
    for name, grid in dataset.state.grids().items():
        for block in range(dataset.state.num_blocks):
            path = os.path.join(dataset.path, name, grid.shard_name(block))
            yield name, block, path, places(path, grid.chunks)


def test_every_byte_of_every_shard(flipped_store: str) -> None:
    dataset = TrajectoryDataset(flipped_store, threads=1)
    chance, seen = random.Random(1), dict.fromkeys(KINDS, 0)
    for name, block, path, kinds in shards(dataset):
        assert len(kinds) == os.path.getsize(path)
        for at, place in enumerate(kinds):
            with flipped(path, at, chance.randrange(8)):
                assert_reported(dataset, name, block, place)
            seen[place.kind] += 1
    assert all(seen.values())
    assert_holds(dataset, range(STEPS))
    for kind, number in seen.items():
        count(f"bits flipped, {kind}", number)


def assert_reported(dataset: TrajectoryDataset, name: str, block: int, place: Place) -> None:
    """Rows of the chunk are refused, and those of other chunks and blocks are read."""
    first, size = block * BLOCK, dataset.state.grid(name).chunk_envs
    chunk = place.chunk or 0
    with pytest.raises(CorruptStoreError) as caught:
        dataset.read(name, first, first + 1, slice(chunk * size, chunk * size + 1))
    assert f"{name}, block {block}, {place.words}" in str(caught.value)
    other = (block + 1) % 2 * BLOCK
    dataset.read(name, other, other + 1)
    if place.chunk is not None:
        after = dataset.read(name, first, first + 1, slice((chunk + 1) * size, None))
        assert after.shape[1] == max(0, ENVS - (chunk + 1) * size)


def test_zarr_python_reports_them_too(flipped_store: str) -> None:
    zarr = pytest.importorskip("zarr")
    dataset = TrajectoryDataset(flipped_store, threads=1)
    chance = random.Random(2)
    for name, block, path, kinds in shards(dataset):
        if block == 1:
            continue
        for kind in KINDS[1:]:  # a label is nothing to other readers
            at = chance.choice([i for i, p in enumerate(kinds) if p.kind == kind])
            with flipped(path, at, chance.randrange(8)):
                array = zarr.open_group(flipped_store, mode="r")[name]
                with pytest.raises(Exception, match=r"(?i)checksum|crc|mismatch"):
                    array[block * BLOCK : block * BLOCK + 1]
                array[BLOCK : 2 * BLOCK]


def test_verify_names_the_place(flipped_store: str) -> None:
    dataset = TrajectoryDataset(flipped_store, threads=1)
    chance = random.Random(3)
    for name, block, path, kinds in shards(dataset):
        for kind in KINDS:
            at = chance.choice([i for i, p in enumerate(kinds) if p.kind == kind])
            with flipped(path, at, chance.randrange(8)):
                report = verify_store(flipped_store)
            assert not report.ok
            words = report.problems[0]
            assert f"{name}, block {block}" in words
            assert kinds[at].words in words
            assert f"steps {block * BLOCK}" in words
    assert verify_store(flipped_store).ok


def test_a_shard_cut_off_anywhere_or_grown(flipped_store: str) -> None:
    dataset = TrajectoryDataset(flipped_store, threads=1)
    name, block, path, kinds = next(shards(dataset))
    with open(path, "rb") as file:
        data = file.read()
    for content in [*(data[:n] for n in range(len(kinds))), data + b"\0", data + data[:7]]:
        with open(path, "wb") as file:
            file.write(content)
        with pytest.raises(CorruptStoreError, match=f"{name}, block {block}"):
            dataset.read(name)


@pytest.mark.parametrize("bit", [0, 5])
def test_every_byte_of_the_root_document(ram_store: str, bit: int) -> None:
    """It opens as it was, where only what others read was hit, or it is refused."""
    with open_tiny(ram_store, metadata={"task": "walk", "n": 17}) as writer:
        add_tiny(writer, STEPS)
    state = TrajectoryDataset(ram_store).state
    path = os.path.join(ram_store, "zarr.json")
    with open(path, "rb") as file:
        data = file.read()
    # Where it has lost the attribute's name, the spare copy tells the same.
    own = data.index(b'"mosaic_collect"') + 17, data.index(b'"consolidated_metadata"')
    refused = 0
    for at in range(len(data)):
        with flipped(path, at, bit):
            try:
                found = TrajectoryDataset(ram_store).state
                assert found == state, (at, data[at - 20 : at + 20])
            except StoreError:
                refused += 1
            else:
                space = data[at : at + 1].isspace()
                assert space or not own[0] <= at < own[1], data[at - 20 : at + 20]
    assert refused > 1000
    count("bits flipped, root document", len(data))


def test_an_arrays_own_document_is_not_needed_and_mended(ram_store: str) -> None:
    with open_tiny(ram_store) as writer:
        add_tiny(writer, STEPS)
    path = os.path.join(ram_store, "x", "zarr.json")
    for content in (b"", b"\xff" * 100, b'{"zarr_format": 3, "shape": [1e9, 2, 2]}'):
        with open(path, "wb") as file:
            file.write(content)
        assert TrajectoryDataset(ram_store).read("x").shape == (STEPS, 2, 2)
        assert not verify_store(ram_store).ok
    check_resume(ram_store, STEPS)
    assert verify_store(ram_store).ok


def test_a_missing_shard_is_refused_when_read_and_when_resumed(ram_store: str) -> None:
    with open_tiny(ram_store) as writer:
        add_tiny(writer, STEPS)
    dataset = TrajectoryDataset(ram_store)
    os.remove(os.path.join(ram_store, "x", "c.1.0.0"))
    with pytest.raises(CorruptStoreError, match=r"x, block 1: the file .* is missing"):
        dataset.read("x")
    assert np.count_nonzero(dataset.read("x", 0, 2)) > 0
    with pytest.raises(CorruptStoreError, match=r"1 committed shards are missing, .*c\.1\.0\.0"):
        open_tiny(ram_store, resume=True)
    assert not verify_store(ram_store).ok
