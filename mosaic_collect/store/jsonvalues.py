"""The user's metadata: what JSON can hold, and not more than a reader would read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mosaic_collect.errors import InputError
from mosaic_collect.store.parsing import MAX_DOCUMENT_NBYTES, MAX_VALUES

# Well below what a root document may be: nothing may be written that cannot be read.
_MAX_NBYTES = MAX_DOCUMENT_NBYTES // 4
_MAX_VALUES = MAX_VALUES // 4
_MAX_DEPTH = 64  # JSON parsers have bounds of their own


def json_copy(entries: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON will give back for these entries: tuples become lists, for one.

    Raises:
        InputError: JSON cannot hold a value, or they are too many.
    """
    try:
        text = json.dumps(dict(entries), allow_nan=False)
        copy = dict(json.loads(text))
        depth = _depth(copy)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"metadata: expected values that JSON can hold: {error}") from error
    values = text.count(",") + text.count("[") + text.count("{")
    if len(text) > _MAX_NBYTES or values > _MAX_VALUES or depth > _MAX_DEPTH:
        raise InputError(
            f"metadata: expected at most {_MAX_NBYTES} bytes of JSON, "
            f"{_MAX_VALUES} values and {_MAX_DEPTH} levels, got {len(text)}, {values}, {depth}"
        )
    return copy


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0)
