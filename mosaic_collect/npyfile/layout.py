"""The bytes around the arrays of a ``.npy`` file that holds a dict.

    np.load(path, allow_pickle=True).item()  ->  {"observations": array, ..., "metadata": {...}}

    grid       [T, N, D]    every pair, at its step and environment, with a valid_mask [T, N]
    compact    [M, 1, D]    valid pairs only, one behind the other

Such a file is an ``.npy`` header for a 0-d object array, then one pickle: the 0-d array, in it the
dict, in it arrays whose values are each one ``BINBYTES8`` string. All sizes are known beforehand,
so the values can be written anywhere at any time: this module says where.

Arrays are rebuilt through ``numpy.core.multiarray._reconstruct``, which NumPy 1.x and 2.x both
know; what NumPy 2's ``np.save`` writes, NumPy before 1.26.1 cannot read. Formats: numpy.lib.format;
CPython Lib/pickletools.py.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

#: Names of the two ways in which a file's pairs lie.
GRID, COMPACT = "grid", "compact"
#: Key in the file's ``metadata`` under which an export describes itself.
OURS = "mosaic_collect"
#: Key in it: the axes of those arrays whose rows were made flat, by array.
AXES = "axes"
#: Columns of a Parquet export beside the fields; ``end`` is text.
BESIDE = ("trajectory_id", "step", "environment", "frame_index", "end")

_RECONSTRUCT = (
    b"cnumpy.core.multiarray\n_reconstruct\n"  # GLOBAL
    b"cnumpy\nndarray\n"
    b"K\x00\x85"  # (0,)
    b"C\x01b"  # b"b"
    b"\x87R"  # TUPLE3, REDUCE
)


#: Shape and dtype of an array; the file holds it in little-endian C order.
ArraySpec = tuple[tuple[int, ...], str]


@dataclass(frozen=True)
class StoredArray:
    """Place of an array's values in a file: ``nbytes`` from ``offset`` on, C order."""

    offset: int
    nbytes: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def row_nbytes(self) -> int:
        """Bytes of a pair's row; the first two axes are those of pairs."""
        return self.dtype.itemsize * prod(self.shape[2:])


@dataclass(frozen=True)
class FilePlan:
    """A file, but for the arrays' values.

    Attributes:
        pieces: (offset, bytes) of all that is not an array's values.
        arrays: Place of each array's values, by key.
        nbytes: Size of the file.
    """

    pieces: tuple[tuple[int, bytes], ...]
    arrays: dict[str, StoredArray]
    nbytes: int


def plan_file(arrays: Mapping[str, ArraySpec], plain: Mapping[str, Any]) -> FilePlan:
    """Lay out a file.

    Args:
        arrays: Key -> shape and dtype, in the order of the file.
        plain: Further keys of the dict, with values of str, int, float, bool, None, list, dict.
    """
    pieces, places, offset = list[tuple[int, bytes]](), dict[str, StoredArray](), 0
    between = _header() + b"\x80\x04" + _RECONSTRUCT
    between += b"(K\x01)" + _fragment(np.dtype(object)) + b"\x89]}("  # state up to [{
    for name, (shape, kind) in arrays.items():
        dtype = np.dtype(kind).newbyteorder("<")
        nbytes = prod(shape) * dtype.itemsize
        between += _fragment(name) + _RECONSTRUCT + b"(K\x01" + _fragment(shape)
        between += _fragment(dtype) + b"\x89"
        between += b"\x8e" + struct.pack("<Q", nbytes)  # BINBYTES8
        pieces.append((offset, between))
        places[name] = StoredArray(offset + len(between), nbytes, shape, dtype)
        offset += len(between) + nbytes
        between = b"tb"  # TUPLE, BUILD
    for name, value in plain.items():
        between += _fragment(name) + _fragment(value)
    between += b"uatb."  # SETITEMS, APPEND, TUPLE, BUILD, STOP
    return FilePlan((*pieces, (offset, between)), places, offset + len(between))


def _header() -> bytes:
    buffer = io.BytesIO()
    about = {"descr": "|O", "fortran_order": False, "shape": ()}
    np.lib.format.write_array_header_1_0(buffer, about)
    return buffer.getvalue()


def _fragment(value: Any) -> bytes:
    """Opcodes that push ``value``: a memo-free pickle without its frame and its STOP."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=3)  # the last protocol without frames
    pickler.fast = True  # no memo: numbers in it would clash with the other fragments'
    pickler.dump(value)
    return buffer.getvalue()[2:-1]


def of_mosaic(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The ``metadata`` without our entry."""
    return {key: value for key, value in metadata.items() if key != OURS}
