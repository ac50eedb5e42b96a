"""The robot of a recording: names, scales, time steps and units, kept in the store's metadata.

    "robot": {"name": "g1", "joint_names": ["left_hip_pitch_joint", ...], "control_dt": 0.02, ...}

Collections write it. A loop of your own passes ``robot=`` to ``TrajectoryWriter``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any

from mosaic_collect.errors import InputError
from mosaic_collect.store.schema import Schema
from mosaic_collect.text import shown

#: Metadata entry of the robot.
ROBOT = "robot"
_NAMES = ("joint_names", "body_names", "action_names")
_SECONDS = ("control_dt", "sim_dt")
#: Attributes that have one entry per entry of another one.
_SAME_LENGTH = {
    "action_scale": "action_names",
    "action_offset": "action_names",
    "default_joint_pos": "joint_names",
}
_NUMBERS = tuple(_SAME_LENGTH)


@dataclass(frozen=True, kw_only=True)
class Robot:
    """Description of the recorded robot; every attribute is optional.

    Attributes:
        name: Name of the robot.
        joint_names: Joints, in the order of the observation's columns.
        body_names: Bodies, in the simulator's order.
        action_names: Joint, or other target, of each action.
        action_scale: Factor per action: target = offset + scale * action.
        action_offset: Offset per action.
        default_joint_pos: Default position per joint.
        control_dt: Seconds between two recorded steps.
        sim_dt: Seconds per step of the physics.
        units: Unit of a field or of an observation term, by its name, such as ``"rad"``.

    Raises:
        InputError: Names every bad attribute.
    """

    name: str = ""
    joint_names: tuple[str, ...] = ()
    body_names: tuple[str, ...] = ()
    action_names: tuple[str, ...] = ()
    action_scale: tuple[float, ...] = ()
    action_offset: tuple[float, ...] = ()
    default_joint_pos: tuple[float, ...] = ()
    control_dt: float | None = None
    sim_dt: float | None = None
    units: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (*_NAMES, *_NUMBERS):
            value = getattr(self, name)
            if not isinstance(value, (str, bytes, Mapping)) and hasattr(value, "__iter__"):
                object.__setattr__(self, name, tuple(value))
        if problems := list(self._problems()):
            raise InputError("; ".join(f"{ROBOT}: {problem}" for problem in problems))
        for name in _NUMBERS:
            object.__setattr__(self, name, tuple(float(n) for n in getattr(self, name)))
        for name in _SECONDS:
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, float(value))
        object.__setattr__(self, "units", dict(self.units))

    @classmethod
    def parse(cls, value: Any) -> Robot:
        """A robot from a dict of its attributes; a text is its name.

        Raises:
            InputError: An unknown attribute, or a bad value.
        """
        if isinstance(value, (Robot, str)):
            return value if isinstance(value, Robot) else cls(name=value)
        names = [f.name for f in fields(cls)]
        unknown = [n for n in value if n not in names] if isinstance(value, Mapping) else [value]
        if unknown:
            raise InputError(f"{ROBOT}: expected {', '.join(names)}, got {shown(unknown)}")
        return cls(**value)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Robot | None:
        """The robot in a store's metadata, or None.

        Raises:
            InputError: The entry is not a robot.
        """
        value = metadata.get(ROBOT)
        return None if value is None else cls.parse(value)

    def to_metadata(self) -> dict[str, Any]:
        """The attributes that have a value, as JSON."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        found = {name: value for name, value in found.items() if value not in ("", (), {}, None)}
        return {n: list(v) if isinstance(v, tuple) else v for n, v in found.items()}

    def check(self, schema: Schema, metadata: Mapping[str, Any]) -> None:
        """Check the robot against the fields of a store, and the terms in its metadata.

        Raises:
            InputError: The number of actions differs, or a unit has no field or term.
        """
        widths = {f.name: f.width for f in schema.fields}
        count, width = len(self.action_names), widths.get("actions")
        if count and width is not None and count != width:
            raise InputError(f"{ROBOT}: action_names: expected {width} for actions, got {count}")
        terms = metadata.get("terms")
        entries = terms.values() if isinstance(terms, dict) else ()
        named = [
            t.get("name") for e in entries if isinstance(e, list) for t in e if type(t) is dict
        ]
        if unknown := sorted(set(self.units) - {*widths, *map(str, named)}):
            have = ", ".join(dict.fromkeys((*widths, *map(str, named))))
            raise InputError(
                f"{ROBOT}: units: expected names of fields or terms ({have}), got {unknown}"
            )

    def __str__(self) -> str:
        counts = {"joints": self.joint_names, "actions": self.action_names}
        words = [f"{len(names)} {what}" for what, names in counts.items() if names]
        if self.control_dt:
            words.append(f"{self.control_dt:g} s per step ({1 / self.control_dt:g} Hz)")
        if self.sim_dt:
            words.append(f"simulated in steps of {self.sim_dt:g} s")
        return ": ".join(filter(None, (shown(self.name), ", ".join(words))))

    def _problems(self) -> Iterator[str]:
        if not _are_texts([self.name]):
            yield f"name: expected a text, got {shown(self.name)}"
        for name in _NAMES:
            value = getattr(self, name)
            if not isinstance(value, tuple) or not _are_texts(value):
                yield f"{name}: expected names, got {shown(value)}"
            elif len({*value}) < len(value):
                yield f"{name}: expected each name once, got {shown(value)}"
        for name in _NUMBERS:
            value, like = getattr(self, name), getattr(self, _SAME_LENGTH[name])
            if not isinstance(value, tuple) or not all(map(_is_number, value)):
                yield f"{name}: expected numbers, got {shown(value)}"
            elif value and like and len(value) != len(like):
                yield f"{name}: expected {len(like)} as {_SAME_LENGTH[name]}, got {len(value)}"
        for name in _SECONDS:
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and value > 0):
                yield f"{name}: expected seconds above 0, got {shown(value)}"
        if not isinstance(self.units, Mapping) or not _are_texts(
            [*self.units, *self.units.values()]
        ):
            yield f"units: expected a unit by name, got {shown(self.units)}"


def _are_texts(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and value is not True and math.isfinite(float(value))
