"""Observation terms: named columns of a field.

Collections write them to the metadata of a store. A loop of your own may do the same:

    "terms": {"student_observations": [{"name": "joint_pos", "dim": 29, "frames": 5}, ...]}

    columns    0 ........ 28 | 29 ...... 57 | ... | 116 ..... 144 | 145 ...
               joint_pos, oldest frame            ...   its newest   the next term
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mosaic_collect.checks import is_whole
from mosaic_collect.errors import InputError
from mosaic_collect.store.schema import Field, Schema

TERMS = "terms"


@dataclass(frozen=True)
class Term:
    """The columns of one observation term in a field.

    Attributes:
        name: Name of the term.
        dim: Width of a frame.
        frames: Number of frames side by side, from the oldest to the newest.
        start: First column.
    """

    name: str
    dim: int
    frames: int = 1
    start: int = 0

    @property
    def width(self) -> int:
        """Number of columns of all frames."""
        return self.dim * self.frames

    @property
    def stop(self) -> int:
        """End of the columns, exclusive."""
        return self.start + self.width

    @property
    def columns(self) -> slice:
        """Columns of all frames."""
        return slice(self.start, self.stop)

    @property
    def newest(self) -> slice:
        """Columns of the newest frame."""
        return slice(self.stop - self.dim, self.stop)

    @property
    def label(self) -> str:
        """Text for people, such as ``joint_pos (29 x 5 frames)``."""
        return f"{self.name} ({self.dim}{f' x {self.frames} frames' if self.frames > 1 else ''})"


def parse_terms(schema: Schema, metadata: Mapping[str, Any]) -> dict[str, tuple[Term, ...]]:
    """Parse the terms per field from a store's metadata; fields without terms are absent.

    Raises:
        InputError: An entry is no list of terms, or does not fill the width of its field.
    """
    told = metadata.get(TERMS)
    if told is None:
        return {}
    if not isinstance(told, Mapping):
        raise InputError(f"metadata {TERMS!r}: expected an object of fields, got {told!r}")
    fields = {f.name: f for f in schema.fields}
    return {name: _terms(fields[name], told[name]) for name in told if name in fields}


def usable_terms(schema: Schema, metadata: Mapping[str, Any]) -> dict[str, tuple[Term, ...]]:
    """Parse the terms per field; empty if the metadata contradict the fields."""
    try:
        return parse_terms(schema, metadata)
    except InputError:
        return {}


def find_term(terms: Mapping[str, tuple[Term, ...]], field: str, name: str) -> Term:
    """Find a term of a field by its name.

    Raises:
        InputError: The field has no such term; the message lists its terms.
    """
    have = terms.get(field, ())
    for term in have:
        if term.name == name:
            return term
    names = ", ".join(t.name for t in have) or "none"
    raise InputError(f"{field}: no term {name!r}; the terms are: {names}")


def _terms(field: Field, told: Any) -> tuple[Term, ...]:
    found, start = [], 0
    for entry in told if isinstance(told, list) else [told]:
        term = _term(entry, start)
        if term is None:
            raise InputError(
                f"metadata {TERMS!r}, {field.name}: expected entries of name, dim and frames, "
                f"got {entry!r}"
            )
        found.append(term)
        start = term.stop
    if field.row_shape != (start,):
        raise InputError(
            f"metadata {TERMS!r}, {field.name}: expected widths that make up {field.dim}, "
            f"got {start}"
        )
    return tuple(found)


def _term(entry: Any, start: int) -> Term | None:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        return None
    dim, frames = entry.get("dim"), entry.get("frames", 1)
    if not is_whole(dim, 1) or not is_whole(frames, 1):
        return None
    return Term(name=entry["name"], dim=int(dim or 0), frames=int(frames), start=start)
