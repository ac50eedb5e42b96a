"""What a pickle is run on instead of NumPy's classes: they check the state they are given."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from mosaic_collect.errors import CorruptExportError
from mosaic_collect.npyfile.file import StoredArray
from mosaic_collect.text import shown

#: The code of an object array, which the dict is in.
OBJECT = "O8"
_OBJECT_FLAGS = 63
_ONE_BYTE = ("b1", "i1", "u1", OBJECT)
_DTYPES = frozenset(("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"))
_MAX_AXES = 32
_MAX_LENGTH = 1 << 48


@dataclass(frozen=True)
class Extent:
    """A byte string left in the file."""

    offset: int
    nbytes: int


@dataclass(frozen=True)
class Global:
    """A name that was mentioned, not looked up."""

    module: str
    name: str

    @property
    def plain(self) -> str:
        """The name as NumPy 1.x has it."""
        return f"{self.module.replace('numpy._core', 'numpy.core')}.{self.name}"


class Dtype:
    """A dtype under construction; BUILD fills it."""

    def __init__(self, code: Any, align: Any, copy: Any) -> None:
        if not isinstance(code, str) or align is not False or copy is not True:
            raise CorruptExportError("a dtype is not made as NumPy makes one")
        self.code = code.lstrip("<|=")
        self.built = False

    def build(self, version: Any, order: Any, *rest: Any) -> None:
        """Take the state: nothing but the byte order, for numbers."""
        flags = _OBJECT_FLAGS if self.code == OBJECT else 0
        # NumPy trusts flags and the like without a look: one bit off, and it crashes.
        if version != 3 or rest != (None, None, None, -1, -1, flags):
            raise CorruptExportError("a dtype is not made as NumPy makes one")
        if order != ("|" if self.code in _ONE_BYTE else "<"):
            raise CorruptExportError(f"byte order {shown(order)}, which MOSAIC cannot take")
        self.built = True

    def resolve(self) -> np.dtype[Any]:
        """The dtype, little-endian."""
        if self.code not in _DTYPES or not self.built:
            raise CorruptExportError(f"dtype {shown(self.code)} is no number or bool")
        return np.dtype("<" + self.code)


class Array:
    """An array under construction; BUILD fills it."""

    def __init__(self) -> None:
        self.shape: Any = None
        self.dtype: Any = None
        self.fortran: Any = False
        self.values: Any = None

    def build(self, version: Any, shape: Any, dtype: Any, fortran: Any, values: Any) -> None:
        """Take the state."""
        if version != 1 or not isinstance(fortran, bool) or not _is_shape(shape):
            raise CorruptExportError(f"an array with the shape {shown(shape)}")
        self.shape, self.dtype, self.fortran, self.values = shape, dtype, fortran, values

    def stored(self, what: str) -> StoredArray:
        """Where the values lie, once they are known to be numbers in C order, and all there."""
        values = self.values
        if not isinstance(self.dtype, Dtype) or not isinstance(values, Extent):
            raise CorruptExportError(f"{what}: expected an array of numbers")
        try:
            dtype = self.dtype.resolve()
        except CorruptExportError as error:
            raise CorruptExportError(f"{what}: {error}") from error
        if values.nbytes != prod(self.shape) * dtype.itemsize:
            raise CorruptExportError(f"{what}: {values.nbytes} bytes for {self.shape} of {dtype}")
        if self.fortran and len([n for n in self.shape if n > 1]) > 1:
            raise CorruptExportError(f"{what}: Fortran order, which MOSAIC cannot take either")
        return StoredArray(values.offset, values.nbytes, self.shape, dtype)


def _is_shape(shape: Any) -> bool:
    return (
        isinstance(shape, tuple)
        and len(shape) <= _MAX_AXES
        and all(type(n) is int and 0 <= n < _MAX_LENGTH for n in shape)
    )
