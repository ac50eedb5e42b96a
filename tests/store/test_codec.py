"""Chunk bytes: what goes in comes out, and damage is an error that names the chunk."""

from __future__ import annotations

import struct

import numcodecs
import numpy as np
import pytest
from crc32c import crc32c
from hypothesis import given, strategies as st

from mosaic_collect.errors import CorruptStoreError, InputError
from mosaic_collect.store.codec import (
    CHOSEN,
    CODECS,
    COMPRESSORS,
    MOST_BLOCK_NBYTES,
    CodecEntry,
    Compressor,
    crc_bytes,
    raw_frame,
    zstd_content_size,
)
from mosaic_collect.store.schema import DTYPES, Field
from tests.helpers import encoded_chunk, values

PACKING = [name for name in CODECS if name != "none"]
MAGIC = b"\x28\xb5\x2f\xfd"  # of zstd
MOST = MOST_BLOCK_NBYTES


def encoded(codec: Compressor, array: np.ndarray) -> bytes:
    buffers, crc = encoded_chunk(codec, array)
    return b"".join([*map(bytes, buffers), crc])


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip(name: str, dtype: str) -> None:
    codec = Compressor.named(name)
    array = np.stack([values(Field(name="a", dim=5, dtype=dtype), 0, s, 4) for s in range(6)])
    out = np.empty_like(array)
    codec.decode(memoryview(encoded(codec, array)), out, "chunk")
    assert out.tobytes() == array.tobytes()


@pytest.mark.parametrize("name", COMPRESSORS)
@given(data=st.binary(min_size=1, max_size=3000))
def test_round_trip_of_any_bytes(name: str, data: bytes) -> None:
    codec = Compressor.named(name)
    array = np.frombuffer(data, np.uint8)
    out = np.empty_like(array)
    codec.decode(memoryview(encoded(codec, array)), out, "chunk")
    assert out.tobytes() == data


@pytest.mark.parametrize("name", COMPRESSORS)
def test_every_cut_is_noticed(name: str) -> None:
    codec = Compressor.named(name)
    array = np.arange(12, dtype="<i4")
    data = encoded(codec, array)
    for length in range(len(data)):
        words = f"{length} bytes cannot hold" if length < 4 else "(checksum mismatch|expected 48)"
        with pytest.raises(CorruptStoreError, match=f"actions, chunk 3: {words}"):
            codec.decode(memoryview(data[:length]), np.empty_like(array), "actions, chunk 3")


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize("length", [11, 13])
def test_another_size_is_refused_though_the_checksum_is_right(name: str, length: int) -> None:
    codec = Compressor.named(name)
    data = encoded(codec, np.zeros(length, np.uint8))
    with pytest.raises(CorruptStoreError, match=f"expected 12 bytes of values, got {length}"):
        codec.decode(memoryview(data), np.empty(12, np.uint8), "chunk")


@pytest.mark.parametrize(("name", "magic"), [*((name, b"") for name in PACKING), ("zstd", MAGIC)])
@given(rubbish=st.binary(max_size=200))
def test_rubbish_with_a_right_checksum_is_an_error_and_no_crash(
    name: str, magic: bytes, rubbish: bytes
) -> None:
    codec, rubbish = Compressor.named(name), magic + rubbish
    with pytest.raises(CorruptStoreError):
        codec.decode(memoryview(rubbish + crc_bytes(rubbish)), np.empty(999, np.uint8), "chunk")


@pytest.mark.parametrize("name", PACKING)
def test_a_damaged_body_behind_a_right_header_is_an_error(name: str) -> None:
    codec = Compressor.named(name)
    payload = bytes(codec.compress(np.arange(4000, dtype="<i4")))
    for cut in (20, len(payload) // 2, len(payload) - 1):
        body = payload[:cut]
        with pytest.raises(CorruptStoreError):
            codec.decode(memoryview(body + crc_bytes(body)), np.empty(4000, "<i4"), "chunk")


def test_an_error_of_a_codec_s_own_is_one_of_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """As zlib's, which is neither a RuntimeError nor a ValueError."""
    added = CodecEntry(1, range(10), numcodecs.Zlib, lambda level: [], lambda frame: 999)
    monkeypatch.setitem(CODECS, "added", added)
    codec, body = Compressor.named("added"), b"no stream of zlib"
    with pytest.raises(CorruptStoreError, match=r"chunk 3: does not decompress: Error -3"):
        codec.decode(memoryview(body + crc_bytes(body)), np.empty(999, np.uint8), "chunk 3")


def test_the_checksum_is_crc32c_little_endian() -> None:
    # "123456789" is the check value of every catalogue of CRCs.
    assert crc_bytes(b"123456789") == struct.pack("<I", 0xE3069283)
    assert struct.unpack("<I", crc_bytes(b"abc"))[0] == crc32c(b"abc")


def test_values_are_little_endian_in_c_order() -> None:
    codec = Compressor.named("none")
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    assert encoded(codec, array)[:-4] == struct.pack("<6i", *range(6))


@given(st.integers(0, 300_000))
def test_zstd_content_size_of_real_frames(size: int) -> None:
    frame = numcodecs.Zstd(level=1).encode(np.zeros(size, np.uint8))
    if size:
        assert zstd_content_size(memoryview(frame)) == size


def test_names() -> None:
    assert Compressor.named("auto") == Compressor(*CHOSEN)
    assert Compressor.named("none").zarr_codecs() == []
    with pytest.raises(InputError, match=r"auto, lz4, .*, none, got 'brotli'"):
        Compressor.named("brotli")


def test_history_compresses() -> None:
    """What the codec is for: env-major rows that repeat four fifths of the one before."""
    rng = np.random.default_rng(0)
    frames = rng.standard_normal((4, 64 + 4, 8)).astype(np.float32)
    history = np.stack([frames[:, s : s + 5].reshape(4, 40) for s in range(64)], axis=1)
    for name in ("auto", *PACKING):
        payload = Compressor.named(name).compress(np.ascontiguousarray(history))
        assert len(payload) < history.nbytes / 3, name


@pytest.mark.parametrize("nbytes", [1, 255, 256, MOST - 1, MOST, MOST + 1, 5 * MOST, 5 * MOST + 7])
def test_decodes_to_what_it_was_made_of(nbytes: int) -> None:
    data = np.random.default_rng(nbytes).integers(0, 256, nbytes, np.uint8)
    pieces = raw_frame(data)
    frame = b"".join(map(bytes, pieces))
    assert zstd_content_size(memoryview(frame)) == nbytes
    assert numcodecs.Zstd(level=1).decode(frame) == data.tobytes()
    assert len(frame) - nbytes == 9 + 3 * -(-nbytes // MOST) + 3
    slices = [p for p in pieces if isinstance(p, np.ndarray)]
    assert len(slices) == -(-nbytes // MOST)
    assert all(np.shares_memory(s, data) for s in slices), "a copy"
