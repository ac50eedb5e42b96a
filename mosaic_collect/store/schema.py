"""What a store holds: named fields, one row per environment and step.

A field's value for one step has shape ``(num_envs, dim)``, or ``(num_envs,)`` where ``dim`` is
None, or ``(num_envs, *dim)`` where it is several axes, as of images. Two more fields belong to
every store and are not part of a schema: ``valid_mask`` (bool) and ``trajectory_id`` (int64), both
of shape ``(num_envs,)`` a step. The writer keeps them, and a third one where the schema has it:
``trajectory_end``, see ``Schema.with_ends``.
"""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, replace
from math import prod
from typing import Any

import numpy as np

from mosaic_collect.checks import is_whole, pythons
from mosaic_collect.errors import FieldNotFoundError, InputError

MAX_DIM = 1 << 24  # values of a row, along all its axes
MAX_AXES = 8  # of a row; NumPy before 2 has 32 in all


VALID_MASK = "valid_mask"
TRAJECTORY_ID = "trajectory_id"
TRAJECTORY_END = "trajectory_end"
#: Values of ``trajectory_end``: the trajectory goes on behind the row, or the recording stopped
#: there; it ended, how is not recorded; it failed, which is a termination that the task counts as a
#: failure; it terminated; it was truncated, by a time-out for one. As in Gymnasium, but for FAILED.
GOES_ON, ENDED, FAILED, TERMINATED, TRUNCATED = range(5)
FLOATS = ("float16", "float32", "float64")
DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *FLOATS,
)
MOSAIC_SIGMA = 0.01  # what MOSAIC's collector stores where no sigma is given
MOSAIC_FIELDS = (
    "observations",
    "student_observations",
    "actions",
    "action_mean",
    "action_sigma",
)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


def _plain_dim(dim: Any) -> Any:
    """The dim in Python's own numbers, as JSON takes no NumPy's; each shape has one spelling."""
    if isinstance(dim, (list, tuple)):
        axes = tuple(operator.index(n) if is_whole(n, 1) else n for n in dim)
        single = len(axes) == 1 and is_whole(axes[0], 1)
        return axes[0] if single else axes or None
    return operator.index(dim) if is_whole(dim, 1) else dim


@dataclass(frozen=True)
class Field:
    """One named array of a store.

    Attributes:
        name: A letter, then letters, digits and underscores; it becomes a folder's name.
        dim: Width of a row; None for one value per environment; a tuple for a row of several axes,
            such as ``(64, 64, 3)``. A tuple of one is that width, an empty one None.
        dtype: NumPy name of the stored type, one of ``DTYPES``.
        default: Value if the field is never passed: a number, or the name of another field of the
            same shape. None: the field must be passed.
    """

    name: str
    dim: int | tuple[int, ...] | None = None
    _: KW_ONLY
    dtype: str = "float32"
    default: float | str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dim", _plain_dim(self.dim))
        if not isinstance(self.default, np.bool_):
            object.__setattr__(self, "default", pythons(self.default))

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one environment's value: ``()``, ``(dim,)`` or ``dim``."""
        if isinstance(self.dim, tuple):
            return self.dim
        return () if self.dim is None else (self.dim,)

    @property
    def width(self) -> int:
        """Values of one environment and step, along all axes."""
        return prod(self.row_shape)

    @property
    def row_nbytes(self) -> int:
        """Bytes of one environment's value of one step."""
        return int(np.dtype(self.dtype).itemsize) * self.width

    @property
    def has_axes(self) -> bool:
        """Whether a row has several axes."""
        return isinstance(self.dim, tuple)

    @property
    def is_float(self) -> bool:
        """Whether its values can be NaN or infinite."""
        return self.dtype in FLOATS

    @property
    def fill_value(self) -> int | float | bool:
        """What stands where nothing was recorded: -1 for trajectory ids, else 0 or False."""
        if self.name == TRAJECTORY_ID:
            return -1
        return False if self.dtype == "bool" else 0.0 if self.is_float else 0

    def problems(self) -> list[str]:
        """All that is wrong with this field, in words."""
        found = []
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            found.append(f"field name {self.name!r}: expected a letter, then letters, digits or _")
        elif self.name.lower() in (VALID_MASK, TRAJECTORY_ID):
            found.append(f"field {self.name!r}: the writer keeps this one itself; leave it out")
        elif self.name.lower() == TRAJECTORY_END and self != END_FIELD:
            found.append(f"field {self.name!r}: kept by the writer; add it by Schema.with_ends()")
        if problem := self._dim_problem():
            found.append(f"field {self.name!r}: {problem}")
        # A numpy.dtype equals its name, but is none.
        if not isinstance(self.dtype, str) or self.dtype not in DTYPES:
            found.append(
                f"field {self.name!r}: dtype {self.dtype!r} is none of {', '.join(DTYPES)}"
            )
        return found

    def _dim_problem(self) -> str | None:
        dim = self.dim
        if not isinstance(dim, tuple):
            good = dim is None or is_whole(dim, 1, MAX_DIM)
            return None if good else f"dim must be None or 1..{MAX_DIM}, got {dim!r:.80}"
        if len(dim) > MAX_AXES or not all(is_whole(n, 1, MAX_DIM) for n in dim):
            return f"dim must be at most {MAX_AXES} whole numbers from 1, got {dim!r:.80}"
        if self.width > MAX_DIM:
            return f"dim {dim} is {self.width} values a row, at most {MAX_DIM} are possible"
        return None


#: The field that ``Schema.with_ends`` adds.
END_FIELD = Field(name=TRAJECTORY_END, dtype="uint8", default=GOES_ON)
#: The two fields of every store that the writer keeps.
WRITER_FIELDS = (
    Field(name=VALID_MASK, dtype="bool"),
    Field(name=TRAJECTORY_ID, dtype="int64"),
)


@dataclass(frozen=True)
class Schema:
    """The fields of a store, in the order in which they are written.

    Raises:
        InputError: Naming every problem of every field at once.
    """

    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", tuple(self.fields))
        others = [f for f in self.fields if not isinstance(f, Field)]
        problems = [f"expected a Field, got {type(f).__name__}" for f in others]
        problems += [p for f in self.fields if isinstance(f, Field) for p in f.problems()]
        if not others:
            problems += self._cross_problems()
        if problems:
            raise InputError("bad schema: " + "; ".join(problems))

    @classmethod
    def mosaic(
        cls,
        obs_dim: int | None,
        action_dim: int,
        student_obs_dim: int | None = None,
        extra: Iterable[Field] = (),
    ) -> Schema:
        """The fields of a MOSAIC expert file, all float32, and any ``extra`` ones.

        MOSAIC's rule for missing values is kept: the action stands in for a missing mean, 0.01 for
        a missing sigma (BAAI-Humanoid/MOSAIC, collection/expert_trajectory_collector.py). Without
        an ``obs_dim``, for a policy that sees nothing but ``extra`` fields, or without a
        ``student_obs_dim`` there is no such field.
        """
        dims = (
            ("obs_dim", "observations", obs_dim),
            ("student_obs_dim", "student_observations", student_obs_dim),
            ("action_dim", "actions", action_dim),
        )
        wanted = [d for d in dims if d[2] is not None or d[0] == "action_dim"]
        bad = [
            f"{argument} must be a whole number of at least 1, got {dim!r}"
            for argument, _, dim in wanted
            if not is_whole(dim, 1, MAX_DIM)
        ]
        if bad:
            raise InputError("bad schema: " + "; ".join(bad))
        mean = Field(name="action_mean", dim=action_dim, default="actions")
        sigma = Field(name="action_sigma", dim=action_dim, default=MOSAIC_SIGMA)
        return cls((*(Field(name=name, dim=dim) for _, name, dim in wanted), mean, sigma, *extra))

    def with_fields(self, *fields: Field) -> Schema:
        """This schema with more fields behind its own."""
        return replace(self, fields=(*self.fields, *fields))

    def with_ends(self) -> Schema:
        """This schema with ``trajectory_end``, uint8 ``(num_envs,)`` a step, behind its own fields.

        The writer fills it in from ``end_trajectories``: ``TERMINATED``, ``TRUNCATED``, ``FAILED``
        or ``ENDED`` at the last row of a trajectory, ``GOES_ON`` at all others.
        """
        return self if self.has_ends else self.with_fields(END_FIELD)

    @property
    def has_ends(self) -> bool:
        """Whether the store records how each trajectory ended."""
        return END_FIELD in self.fields

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the fields that a caller gives."""
        return tuple(f.name for f in self.fields if f.name != TRAJECTORY_END)

    @property
    def stored(self) -> tuple[Field, ...]:
        """All fields of a store: the schema's, then the mask and the trajectory ids."""
        return (*self.fields, *WRITER_FIELDS)

    @property
    def stored_names(self) -> tuple[str, ...]:
        """Names of all fields of a store."""
        return tuple(f.name for f in self.stored)

    @property
    def pair_nbytes(self) -> int:
        """Raw bytes of one pair: all stored fields of one environment and step."""
        return sum(f.row_nbytes for f in self.stored)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.stored_names)

    def __getitem__(self, name: str) -> Field:
        """The stored field of that name.

        Raises:
            FieldNotFoundError: There is none; the message lists those there are.
        """
        for field in self.stored:
            if field.name == name:
                return field
        names = ", ".join(self.stored_names)
        raise FieldNotFoundError(f"no field {name!r}; the fields are: {names}")

    def differences(self, other: Schema) -> list[str]:
        """In words, where ``other`` differs from this schema."""
        mine, theirs = ({f.name: f for f in s.fields} for s in (self, other))
        found = [f"{n}: expected {mine[n]}, got none" for n in mine if n not in theirs]
        found += [f"{n}: not in the store" for n in theirs if n not in mine]
        both = [n for n in mine if n in theirs and mine[n] != theirs[n]]
        found += [f"{n}: expected {mine[n]}, got {theirs[n]}" for n in both]
        if not found and self != other:
            found.append(f"order: expected {self.names}, got {other.names}")
        return found

    def _cross_problems(self) -> list[str]:
        found = [] if self.names else ["no fields"]
        # Folders must stay apart on file systems that fold case.
        folded = Counter(str(f.name).lower() for f in self.fields)
        found += [f"field {name!r} is there twice" for name, n in folded.items() if n > 1]
        by_name = {str(f.name): f for f in self.fields}
        for field in self.fields:
            found += _default_problems(field, by_name)
        return found


def _default_problems(field: Field, by_name: dict[str, Field]) -> list[str]:
    if field.default is None:
        return []
    what = f"field {field.name!r}: default {field.default!r}"
    if isinstance(field.default, str):
        source = by_name.get(field.default)
        if source is None or source.default is not None or source is field:
            return [f"{what} names no required field"]
        same = (source.dim, source.dtype) == (field.dim, field.dtype)
        return [] if same else [f"{what} has another shape or dtype"]
    if not isinstance(field.default, (int, float)) or isinstance(field.default, bool):
        return [f"{what} is no number or name"]
    fits = field.dtype not in DTYPES or _holds(field, field.default)
    return [] if fits else [f"{what} does not fit {field.dtype}"]


def _holds(field: Field, number: float) -> bool:
    """Whether the field's dtype has the number: floats may round it, others must be it."""
    if field.is_float:
        return abs(number) <= float(np.finfo(field.dtype).max)
    if field.dtype == "bool":
        return number in (0, 1)
    limits = np.iinfo(field.dtype)
    return int(limits.min) <= number <= int(limits.max) and number == int(number)
