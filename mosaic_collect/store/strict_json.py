"""JSON as its standard has it: no NaN, no number beyond what a float holds."""

from __future__ import annotations

import json
import math
from typing import Any

from mosaic_collect.checks import lfs_pointer
from mosaic_collect.errors import CorruptStoreError


def strict_json(data: bytes, where: str) -> Any:
    """The value of a ``zarr.json``.

    Raises:
        CorruptStoreError: It is no JSON; ``where`` names the store.
    """
    if words := lfs_pointer(data):
        raise CorruptStoreError(f"{where}: zarr.json is {words}")
    try:
        return json.loads(data, parse_constant=_no_constant, parse_float=_finite)
    except ValueError as error:
        raise CorruptStoreError(f"{where}: zarr.json is no valid JSON: {error}") from error


def object_in(document: Any, name: str) -> dict[str, Any]:
    """The object that a document holds under a name; an empty one where there is none."""
    found = document.get(name) if isinstance(document, dict) else None
    return found if isinstance(found, dict) else {}


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large for a number")
    return number
