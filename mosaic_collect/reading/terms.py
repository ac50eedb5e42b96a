"""Observation terms: named columns of a field.

Collections write them to the metadata of a store. A loop of your own may do the same:

    "terms": {"student_observations": [{"name": "joint_pos", "dim": 29, "frames": 5}, ...]}

    columns    0 ........ 28 | 29 ...... 57 | ... | 116 ..... 144 | 145 ...
               joint_pos, oldest frame            ...   its newest   the next term

An entry may name the columns of a frame, ``"columns": ["left_hip", ...]``. Without names, the
robot's names are used for terms and fields of joints and of actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mosaic_collect.checks import is_whole
from mosaic_collect.errors import InputError
from mosaic_collect.store.robot import Robot
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
        column_names: Names of a frame's columns, where the metadata name them.
        unit: Unit of the values, where the robot's description has one.
    """

    name: str
    dim: int
    frames: int = 1
    start: int = 0
    column_names: tuple[str, ...] = ()
    unit: str = ""

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
    fields, units = {f.name: f for f in schema.fields}, usable_robot(metadata).units
    found = {name: _terms(fields[name], told[name]) for name in told if name in fields}
    return {
        field: tuple(replace(term, unit=units.get(term.name, "")) for term in terms)
        for field, terms in found.items()
    }


def usable_terms(schema: Schema, metadata: Mapping[str, Any]) -> dict[str, tuple[Term, ...]]:
    """Parse the terms per field; empty if the metadata contradict the fields."""
    try:
        return parse_terms(schema, metadata)
    except InputError:
        return {}


def usable_robot(metadata: Mapping[str, Any]) -> Robot:
    """The robot in the metadata; one without attributes if there is none or it is damaged."""
    try:
        return Robot.from_metadata(metadata) or Robot()
    except InputError:
        return Robot()


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


def column_names(data: Any, field: str) -> list[str]:
    """Name the columns of a field, such as ``joint_pos[left_knee_joint]``; each name is unique.

    Args:
        data: Dataset, table, or state of a store.
        field: Name of the field. Values of several axes are numbered in row order.

    Raises:
        FieldNotFoundError: There is no such field.
    """
    state = getattr(data, "state", data)
    found = state.schema[field]
    robot = usable_robot(state.metadata)
    terms = usable_terms(state.schema, state.metadata).get(field)
    if terms is None:
        return _labels(Term(name=field, dim=found.width), robot) if found.row_shape else [field]
    return [
        label + (f"@-{age}" if age else "")
        for term in terms
        for age in reversed(range(term.frames))
        for label in _labels(term, robot)
    ]


def _labels(term: Term, robot: Robot) -> list[str]:
    """Names of a frame's columns: its own, the robot's where they fit, or else numbers."""
    name, names = term.name.lower(), term.column_names
    if not names and "action" in name and len(robot.action_names) == term.dim:
        names = robot.action_names
    if not names and ("joint" in name or "dof" in name) and len(robot.joint_names) == term.dim:
        names = robot.joint_names
    if not names and term.dim == 1:
        return [term.name]
    return [f"{term.name}[{label}]" for label in names or range(term.dim)]


def _terms(field: Field, told: Any) -> tuple[Term, ...]:
    found, start = [], 0
    for entry in told if isinstance(told, list) else [told]:
        term = _term(entry, start)
        if term is None:
            raise InputError(
                f"metadata {TERMS!r}, {field.name}: expected entries of name, dim, frames "
                f"and columns, got {entry!r}"
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
    told = entry if isinstance(entry, Mapping) else {}
    name, names = told.get("name"), told.get("columns") or []
    dim, frames = told.get("dim"), told.get("frames", 1)
    if not isinstance(name, str) or not is_whole(dim, 1) or not is_whole(frames, 1):
        return None
    is_list = isinstance(names, list) and all(isinstance(n, str) for n in names)
    if not is_list or (names and len({*names}) != dim):
        return None
    return Term(name, int(dim or 0), int(frames), start, tuple(names))
