"""From the values of one chunk to its bytes and back: compressor, then CRC-32C.

A chunk is ``(chunk_envs, chunk_steps[, dim])`` little-endian values in C order, compressed, with
the CRC-32C of the compressed bytes (4 bytes, little-endian) behind. As Zarr v3 codecs that is
``transpose [1, 0, ...]`` -> ``bytes`` little -> compressor -> ``crc32c``
(zarr-specs.readthedocs.io, v3 core codecs).

Compression, decompression and the checksum run without the GIL.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from mosaic_collect.errors import CorruptStoreError, InputError

with warnings.catch_warnings(record=True):
    # numcodecs warns where it finds crc32c and not google-crc32c, which holds the GIL. Recorded and
    # not filtered, because numcodecs puts a filter of its own in front.
    from numcodecs import Blosc, Zstd

CRC_NBYTES = 4
#: The name for which the package chooses, and what it chooses. docs/design.md has the measurements:
#: at about the CPU of lz4 it stores less.
AUTO, CHOSEN = "auto", ("zstd", -3)
_BLOSC_HEADER = 16
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
#: Bytes of a zstd block at most.
MOST_BLOCK_NBYTES = 128 << 10
_SINGLE_SEGMENT_4 = 0xA0  # no window descriptor, no checksum, a content size of 4 bytes
_RAW = 0
_END = b"\x01\x00\x00"


@dataclass(frozen=True)
class Compressor:
    """How chunks are compressed: the name of a codec in ``CODECS``, and a level of its own."""

    name: str
    level: int

    @classmethod
    def named(cls, name: str) -> Compressor:
        """The compressor a user means by ``name``, which must be one of ``COMPRESSORS``."""
        if name == AUTO:
            return cls(*CHOSEN)
        if name not in CODECS:
            raise InputError(f"compressor: expected one of {', '.join(COMPRESSORS)}, got {name!r}")
        return cls(name, CODECS[name].level)

    @property
    def has_raw_frames(self) -> bool:
        """Whether bytes that do not compress can be stored uncopied, by ``raw_frame``."""
        return self.name == "zstd"

    def zarr_codecs(self) -> list[dict[str, Any]]:
        """Entries in a chunk's Zarr v3 codec chain; none for no compression."""
        return CODECS[self.name].zarr(self.level)

    def compress(self, values: NDArray[Any]) -> Any:
        """Compressed bytes of C-contiguous ``values``; without a compressor, themselves."""
        codec, data = _codec(self), values.reshape(-1).view(np.uint8)
        return data if codec is None else codec.encode(data)

    def decode(self, data: memoryview, out: NDArray[Any], what: str) -> None:
        """Fill C-contiguous ``out`` from a chunk's bytes, with checksum; errors name ``what``."""
        payload, codec = checked(data, what), _codec(self)
        target = out.reshape(-1).view(np.uint8)
        size = CODECS[self.name].content_nbytes(payload)
        if size != target.nbytes:  # by the chunk's own header, before anything is allocated
            raise CorruptStoreError(f"{what}: expected {target.nbytes} bytes of values, got {size}")
        if codec is None:
            target[:] = np.frombuffer(payload, np.uint8)
            return
        try:
            codec.decode(payload, target)
        except MemoryError:
            raise
        except Exception as error:  # each codec has errors of its own
            raise CorruptStoreError(f"{what}: does not decompress: {error}") from error


@cache
def _codec(compressor: Compressor) -> Any:
    """The codec of a compressor, safe to share between threads; None for no compression."""
    return CODECS[compressor.name].make(compressor.level)


def crc_bytes(*buffers: Any) -> bytes:
    """CRC-32C of the buffers, one behind the other, as 4 little-endian bytes (RFC 3720, B.4)."""
    crc = 0
    for buffer in buffers:
        crc = crc32c(buffer, crc)
    return struct.pack("<I", crc)


def checked(data: memoryview, what: str) -> memoryview:
    """``data`` without its last 4 bytes, which are its CRC-32C; ``what`` names it in errors."""
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


def raw_frame(data: NDArray[np.uint8]) -> list[Any]:
    """Zstandard frame around at most 2**32 - 1 bytes that nothing compresses, without a copy.

        frame    magic, descriptor 0xA0, content size (4 bytes)
        block    3 bytes: last | type << 1 | size << 3, then its content; raw blocks are of type 0
        end      an empty block with "last" set

    It is headers, and slices of ``data`` between them; numbers are little-endian (RFC 8878, 3.1.1).
    """
    pieces: list[Any] = [_ZSTD_MAGIC + bytes([_SINGLE_SEGMENT_4]) + len(data).to_bytes(4, "little")]
    for start in range(0, len(data), MOST_BLOCK_NBYTES):
        part = data[start : start + MOST_BLOCK_NBYTES]
        pieces += [(_RAW << 1 | len(part) << 3).to_bytes(3, "little"), part]
    return [*pieces, _END]


class CodecEntry(NamedTuple):
    """All that the package knows of one codec.

    Attributes:
        level: Default level.
        levels: Levels that a store may have.
        make: Makes an object that encodes and decodes, from a level; or None.
        zarr: Entries in a chunk's Zarr v3 codec chain, from a level.
        content_nbytes: Size that a frame's header claims to decompress to; -1 for a damaged one.
    """

    level: int
    levels: range
    make: Callable[[int], Any]
    zarr: Callable[[int], list[dict[str, Any]]]
    content_nbytes: Callable[[memoryview], int]


def _zarr(name: str, **configuration: Any) -> list[dict[str, Any]]:
    return [{"name": name, "configuration": configuration}]


#: Every codec by its name in a store.
CODECS = {
    "lz4": CodecEntry(
        level=5,
        levels=range(10),
        # No shuffle: it hides the repeats of a history from the compressor (docs/design.md).
        make=lambda level: Blosc("lz4", clevel=level, shuffle=Blosc.NOSHUFFLE),
        zarr=lambda level: _zarr(
            "blosc", cname="lz4", clevel=level, shuffle="noshuffle", typesize=1, blocksize=0
        ),
        content_nbytes=blosc_content_size,
    ),
    "zstd": CodecEntry(
        level=1,
        levels=range(-(1 << 17), 23),
        make=lambda level: Zstd(level=level),
        zarr=lambda level: _zarr("zstd", level=level, checksum=False),
        content_nbytes=zstd_content_size,
    ),
    "none": CodecEntry(0, range(1), lambda level: None, lambda level: [], len),
}
#: Names that a user may give.
COMPRESSORS = (AUTO, *CODECS)
