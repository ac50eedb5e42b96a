"""Pickles of ``.npy`` files, well-formed and hostile, opcode by opcode."""

from __future__ import annotations

import io
import pickle
import struct
from typing import Any

import numpy as np


def header(
    shape: tuple[int, ...] = (), descr: str = "|O", fortran: bool = False, version: int = 1
) -> bytes:
    """An ``.npy`` header; that of a dict by default."""
    about = {"descr": descr, "fortran_order": fortran, "shape": shape}
    buffer = io.BytesIO()
    if version == 1:
        np.lib.format.write_array_header_1_0(buffer, about)
    else:
        np.lib.format.write_array_header_2_0(buffer, about)
    return buffer.getvalue()


def write(path: str, pickled: bytes, head: bytes | None = None) -> str:
    """A file of a header and a pickle."""
    with open(path, "wb") as file:
        file.write((header() if head is None else head) + pickled)
    return path


def dump(value: Any, protocol: int = 4) -> bytes:
    """The pickle of a 0-d object array that holds ``value``, as ``np.save`` writes it."""
    array = np.empty((), object)
    array[()] = value
    return pickle.dumps(array, protocol=protocol)


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
EMPTY_ARRAY = RECONSTRUCT + b"cnumpy\nndarray\nK\x00\x85C\x01b\x87R"
BEGIN = (
    b"\x80\x04" + EMPTY_ARRAY + b"(K\x01)cnumpy\ndtype\n\x8c\x02O8\x89\x88\x87R(K\x03\x8c\x01|NNNJ"
)
BEGIN += b"\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb\x89]}"
END = b"atb."


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def whole(number: int) -> bytes:
    """A whole number of any size."""
    data = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<i", len(data)) + data


def dtype(code: str, order: str = "<") -> bytes:
    made = b"cnumpy\ndtype\n" + text(code) + b"\x89\x88\x87R(K\x03" + text(order)
    return made + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


def array(
    shape: bytes, values: bytes, code: str = "f4", order: str = "<", fortran: bool = False
) -> bytes:
    """An array of a pickled shape and pickled values."""
    state = b"(K\x01" + shape + dtype(code, order) + (b"\x88" if fortran else b"\x89")
    return EMPTY_ARRAY + state + values + b"tb"


def shape_of(*numbers: int) -> bytes:
    return b"(" + b"".join(whole(n) for n in numbers) + b"t"


def values_of(data: bytes) -> bytes:
    return b"\x8e" + struct.pack("<Q", len(data)) + data


def dict_of(**items: bytes) -> bytes:
    """A file's pickle: the dict of these keys and pickled values."""
    return BEGIN + b"".join(text(k) + v + b"s" for k, v in items.items()) + END


def write_hole(path: str) -> int:
    """A file of ``a``, float32 ``[1 << 20, 1 << 10, 1]``, all a hole; where its values begin."""
    spec = array(shape_of(1 << 20, 1 << 10, 1), b"", code="f4")
    head, tail = dict_of(a=spec).split(spec)
    begin = header() + head + spec[:-2] + b"\x8e" + (1 << 32).to_bytes(8, "little")
    with open(path, "wb") as file:
        file.write(begin)
        file.seek(len(begin) + (1 << 32))
        file.write(b"tb" + tail)
    return len(begin)


def bomb(depth: int) -> bytes:
    """A list of one list twice, that of one list twice, ...: written out, 2 ** depth values."""
    if not depth:
        return b"]"
    place = bytes([depth])
    return b"](" + bomb(depth - 1) + b"q" + place + b"h" + place + b"e"


def nested_lists(depth: int) -> bytes:
    """A list in a list in a list ..."""
    return b"]" * depth + b"a" * (depth - 1)
