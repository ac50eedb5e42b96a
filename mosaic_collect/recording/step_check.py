"""What a caller hands to ``add_step``, checked as a whole before anything is staged.

Values are NumPy arrays or torch tensors; this module never imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from mosaic_collect.checks import is_tensor, unreadable
from mosaic_collect.errors import InputError
from mosaic_collect.store.schema import TRAJECTORY_END, VALID_MASK, Field, Schema

_MASK = Field(name=VALID_MASK, dtype="bool")
_WAYS = ("left out", "given")


class StepCheck:
    """Holds one store's schema against each step's rows.

    Args:
        schema: The caller's fields.
        num_envs: Environments, N.
    """

    def __init__(self, schema: Schema, num_envs: int) -> None:
        self._num_envs = num_envs
        self._fields = {f.name: f for f in schema.fields if f.name != TRAJECTORY_END}
        self._required = [f.name for f in schema.fields if f.default is None]
        self._optional = [f.name for f in schema.fields if f.default is not None]
        self._defaults = {n: schema[n].default for n in self._optional if n in self._fields}

    def check(self, rows: Mapping[str, Any], mask: Any, given: Mapping[str, bool]) -> None:
        """Check one step.

        Args:
            rows: Per field, a value of shape ``(num_envs, dim)``; absent ones left out.
            mask: Shape ``(num_envs,)``, bool; or None.
            given: What earlier steps gave of the optional fields; empty before the first.

        Raises:
            InputError: Naming each field at fault, what was expected and what came.
        """
        problems = [
            f"{name}: expected on every step, got none"
            for name in self._required
            if name not in rows
        ]
        problems += [
            f"{name}: expected {_WAYS[before]} as on the first step, got {_WAYS[not before]}"
            for name, before in given.items()
            if before != (name in rows)
        ]
        for name, value in rows.items():
            field = self._fields.get(name)
            if field is None:
                problems.append(_unknown(name, self._fields))
            else:
                problems += _value_problems(field, value, self._num_envs)
        if mask is not None:
            problems += _value_problems(_MASK, mask, self._num_envs)
        if problems:
            raise InputError("bad step, nothing was added: " + "; ".join(problems))

    def given_by(self, rows: Mapping[str, Any]) -> dict[str, bool]:
        """Which of the optional fields these rows give."""
        return {name: name in rows for name in self._optional}

    def with_defaults(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """These rows, checked, and what stands in for the optional fields that they leave out."""
        filled = dict(rows)
        for name, default in self._defaults.items():
            if name not in rows:
                filled[name] = rows[default] if isinstance(default, str) else default
        return filled


def _value_problems(field: Field, value: Any, num_envs: int) -> list[str]:
    if not isinstance(value, np.ndarray) and not is_tensor(value):
        return [f"{field.name}: expected a torch tensor or NumPy array, got {type(value).__name__}"]
    odd = unreadable(value)
    if odd is not None:
        return [f"{field.name}: expected {field.dtype} values, got {odd}"]
    found = []
    expected = (num_envs, *field.row_shape)
    if tuple(value.shape) != expected:
        found.append(f"{field.name}: expected shape {expected}, got {tuple(value.shape)}")
    if not _fits(value.dtype, field.dtype):
        dtype = str(value.dtype).removeprefix("torch.")
        found.append(f"{field.name}: expected dtype {field.dtype}, got {dtype}")
    return found


@cache
def _fits(given: Any, stored: str) -> bool:
    """Floats may change precision; whole numbers only where every value fits; bool is bool.

    Cached: NumPy takes longer to spell a dtype than to copy a small field.
    """
    dtype = str(given).removeprefix("torch.")
    if dtype == "bfloat16":
        return stored.startswith("float")
    try:
        source, target = np.dtype(dtype), np.dtype(stored)
    except TypeError:
        return False
    if source.kind == target.kind == "f":
        return True
    return source.kind in "iub" and target.kind == source.kind and np.can_cast(source, target)


def _unknown(name: str, fields: Mapping[str, Field]) -> str:
    if name == TRAJECTORY_END:
        return f"{name}: the writer's own; it is said by end_trajectories(env_ids, failed)"
    return f"{name}: unknown field; the fields are: {', '.join(fields)}"
