"""A Zstandard frame around bytes that nothing compresses, without copying them.

    frame    magic, descriptor 0xA0, content size (4 bytes)
    block    3 bytes: last | type << 1 | size << 3, then its content; raw blocks are of type 0
    end      an empty block with "last" set

All numbers little-endian. Format: RFC 8878, 3.1.1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

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
