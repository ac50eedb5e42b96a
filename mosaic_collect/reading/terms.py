"""Which columns of a field are which observation term's.

A collection notes them in its store's metadata, and whoever writes a store may do the same:

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


@dataclass(frozen=True, kw_only=True)
class Term:
    """One term's columns of a field.

    Attributes:
        name: Its name.
        dim: Width of a frame.
        frames: How many frames lie side by side, from the oldest to the newest.
        start: Its first column.
    """

    name: str
    dim: int
    frames: int = 1
    start: int = 0

    @property
    def stop(self) -> int:
        """The column behind its last one."""
        return self.start + self.dim * self.frames

    @property
    def columns(self) -> slice:
        """All its columns."""
        return slice(self.start, self.stop)

    @property
    def newest(self) -> slice:
        """The columns of its newest frame."""
        return slice(self.stop - self.dim, self.stop)

    @property
    def label(self) -> str:
        """Such as ``joint_pos (29 x 5 frames)``."""
        return f"{self.name} ({self.dim}{f' x {self.frames} frames' if self.frames > 1 else ''})"


def told_terms(schema: Schema, metadata: Mapping[str, Any]) -> dict[str, tuple[Term, ...]]:
    """The terms that a store's metadata tells of, by fields; of other fields nothing.

    Raises:
        InputError: What it tells is no list of terms, or does not fill the field's width.
    """
    told = metadata.get(TERMS)
    if told is None:
        return {}
    if not isinstance(told, Mapping):
        raise InputError(f"metadata {TERMS!r}: expected an object of fields, got {told!r}")
    fields = {f.name: f for f in schema.fields}
    return {name: _terms(fields[name], told[name]) for name in told if name in fields}


def usable_terms(schema: Schema, metadata: Mapping[str, Any]) -> dict[str, tuple[Term, ...]]:
    """As ``told_terms``, but nothing where that makes no sense: names are a help, no more."""
    try:
        return told_terms(schema, metadata)
    except InputError:
        return {}


def find_term(terms: Mapping[str, tuple[Term, ...]], field: str, name: str) -> Term:
    """One term of a field.

    Raises:
        InputError: There is none of that name; the message lists those there are.
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
