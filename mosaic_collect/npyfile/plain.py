"""What a file holds beside its arrays, as JSON has it; a file may come from anywhere."""

from __future__ import annotations

from typing import Any

from mosaic_collect.errors import CorruptExportError, InputError
from mosaic_collect.store.jsonvalues import json_copy
from mosaic_collect.text import shown

_MOST_VALUES = 100_000
_MOST_CHARACTERS = 8_000_000
_MOST_BITS = 4096  # of a number: Python writes none of many digits


def plain_copy(values: dict[str, Any], path: str) -> dict[str, Any]:
    """A copy as JSON gives it back: keys that are numbers become texts, and so do NaN and infinity.

    Raises:
        CorruptExportError: A value that JSON cannot hold, or too many.
    """
    _check(values, path)
    try:
        return json_copy(values, nonfinite_as_text=True)
    except InputError as error:
        raise CorruptExportError(f"{path}: {error}") from error


def _check(values: dict[str, Any], path: str) -> None:
    """Count before JSON is made of it: a few bytes of a pickle can stand for endlessly many.

    What stands in it twice is counted twice, so values that hold themselves end here, too.
    """
    found, characters, rest = 1, 0, [values]
    while rest:
        value: Any = rest.pop()
        inner = _inner(value)
        found, characters = found + len(inner), characters + _length(value, path)
        if found > _MOST_VALUES or characters > _MOST_CHARACTERS:
            raise CorruptExportError(
                f"{path}: metadata: expected at most {_MOST_VALUES} values and "
                f"{_MOST_CHARACTERS} characters, got more"
            )
        rest += inner


def _inner(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return list(value) if isinstance(value, (list, tuple)) else []


def _length(value: Any, path: str) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise CorruptExportError(f"{path}: metadata: got {shown(value)}")
    if value is None or isinstance(value, (int, float, dict, list, tuple)):
        return 0
    raise CorruptExportError(
        f"{path}: metadata: expected text, numbers, lists and dicts, got bytes, an array or a name"
    )
