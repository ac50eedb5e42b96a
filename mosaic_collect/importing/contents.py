"""Check that a scanned ``.npy`` dict can become a store, and find that store's fields.

The file is MOSAIC's (BAAI-Humanoid/MOSAIC, collection/expert_trajectory_collector.py), or our own
export of either layout:

    observations, student_observations, actions, action_mean, action_sigma   floats [T, N, D]
    valid_mask       bool [T, N]
    trajectory_id    int64 [T, N]
    trajectory_end   uint8 [T, N]
    other arrays     [T, N], [T, N, D] or more axes, of any dtype that a store can hold

Rows that our export made flat get their axes again, of which the file tells. A compact file
``[M, 1, D]`` is a grid of one environment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import count
from math import prod
from typing import NamedTuple

from mosaic_collect.checks import is_whole
from mosaic_collect.errors import CorruptExportError, InputError
from mosaic_collect.npyfile.layout import AXES, StoredArray
from mosaic_collect.npyfile.read import NpyFile
from mosaic_collect.store.parsing import MAX_ENVS
from mosaic_collect.store.schema import (
    MAX_AXES,
    MOSAIC_FIELDS,
    MOSAIC_SIGMA,
    TRAJECTORY_END,
    TRAJECTORY_ID,
    VALID_MASK,
    Field,
    Schema,
)
from mosaic_collect.text import shown

#: Fields that keep a file's trajectory ids and ends, as the writer has its own under their names.
SOURCE = {TRAJECTORY_ID: "source_trajectory_id", TRAJECTORY_END: "source_trajectory_end"}


class Found(NamedTuple):
    """Fields of a file that can become a store.

    Attributes:
        schema: Schema of the store.
        arrays: Place of each field's values.
        source_names: Fields that keep the file's trajectory ids and ends, by the file's keys.
    """

    schema: Schema
    arrays: dict[str, StoredArray]
    source_names: dict[str, str]


def find_fields(file: NpyFile) -> Found:
    """Find the fields of the store that a scanned file becomes.

    Raises:
        CorruptExportError: Naming every key at fault, what was expected and what is there.
    """
    problems = list(_missing(file)) or list(_misshapen(file))
    if problems:
        raise CorruptExportError(f"{file.path}: cannot become a store: " + "; ".join(problems))
    names = _field_names(file)
    try:
        arrays = {name: _with_axes(file, key) for name, key in names.items()}
        fields = (Field(name=n, dim=a.shape[2:], dtype=a.dtype.name) for n, a in arrays.items())
        schema = Schema(tuple(with_defaults(fields)))
    except InputError as error:
        raise CorruptExportError(f"{file.path}: cannot become a store: {error}") from error
    return Found(schema, arrays, {key: name for name, key in names.items() if key in SOURCE})


def _missing(file: NpyFile) -> Iterator[str]:
    """Name what is missing. Our own exports may hold any fields; others are MOSAIC's."""
    have = ", ".join(sorted(file.arrays)) or "no array"
    if file.provenance is None:
        if not {"observations", "student_observations"} & set(file.arrays):
            yield f"expected observations or student_observations, got {have}"
        if "actions" not in file.arrays:
            yield f"expected actions, got {have}"
    elif not set(file.arrays) - {VALID_MASK}:
        yield f"expected at least one field, got {have}"
    if file.metadata.get("has_valid_mask") is True and VALID_MASK not in file.arrays:
        yield "the metadata tells of a valid_mask, and there is none"


def _misshapen(file: NpyFile) -> Iterator[str]:
    shape = leading(file)
    if not (len(shape) == 2 and shape[0] >= 1 and 1 <= shape[1] <= MAX_ENVS):
        key = _first(file)
        yield f"{key}: expected [T, N, D], N at most {MAX_ENVS}, got {file.arrays[key].shape}"
        return
    for key, array in file.arrays.items():
        axes = _expected_axes(key)
        whole = array.shape[:2] == shape and len(array.shape) in axes and 0 not in array.shape
        if not whole:
            form = " or ".join(str([*shape, "D"][:n]) for n in axes[:2]).replace("'", "")
            yield f"{key}: expected {form}, got {list(array.shape)}"
        kinds = _expected_kinds(key)
        if array.dtype.kind not in kinds:
            yield f"{key}: expected {_KINDS[kinds]}, got {array.dtype}"


_KINDS = {"f": "floats", "b": "bool", "i": "whole numbers", "biuf": "numbers"}


def _expected_axes(key: str) -> tuple[int, ...]:
    if key in (VALID_MASK, TRAJECTORY_ID):
        return (2,)
    return (3,) if key in MOSAIC_FIELDS else tuple(range(2, 3 + MAX_AXES))


def _expected_kinds(key: str) -> str:
    if key in MOSAIC_FIELDS:
        return "f"
    return {VALID_MASK: "b", TRAJECTORY_ID: "i"}.get(key, "biuf")


def _first(file: NpyFile) -> str:
    """The key whose shape the others must have: MOSAIC's first, else the file's."""
    return next((name for name in MOSAIC_FIELDS if name in file.arrays), next(iter(file.arrays)))


def leading(file: NpyFile) -> tuple[int, ...]:
    """The first two axes of the arrays: steps and environments."""
    return file.arrays[_first(file)].shape[:2]


def _field_names(file: NpyFile) -> dict[str, str]:
    """Field -> key, MOSAIC's in its order, then the file's others; the mask is no field."""
    others = [key for key in file.arrays if key not in (*MOSAIC_FIELDS, VALID_MASK)]
    keys = [*(key for key in MOSAIC_FIELDS if key in file.arrays), *others]
    taken = {key.lower() for key in keys}
    return {_free_name(SOURCE[key], taken) if key in SOURCE else key: key for key in keys}


def _free_name(name: str, taken: set[str]) -> str:
    numbered = (name if n == 1 else f"{name}_{n}" for n in count(1))
    return next(free for free in numbered if free not in taken)


def with_defaults(fields: Iterable[Field]) -> list[Field]:
    """Give fields the defaults of ``Schema.mosaic``, so that a collection can resume."""
    fields = list(fields)
    shapes = {f.name: (f.dim, f.dtype) for f in fields}
    defaults: dict[str, float | str] = {"action_sigma": MOSAIC_SIGMA}
    if "actions" in shapes and shapes["actions"] == shapes.get("action_mean"):
        defaults["action_mean"] = "actions"
    return [replace(f, default=defaults.get(f.name)) for f in fields]


def _with_axes(file: NpyFile, key: str) -> StoredArray:
    """An array as it was recorded: our export makes MOSAIC's flat.

    Raises:
        InputError: The file tells of other axes than its values have room for.
    """
    array, told = file.arrays[key], (file.provenance or {}).get(AXES)
    if not isinstance(told, dict) or key not in told or key not in MOSAIC_FIELDS:
        return array
    axes = told[key]
    whole = isinstance(axes, list) and all(is_whole(n, 1, array.shape[2]) for n in axes)
    if not whole or len(axes) > MAX_AXES or prod(axes) != array.shape[2]:
        raise InputError(f"{key}: expected axes of {array.shape[2]} values, got {shown(axes)}")
    return replace(array, shape=(*array.shape[:2], *axes))
