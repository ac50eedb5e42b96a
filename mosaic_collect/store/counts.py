"""Pairs that hold NaN or infinity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.store.grid import FieldGrid


def float_names(grids: Mapping[str, FieldGrid]) -> list[str]:
    """Names of the fields that can hold NaN or infinity."""
    return [name for name, grid in grids.items() if grid.field.is_float]


def nonfinite_pairs(values: NDArray[Any]) -> int:
    """Pairs of floats of shape ``(envs, steps[, dim])`` that hold NaN or infinity."""
    if all_finite(values):
        return 0
    return int(np.count_nonzero(~finite_rows(values)))


def all_finite(values: NDArray[Any]) -> bool:
    """Whether surely no value is NaN or infinite; False may also mean that the sum overflowed.

    A sum is NaN or infinite if any term is, and takes no temporary array.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.add.reduce(values, axis=None)))


def finite_rows(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows of ``(a, b[, dim])`` hold neither NaN nor infinity, shape ``(a, b)``."""
    finite = np.isfinite(values)
    rows = np.logical_and.reduce(finite, axis=tuple(range(2, values.ndim)))
    return np.asarray(rows)
