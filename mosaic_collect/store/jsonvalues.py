"""The user's metadata: what JSON can hold, and not more than a reader would read back."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

from mosaic_collect.checks import pythons
from mosaic_collect.errors import InputError
from mosaic_collect.store.parsing import MAX_DOCUMENT_NBYTES, MAX_VALUES
from mosaic_collect.text import shown

# Well below what a root document may be: nothing may be written that cannot be read.
_MAX_NBYTES = MAX_DOCUMENT_NBYTES // 4
_MAX_VALUES = MAX_VALUES // 4
_MAX_DEPTH = 64  # JSON parsers have bounds of their own


def json_copy(entries: Mapping[str, Any], nonfinite_as_text: bool = False) -> dict[str, Any]:
    """What JSON will give back for these entries: tuples become lists, for one.

    NumPy's numbers become Python's, and paths their texts.

    Args:
        entries: The user's.
        nonfinite_as_text: NaN and infinity, which JSON lacks, become their names.

    Raises:
        InputError: JSON cannot hold a value, which is named by its place, or they are too many.
    """
    if not isinstance(entries, Mapping):
        raise InputError(f"metadata: expected a mapping, got {type(entries).__name__}")
    try:
        text = _dumped(dict(entries), nonfinite_as_text)
        copy = dict(json.loads(text))
        depth = _depth(copy)
    except InputError:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"metadata: expected values that JSON can hold: {error}") from error
    _check(*_size(text), depth)
    return copy


def json_sizes(copy: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Bytes and values of each entry of such a copy, so that a change asks for those alone."""
    return {name: _size(json.dumps({name: value})) for name, value in copy.items()}


def check_sizes(sizes: Iterable[tuple[int, int]]) -> None:
    """Refuse entries that are fine one by one, and too many together.

    Raises:
        InputError: They are.
    """
    nbytes, values = (sum(each) for each in zip((0, 0), *sizes, strict=True))
    _check(nbytes, values, 0)


def _size(text: str) -> tuple[int, int]:
    return len(text), text.count(",") + text.count("[") + text.count("{")


def _check(nbytes: int, values: int, depth: int) -> None:
    if nbytes > _MAX_NBYTES or values > _MAX_VALUES or depth > _MAX_DEPTH:
        raise InputError(
            f"metadata: expected at most {_MAX_NBYTES} bytes of JSON, "
            f"{_MAX_VALUES} values and {_MAX_DEPTH} levels, got {nbytes}, {values}, {depth}"
        )


def _dumped(entries: dict[str, Any], nonfinite_as_text: bool) -> str:
    """Their JSON; the values are only looked at one by one where it is not to be had at once."""
    try:
        return json.dumps(entries, allow_nan=False)
    except (TypeError, ValueError):
        return json.dumps(_plain(entries, "", nonfinite_as_text), allow_nan=False)


def _plain(value: Any, place: str, nonfinite_as_text: bool) -> Any:
    """The value in types of JSON; ``place`` is such as ``policy.layers[2]``."""
    if isinstance(value, Mapping):
        before = f"{place}." if place else ""
        each = value.items()
        return {_key(k, place): _plain(v, f"{before}{k}", nonfinite_as_text) for k, v in each}
    if isinstance(value, (list, tuple)):
        return [_plain(v, f"{place}[{at}]", nonfinite_as_text) for at, v in enumerate(value)]
    value = pythons(value)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, float) and not math.isfinite(value):
        if nonfinite_as_text:
            return str(value)
    elif value is None or isinstance(value, (str, int, float)):
        return value
    raise InputError(
        f"metadata: expected values that JSON can hold, got {shown(repr(value))} at {shown(place)}"
    )


def _key(key: Any, place: str) -> Any:
    """Numbers as keys become texts in JSON."""
    key = pythons(key)
    if key is None or isinstance(key, (str, int, float)):
        return key
    where = shown(place) or "the top"
    raise InputError(f"metadata: expected names as keys, got {shown(repr(key))} at {where}")


def _depth(value: dict[str, Any] | list[Any]) -> int:
    inner = value.values() if isinstance(value, dict) else value
    deeper = [_depth(v) for v in inner if isinstance(v, (dict, list))]
    return 1 + max(deeper, default=1 if inner else 0)
