"""Promise 4: a flipped bit anywhere in a data file is reported with its place, the rest is read."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from mosaic_collect import Field, Schema, TrajectoryDataset
from mosaic_collect.errors import CorruptStoreError, StoreError
from mosaic_collect.store.codec import CODECS
from mosaic_collect.store.shard import LABEL_NBYTES
from tests.durability.figures import count
from tests.durability.rig import add_tiny, open_tiny
from tests.export import stores
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
    from_end = at - os.path.getsize(path)
    stores.flip(path, from_end, 1 << bit)
    yield
    stores.flip(path, from_end, 1 << bit)


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
