"""From the values of one chunk to its bytes and back: compressor, then CRC-32C.

A chunk is ``(chunk_envs, chunk_steps[, dim])`` little-endian values in C order, compressed, with
the CRC-32C of the compressed bytes (4 bytes, little-endian) behind. As Zarr v3 codecs that is
``transpose [1, 0, ...]`` -> ``bytes`` little -> compressor -> ``crc32c``
(zarr-specs.readthedocs.io, v3 core codecs).

Compression, decompression and the checksum run without the GIL.
"""

from __future__ import annotations

import struct
import sys
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from mosaic_collect.errors import CorruptStoreError, InputError

with warnings.catch_warnings(record=True):
    # numcodecs warns where it finds crc32c and not google-crc32c, which holds the GIL. Recorded and
    # not filtered, because numcodecs puts a filter of its own in front.
    from numcodecs import Blosc, Zstd

CRC_NBYTES = 4
COMPRESSORS = ("auto", "lz4", "zstd", "none")
#: What "auto" means. docs/design.md has the measurements: at about the CPU of lz4 it stores less.
AUTO = ("zstd", -3)
_LEVELS = {"lz4": 5, "zstd": 1, "none": 0}
_BLOSC_HEADER = 16
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class Compressor:
    """How chunks are compressed: ``name`` is lz4, zstd or none, ``level`` the compressor's own."""

    name: str
    level: int

    @classmethod
    def named(cls, name: str) -> Compressor:
        """The compressor a user means by ``name``, one of ``COMPRESSORS``.

        Raises:
            InputError: Another name.
        """
        if name == "auto":
            return cls(*AUTO)
        if name not in _LEVELS:
            raise InputError(f"compressor: expected one of {', '.join(COMPRESSORS)}, got {name!r}")
        return cls(name, _LEVELS[name])

    def zarr_codecs(self) -> list[dict[str, Any]]:
        """The codec's entry in a chunk's Zarr v3 codec chain; none for no compression."""
        if self.name == "lz4":
            config = {
                "cname": "lz4",
                "clevel": self.level,
                "shuffle": "noshuffle",
                "typesize": 1,
                "blocksize": 0,
            }
            return [{"name": "blosc", "configuration": config}]
        if self.name == "zstd":
            config = {"level": self.level, "checksum": False}
            return [{"name": "zstd", "configuration": config}]
        return []

    def codec(self) -> ChunkCodec:
        """A codec for this compressor, safe to share between threads."""
        return ChunkCodec(self)


class ChunkCodec:
    """Chunk values <-> chunk bytes for one compressor."""

    def __init__(self, compressor: Compressor) -> None:
        self._name = compressor.name
        self._codec: Any = None
        if compressor.name == "lz4":
            # No shuffle: it hides the repeats of a history from the compressor (docs/design.md).
            self._codec = Blosc("lz4", clevel=compressor.level, shuffle=Blosc.NOSHUFFLE)
        elif compressor.name == "zstd":
            self._codec = Zstd(level=compressor.level)

    def compress(self, values: NDArray[Any]) -> Any:
        """Compressed bytes of C-contiguous ``values``; without a compressor, themselves."""
        raw = _as_bytes(values)
        return raw if self._codec is None else self._codec.encode(raw)

    def decode(self, data: memoryview, out: NDArray[Any], what: str) -> None:
        """Fill C-contiguous ``out`` from the chunk's bytes ``data``, checksum included.

        Raises:
            CorruptStoreError: The checksum or the size is wrong; ``what`` names the chunk.
        """
        payload = checked(data, what)
        target = out.reshape(-1).view(np.uint8)
        self._check_size(payload, target.nbytes, what)
        try:
            if self._codec is None:
                target[:] = np.frombuffer(payload, np.uint8)
            else:
                self._codec.decode(payload, target)
        except (RuntimeError, ValueError) as error:
            raise CorruptStoreError(f"{what}: does not decompress: {error}") from error
        if sys.byteorder == "big":
            out.byteswap(inplace=True)

    def _check_size(self, payload: memoryview, expected: int, what: str) -> None:
        """Refuse a chunk whose own header promises another size, before anything is allocated."""
        if self._name == "lz4":
            size = blosc_content_size(payload)
        elif self._name == "zstd":
            size = zstd_content_size(payload)
        else:
            size = len(payload)
        if size != expected:
            raise CorruptStoreError(f"{what}: expected {expected} bytes of values, got {size}")


def crc_bytes(*buffers: Any) -> bytes:
    """CRC-32C of the buffers, one behind the other, as 4 little-endian bytes (RFC 3720, B.4)."""
    crc = 0
    for buffer in buffers:
        crc = crc32c(buffer, crc)
    return struct.pack("<I", crc)


def checked(data: memoryview, what: str) -> memoryview:
    """``data`` without its last 4 bytes, which are its CRC-32C.

    Raises:
        CorruptStoreError: They are not; ``what`` names the bytes.
    """
    if len(data) < CRC_NBYTES:
        raise CorruptStoreError(f"{what}: {len(data)} bytes cannot hold a checksum")
    payload, expected = data[:-CRC_NBYTES], data[-CRC_NBYTES:]
    if crc_bytes(payload) != expected:
        raise CorruptStoreError(f"{what}: checksum mismatch, the bytes are damaged")
    return payload


def same_bytes(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two arrays of one shape and dtype hold the same bytes."""
    bits = np.dtype(f"u{one.itemsize}")
    return bool((one.view(bits) == other.view(bits)).all())


def blosc_content_size(frame: memoryview) -> int:
    """Size that a blosc frame says it decompresses to; -1 if it is not as long as it says.

    Blosc believes its header and would read behind a shorter frame (c-blosc, README_CHUNK_FORMAT).
    """
    if len(frame) < _BLOSC_HEADER:
        return -1
    size, _blocksize, frame_size = struct.unpack_from("<III", frame, 4)
    return int(size) if frame_size == len(frame) else -1


def zstd_content_size(frame: memoryview) -> int:
    """Size that a zstd frame says it decompresses to; -1 if it does not say (RFC 8878, 3.1.1.1)."""
    if len(frame) < 6 or bytes(frame[:4]) != _ZSTD_MAGIC:
        return -1
    descriptor = frame[4]
    single_segment = bool(descriptor & 0x20)
    flag = descriptor >> 6
    width = (1 if single_segment else 0, 2, 4, 8)[flag]
    start = 5 + (not single_segment) + (0, 1, 2, 4)[descriptor & 3]
    field = bytes(frame[start : start + width])
    if width == 0 or len(field) < width:
        return -1
    return int.from_bytes(field, "little") + (256 if width == 2 else 0)


def _as_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    if sys.byteorder == "big":
        values = values.byteswap()
    return values.reshape(-1).view(np.uint8)


#: A block never holds more than this.
MOST_BLOCK_NBYTES = 128 << 10
_MAGIC = b"\x28\xb5\x2f\xfd"
_SINGLE_SEGMENT_4 = 0xA0  # no window descriptor, no checksum, a content size of 4 bytes
_RAW = 0
_END = b"\x01\x00\x00"


def raw_frame(data: NDArray[np.uint8]) -> list[Any]:
    """The frame of ``data``, under 2**32 bytes: headers, and slices of it between them."""
    pieces: list[Any] = [_MAGIC + bytes([_SINGLE_SEGMENT_4]) + len(data).to_bytes(4, "little")]
    for start in range(0, len(data), MOST_BLOCK_NBYTES):
        part = data[start : start + MOST_BLOCK_NBYTES]
        pieces += [(_RAW << 1 | len(part) << 3).to_bytes(3, "little"), part]
    return [*pieces, _END]
