"""Promise 8: a store from anywhere gives its data or a documented error, and does no harm.

What lies in a store is made up, mutated and signed anew, so that checksums do not hide the checks
behind them. Nothing may hang, take memory for sizes only claimed, or lead out of the store.
"""

from __future__ import annotations

import copy
import json
import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from mosaic_collect import TrajectoryDataset, export_npy
from mosaic_collect.errors import CorruptStoreError, MosaicCollectError, StoreError
from mosaic_collect.reading.verify import verify_store
from mosaic_collect.store.codec import CODECS, Compressor, crc_bytes
from mosaic_collect.store.metadata import ATTRIBUTE, checksum, root_document
from mosaic_collect.store.parsing import MAX_CHUNK_NBYTES, MAX_VALUES, parse_root
from mosaic_collect.store.posix import PosixBlobs
from mosaic_collect.store.schema import Field, Schema
from mosaic_collect.store.shard import LABEL_NBYTES, ShardReader
from tests.durability.explorer import RAM
from tests.durability.rig import TINY, add_tiny, open_tiny
from tests.helpers import edit_state, memory_within, one_block, one_shard

#: ``MOSAIC_COLLECT_FUZZ=100`` tries a hundred times as many.
MORE = int(os.environ.get("MOSAIC_COLLECT_FUZZ", "1"))
MOST_MEMORY = 200 << 20
#: Numbers at which sizes overflow, and ordinary ones.
NUMBERS = st.sampled_from(
    [-1, 0, 1, 2, 3, 2**31, 2**32, 2**40, 2**63 - 1, 2**63, 2**64, 10**30, 0.5, 1e300, True]
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = st.sampled_from(["..", ".", "/etc", "../x", "a/b", "", "x\0", "con", "c", "é", "x" * 300])
VALUES = JSON | NUMBERS | NAMES | st.integers(-3, 1 << 26) | st.floats(-1e9, 1e9)


@pytest.fixture(scope="module")
def valid() -> Iterator[tuple[str, dict[str, Any]]]:
    """A good store and its root document."""
    with tempfile.TemporaryDirectory(dir=RAM) as folder:
        yield recorded(os.path.join(folder, "flat.zarr"), TINY)


@pytest.fixture(scope="module")
def both(valid: tuple[str, dict[str, Any]]) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """That, and a store of images whose chunks are cut in the middle of a block."""
    with tempfile.TemporaryDirectory(dir=RAM) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("mosaic_collect.store.grid.CHUNK_NBYTES", 24)
        images = Schema((Field(name="rgb", dim=(4, 6, 1), dtype="uint8"), Field(name="joints")))
        path, root = recorded(os.path.join(folder, "images.zarr"), images)
        assert root["attributes"][ATTRIBUTE]["chunk_steps"] == {"rgb": 1}
        yield [valid, (path, root)]


def recorded(path: str, schema: Schema) -> tuple[str, dict[str, Any]]:
    metadata = {"a": [1, {"b": 2}], "c": "\u03c0"}
    with open_tiny(path, schema, compressor="zstd", metadata=metadata) as writer:
        add_tiny(writer, 5)
    return path, json.loads(root_document(TrajectoryDataset(path).state))


def sign(root: Any) -> bytes:
    """The document with a right checksum, where it has the place for one."""
    attribute = root.get("attributes", {}).get(ATTRIBUTE) if isinstance(root, dict) else None
    if isinstance(attribute, dict):
        attribute["checksum"] = checksum(attribute)
    return json.dumps(root).encode()


@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_are_no_root_document(data: bytes) -> None:
    with pytest.raises(StoreError):
        parse_root(data, "somewhere")


@given(value=JSON)
def test_an_arbitrary_state_is_refused(value: Any) -> None:
    with pytest.raises(StoreError):
        parse_root(sign({"attributes": {ATTRIBUTE: value}}), "somewhere")


def paths(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a JSON value something can be put in place of what is there."""
    if here:
        yield here
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(inner, (*here, key))


@settings(max_examples=400 * MORE)
@given(data=st.data())
def test_a_mutated_state_is_refused_or_harmless(
    both: list[tuple[str, dict[str, Any]]], data: st.DataObject
) -> None:
    path, root = data.draw(st.sampled_from(both))
    mutated = copy.deepcopy(root)
    state = mutated["attributes"][ATTRIBUTE]
    for _ in range(data.draw(st.integers(1, 3))):
        mutate(state, data)
    with memory_within(MOST_MEMORY):
        look(path, sign(mutated))


def mutate(state: dict[str, Any], data: st.DataObject) -> None:
    where = data.draw(st.sampled_from(list(paths(state))))
    holder: Any = state
    for key in where[:-1]:
        holder = holder[key]
    if data.draw(st.booleans()):
        holder[where[-1]] = data.draw(VALUES)
    elif isinstance(holder, dict):
        del holder[where[-1]]


def look(path: str, document: bytes) -> None:
    """Open, read and verify a store with this document beside the valid one's shards.

    A state that is believed is one that can be written again, and bounds its chunks.
    """
    with open(os.path.join(path, "zarr.json"), "wb") as file:
        file.write(document)
    try:
        dataset = TrajectoryDataset(path, threads=1)
        assert root_document(dataset.state)
        assert all(g.chunk_nbytes <= MAX_CHUNK_NBYTES for g in dataset.state.grids().values())
        for name in dataset.fields:
            dataset.read(name, 0, min(1, dataset.num_steps))
            dataset.read(name)
        if dataset.num_steps < 100:
            verify_store(path)
    except MosaicCollectError:
        pass


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("committed_steps", 2**40),
        ("committed_steps", 7),
        ("num_envs", 2**24),
        ("block_steps", 2**40),
        ("block_steps", 1),
        ("chunk_envs", {"x": 1, "valid_mask": 1, "trajectory_id": 1}),
    ],
)
def test_a_lie_about_sizes_is_a_clear_error_and_takes_no_memory(
    valid: tuple[str, dict[str, Any]], key: str, value: Any
) -> None:
    path, root = valid
    mutated = copy.deepcopy(root)
    state = mutated["attributes"][ATTRIBUTE]
    state[key] = value
    for run in state["runs"]:
        bits = "A" * (-(-(state["num_envs"] + 7) // 8 // 3) * 4)
        run["open_envs"] = bits if key == "num_envs" else run["open_envs"]
    with open(os.path.join(path, "zarr.json"), "wb") as file:
        file.write(sign(mutated))
    with memory_within(MOST_MEMORY), pytest.raises(CorruptStoreError):
        TrajectoryDataset(path, threads=1).read("x")


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" + b"[]," * MAX_VALUES + b"[]]",
        b"1" * 100_000,
        b"\xff\xfe",
        b"NaN",
        b'{"attributes": {"mosaic_collect": {"format_version": 2, "metadata": {"x": 1e999}}}}',
        b'{"attributes": {"mosaic_collect": {"format_version": NaN}}}',
        b'{"attributes": {"mosaic_collect": {"format_version": true}}}',
        b'{"attributes": {"mosaic_collect": {"format_version": 2}}}',
    ],
    ids=lambda d: str(d[:20]),
)
def test_documents_made_to_hurt(data: bytes) -> None:
    with memory_within(MOST_MEMORY), pytest.raises(CorruptStoreError):
        parse_root(data, "somewhere")


# -- shards ----------------------------------------------------------------------------------------


STATES = {name: one_block(Field(name="x", dim=3), Compressor.named(name), 5, 2) for name in CODECS}
ROWS = np.arange(6 * 2 * 3, dtype=np.float32).reshape(3, 2, 2, 3)
SHARDS = {name: one_shard(state, "x", ROWS) for name, state in STATES.items()}


def decode(data: bytes, compressor: str) -> None:
    """Read all chunks; only the documented error may come out."""
    state, grid = STATES[compressor], STATES[compressor].grid("x")
    with tempfile.TemporaryDirectory(dir=RAM) as folder:
        path = Path(folder, grid.shard_key(0))
        path.parent.mkdir()
        path.write_bytes(data)
        out = np.zeros(grid.chunk_shape, np.float32)
        try:
            with ShardReader(PosixBlobs(folder), state, "x", 0) as reader:
                for chunk in range(grid.chunks):
                    assert 0 <= reader.stored_nbytes(chunk) <= len(data)
                    reader.read(chunk, out)
        except CorruptStoreError:
            pass


compressors = st.sampled_from(sorted(SHARDS))


@settings(max_examples=200 * MORE)
@given(data=st.binary(max_size=300), compressor=compressors)
def test_arbitrary_bytes_as_a_shard(data: bytes, compressor: str) -> None:
    decode(data, compressor)


@settings(max_examples=300 * MORE)
@given(compressor=compressors, data=st.data())
def test_a_mutated_shard(compressor: str, data: st.DataObject) -> None:
    mutated = bytearray(SHARDS[compressor])
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    decode(bytes(mutated), compressor)


@settings(max_examples=300 * MORE)
@given(compressor=compressors, data=st.data())
def test_an_index_that_lies_under_a_right_checksum(compressor: str, data: st.DataObject) -> None:
    size = len(SHARDS[compressor])
    number = st.sampled_from([0, 1, 3, 4, size, size - 52, 2**63, 2**64 - 2, 2**64 - 1])
    table = struct.pack("<6Q", *(data.draw(number | st.integers(0, size)) for _ in range(6)))
    decode(SHARDS[compressor][:-52] + table + crc_bytes(table), compressor)


@settings(max_examples=400 * MORE)
@given(compressor=compressors, data=st.data())
def test_a_chunk_that_lies_under_a_right_checksum(compressor: str, data: st.DataObject) -> None:
    """The decompressor sees bytes it was never made for: sizes of its header among them."""
    whole = SHARDS[compressor]
    _, nbytes = struct.unpack_from("<QQ", whole, len(whole) - 52)
    payload = bytearray(whole[LABEL_NBYTES : LABEL_NBYTES + nbytes - 4])
    for _ in range(data.draw(st.integers(0, 3))):
        # Headers say the most: look there first.
        at = data.draw(st.integers(0, min(20, len(payload) - 1)) | st.integers(0, len(payload) - 1))
        payload[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(payload)) | st.just(len(payload)))
    payload = payload[:cut] + data.draw(st.binary(max_size=8))
    chunk = bytes(payload) + crc_bytes(bytes(payload))
    table = struct.pack("<6Q", *(LABEL_NBYTES, len(chunk)) * 3)
    decode(whole[:LABEL_NBYTES] + chunk + table + crc_bytes(table), compressor)


# -- links and things that are no files ------------------------------------------------------------


@pytest.fixture
def tiny(ram_store: str) -> str:
    with open_tiny(ram_store) as writer:
        add_tiny(writer, 3)
    return ram_store


def test_a_field_that_is_a_link_is_read_but_never_written(tiny: str) -> None:
    elsewhere = tiny + ".elsewhere"
    os.rename(os.path.join(tiny, "x"), elsewhere)
    os.symlink(elsewhere, os.path.join(tiny, "x"))
    for name in ("c.9.0.0", ".notes.tmp"):  # looks like debris, and is not ours
        open(os.path.join(elsewhere, name), "w").close()
    before = sorted(os.listdir(elsewhere))
    assert TrajectoryDataset(tiny).read("x").shape == (3, 2, 2)
    with pytest.raises(CorruptStoreError, match="found a link"):
        open_tiny(tiny, resume=True)
    assert sorted(os.listdir(elsewhere)) == before


@pytest.mark.parametrize(
    "name", [".zarr.json.tmp", "x/.zarr.json.tmp", "x/.c.1.0.0.tmp", "valid_mask/.c.1.0.tmp"]
)
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_temp_file_that_leads_elsewhere_is_replaced_not_written_through(
    tiny: str, name: str, link: Any
) -> None:
    victim = tiny + ".victim"
    with open(victim, "w") as file:
        file.write("precious")
    link(victim, os.path.join(tiny, name))
    with open_tiny(tiny, resume=True) as writer:
        add_tiny(writer, 3)
    with open(victim) as file:
        assert file.read() == "precious"
    assert TrajectoryDataset(tiny).num_steps == 6


def test_a_lock_that_is_a_link_is_refused(tiny: str) -> None:
    victim, lock = tiny + ".victim", os.path.join(tiny, ".mosaic_collect.lock")
    with open(victim, "w") as file:
        file.write("precious")
    os.symlink(victim, lock)
    with pytest.raises(OSError, match="cannot be opened for writing"):
        open_tiny(tiny, resume=True)
    with open(victim) as file:
        assert file.read() == "precious"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda p: os.symlink("/dev/zero", p)])
@pytest.mark.parametrize("name", ["zarr.json", "x/c.1.0.0"])
def test_what_is_no_file_is_refused_without_waiting(tiny: str, name: str, make: Any) -> None:
    path = os.path.join(tiny, name)
    os.remove(path)
    make(path)
    with pytest.raises(CorruptStoreError, match="no regular file"):
        TrajectoryDataset(tiny, threads=1).read("x")
    with pytest.raises(CorruptStoreError, match="no regular file"):
        open_tiny(tiny, resume=True)


def test_links_in_a_circle_are_refused(tiny: str) -> None:
    path = os.path.join(tiny, "x", "c.1.0.0")
    os.remove(path)
    os.symlink(path, path)
    with pytest.raises(CorruptStoreError, match="x, block 1"):
        TrajectoryDataset(tiny, threads=1).read("x")


def test_a_store_behind_a_link_is_like_any_other(tiny: str) -> None:
    link = tiny + ".link"
    os.symlink(tiny, link)
    with open_tiny(link, resume=True) as writer:
        add_tiny(writer, 2)
    assert TrajectoryDataset(link).num_steps == TrajectoryDataset(tiny).num_steps == 5
    assert os.path.islink(link)


@pytest.mark.parametrize("steps", [2**40, 2**40 - 1, 1_000_000])
def test_more_steps_than_could_be_counted(tiny: str, steps: int) -> None:
    edit_state(tiny, committed_steps=steps)
    with pytest.raises(CorruptStoreError, match="missing"):
        open_tiny(tiny, resume=True)
    report = verify_store(tiny)
    assert not report.ok
    assert any("missing" in p for p in report.problems)
    with pytest.raises(CorruptStoreError, match=r"missing|older than the last commit"):
        TrajectoryDataset(tiny).read("x")
    with pytest.raises(MosaicCollectError):
        export_npy(tiny, tiny + ".npy")
    assert not os.path.exists(tiny + ".npy")


@pytest.mark.parametrize("name", ["x/zarr.json", "zarr.json", "x/c.1.0.0"])
def test_verifying_and_exporting_wait_for_no_pipe(tiny: str, name: str) -> None:
    os.remove(os.path.join(tiny, name))
    os.mkfifo(os.path.join(tiny, name))
    assert not verify_store(tiny).ok
    if name != "x/zarr.json":
        with pytest.raises(MosaicCollectError):
            export_npy(tiny, tiny + ".npy")
