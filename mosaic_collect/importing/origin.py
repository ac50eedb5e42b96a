"""What a store remembers of the file that it was made from."""

from __future__ import annotations

from typing import Any

from mosaic_collect.errors import CorruptExportError, InputError, StoreMismatchError
from mosaic_collect.jsonvalues import json_copy
from mosaic_collect.metadata import StoreState
from mosaic_collect.npyfile.file import NpyFile
from mosaic_collect.text import shown

#: The key in a store's metadata.
IMPORTED_FROM = "imported_from"
_MOST_VALUES = 100_000
_MOST_CHARACTERS = 8_000_000
_MOST_BITS = 4096  # of a number: Python writes none of many digits


def origin(file: NpyFile) -> dict[str, Any]:
    """Path, size, and all that the file holds beside arrays, as JSON has it.

    Keys that are numbers become texts, as JSON has no others.

    Raises:
        CorruptExportError: A value that JSON cannot hold, or too many.
    """
    others = {key: value for key, value in file.plain.items() if key != "metadata"}
    told: dict[str, Any] = {"path": file.path, "nbytes": file.nbytes}
    told["metadata"] = file.plain.get("metadata")
    if others:
        told["others"] = others
    _check_plain(file)
    try:
        return json_copy(told)
    except InputError as error:
        raise CorruptExportError(f"{file.path}: {error}") from error


def check_same_source(state: StoreState, store: str, told: dict[str, Any], num_steps: int) -> None:
    """Refuse to go on with a store that is no import of just this file.

    Raises:
        StoreMismatchError: It was made otherwise, of another file, or was gone on with since.
    """
    before = state.metadata.get(IMPORTED_FROM)
    if not isinstance(before, dict):
        raise StoreMismatchError(f"{store} was not imported from a file: nothing to go on with")
    for key in ("nbytes", "sha256"):
        if before.get(key) != told[key]:
            raise StoreMismatchError(
                f"{store} was imported from another file, {shown(before.get('path'))}: "
                f"{key}: expected {shown(before.get(key))}, got {told[key]}"
            )
    if state.committed_steps > num_steps:
        raise StoreMismatchError(
            f"{store} was gone on with: expected at most {num_steps} steps, "
            f"got {state.committed_steps}"
        )


def _check_plain(file: NpyFile) -> None:
    """Count before JSON is made of it: a few bytes of a pickle can stand for endlessly many.

    What stands in it twice is counted twice, so values that hold themselves end here, too.
    """
    found, characters, rest = 1, 0, [file.plain]
    while rest:
        value: Any = rest.pop()
        inner = _inner(value)
        found, characters = found + len(inner), characters + _length(value, file.path)
        if found > _MOST_VALUES or characters > _MOST_CHARACTERS:
            raise CorruptExportError(
                f"{file.path}: metadata: expected at most {_MOST_VALUES} values and "
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
