"""Lazy arrays: fields of a store that decode only the chunks that an index touches."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import InputError
from mosaic_collect.text import shown

#: Reads ascending ranges of the first axes, as an array of their lengths and the other axes.
ReadRanges = Callable[..., NDArray[Any]]


class LazyArray:
    """A committed field, ``(T, N[, D])``, or that of one trajectory, ``(num_steps[, D])``.

    Index it like a NumPy array with whole numbers, slices and ``...``. Each index decodes only the
    chunks that it touches and returns a NumPy array.

    Attributes:
        shape: Shape of the array.
        dtype: NumPy type of the values.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, read: ReadRanges, axes: int = 2) -> None:
        self.shape = shape
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._read, self._axes = read, axes

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of all values in memory."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.shape} {self.dtype}>"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError(f"{type(self).__name__}: on disk; an array of it is always a copy")
        return np.asarray(self[...], dtype=dtype)

    def __dlpack__(self, **options: Any) -> Any:
        """Decode all of it for another library, such as ``torch.as_tensor``."""
        return self[...].__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)  # kDLCPU

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Decode the rows of a basic index.

        Raises:
            InputError: The index is of another kind, or has too many parts.
            IndexError: A position is out of range.
        """
        parts = _expand(key, self.ndim)
        ahead = [_split(parts[axis], self.shape[axis], axis) for axis in range(self._axes)]
        values = self._read(*(wanted for wanted, _rest in ahead))
        # Positions were turned into ranges of one and backward slices read forward: finish here.
        rest = (*(rest for _wanted, rest in ahead), *(_checked(p) for p in parts[self._axes :]))
        return np.asarray(values[rest])


def _expand(key: Any, ndim: int) -> list[Any]:
    parts = list(key) if isinstance(key, tuple) else [key]
    dots = [i for i, p in enumerate(parts) if p is Ellipsis]
    if len(dots) > 1 or len(parts) - len(dots) > ndim:
        raise InputError(f"index {key!r}: expected at most {ndim} parts and one ...")
    at = dots[0] if dots else len(parts)
    missing = ndim - (len(parts) - len(dots))
    return [*parts[:at], *[slice(None)] * missing, *parts[at + 1 :]]


def _split(part: Any, length: int, axis: int) -> tuple[range, Any]:
    """The positions to read along an axis, ascending, and the index to apply to the result."""
    part = _checked(part)
    if isinstance(part, slice):
        wanted = range(length)[part]
        if wanted.step < 0:
            return wanted[::-1], slice(None, None, -1)
        return wanted, slice(None)
    position = part + length if part < 0 else part
    if not 0 <= position < length:
        raise IndexError(f"index {part} is out of range for axis {axis} of length {length}")
    return range(position, position + 1), 0


def _checked(part: Any) -> Any:
    if isinstance(part, slice):
        return part
    try:
        if isinstance(part, (bool, np.bool_)):
            raise TypeError
        return operator.index(part)
    except TypeError:
        raise InputError(
            f"index {shown(part)}: expected whole numbers, slices and ...; for more, read() first "
            "or use to_zarr() or to_xarray()"
        ) from None
