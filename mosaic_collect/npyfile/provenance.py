"""What a file of ours says of its making, beside what MOSAIC's metadata say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mosaic_collect.npyfile.file import NpyFile
from mosaic_collect.store.strict_json import object_in

#: Our key in the file's ``metadata``.
OURS = "mosaic_collect"
#: In it: the axes of those arrays whose rows were made flat, by key.
AXES = "axes"


def metadata_of(file: NpyFile) -> dict[str, Any]:
    """The file's ``metadata``, MOSAIC's and ours; empty where it has none."""
    return object_in(file.plain, "metadata")


def provenance(file: NpyFile) -> dict[str, Any] | None:
    """What an export wrote of itself into the file's metadata; None if it did not write it."""
    ours = metadata_of(file).get(OURS)
    return ours if isinstance(ours, dict) else None


def of_mosaic(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The ``metadata`` without ours."""
    return {key: value for key, value in metadata.items() if key != OURS}
