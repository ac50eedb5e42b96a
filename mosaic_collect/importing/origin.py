"""What a store remembers of the file that it was made from."""

from __future__ import annotations

from typing import Any

from mosaic_collect.errors import StoreMismatchError
from mosaic_collect.npyfile.read import NpyFile, plain_copy
from mosaic_collect.store.metadata import StoreState
from mosaic_collect.text import shown

#: The key in a store's metadata.
IMPORTED_FROM = "imported_from"


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
    return plain_copy(told, file.path)


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
