"""The form in which a field's rows stand in the file.

MOSAIC takes each of its own arrays for ``[T, N, D]`` of float32, so those of several axes become
one, in C order, and the file says which axes they were. It reads no others: they keep their axes.
"""

from __future__ import annotations

from collections.abc import Iterable

from mosaic_collect.errors import InputError
from mosaic_collect.store.schema import MOSAIC_FIELDS, Field


def is_flattened(field: Field) -> bool:
    """Whether several axes become one."""
    return field.has_axes and field.name in MOSAIC_FIELDS


def exported_row(field: Field) -> tuple[int, ...]:
    """Shape of a row in the file."""
    return (field.width,) if is_flattened(field) else field.row_shape


def exported_dtype(field: Field) -> str:
    """float32 for floats, which is all that MOSAIC's networks take; others as stored."""
    return "float32" if field.is_float else field.dtype


def flat_dim(field: Field) -> int | None:
    """A row's width as MOSAIC's metadata have it."""
    return None if field.dim is None else field.width


def check_rows(fields: Iterable[Field]) -> None:
    """Refuse images as what MOSAIC trains on: it would not normalise them, and crash on uint8.

    Raises:
        InputError: Naming each field.
    """
    images = [f for f in fields if is_flattened(f) and not f.is_float]
    wrong = [f"{f.name} is {f.dtype} of {f.dim}" for f in images]
    if wrong:
        raise InputError(
            f"fields: MOSAIC takes rows of float32, but {', '.join(wrong)}: leave it out by naming "
            "the other fields"
        )
