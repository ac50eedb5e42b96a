"""What a caller passes to a writer, checked as a whole before anything is staged: steps and ends.

Values are NumPy arrays, torch tensors or sequences; this module never imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import is_tensor, unreadable
from mosaic_collect.errors import InputError
from mosaic_collect.recording.blocks import as_numpy
from mosaic_collect.store.schema import (
    ENDED,
    FAILED,
    GOES_ON,
    TERMINATED,
    TRAJECTORY_END,
    TRUNCATED,
    VALID_MASK,
    Field,
    Schema,
)

_MASK = Field(name=VALID_MASK, dtype="bool")


class StepCheck:
    """Compares each step's rows with the schema of a store."""

    def __init__(self, schema: Schema, num_envs: int) -> None:
        self._num_envs = num_envs
        self._fields = {f.name: f for f in schema.fields if f.name != TRAJECTORY_END}
        self._required = [f.name for f in schema.fields if f.default is None]
        self._optional = [f.name for f in schema.fields if f.default is not None]
        self._defaults = {n: schema[n].default for n in self._optional if n in self._fields}

    def check(
        self, rows: Mapping[str, Any], mask: Any, given: Mapping[str, bool]
    ) -> dict[str, bool]:
        """Check one step, and return which of the optional fields it gives.

        Args:
            rows: Per field, a value of shape ``(num_envs, dim)``; absent ones left out.
            mask: Shape ``(num_envs,)``, bool; or None.
            given: Per optional field, whether earlier steps gave it; empty before the first step.

        Raises:
            InputError: The message names each field at fault, what was expected and what came.
        """
        problems = [
            f"{name}: expected on every step, got none"
            for name in self._required
            if name not in rows
        ]
        problems += [
            f"{name}: expected a value on every step, as the first one had, got none"
            if before
            else f"{name}: expected none, as the first step had none, got a value"
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


def parse_ends(
    schema: Schema,
    num_envs: int,
    env_ids: Any,
    failed: Any,
    terminated: Any,
    truncated: Any,
    dones: Any,
    time_outs: Any,
) -> NDArray[np.uint8]:
    """How the trajectory of each environment ends, a code of ``trajectory_end``; ``(num_envs,)``.

    Arguments and errors are those of ``TrajectoryWriter.end_trajectories``.
    """
    if dones is not None or time_outs is not None:
        if any(value is not None for value in (env_ids, terminated, truncated)) or dones is None:
            raise InputError(
                "end_trajectories: expected dones (and time_outs), or terminated and truncated, or "
                "env_ids"
            )
        env_ids = _flags(dones, num_envs, "dones")
        if time_outs is not None:
            truncated = env_ids & _flags(time_outs, num_envs, "time_outs")
            terminated = env_ids & ~truncated
    elif env_ids is None and (terminated is not None or truncated is not None):
        terminated, truncated = (
            np.zeros(num_envs, np.bool_) if flags is None else _flags(flags, num_envs, name)
            for flags, name in ((terminated, "terminated"), (truncated, "truncated"))
        )
        env_ids = terminated | truncated
    codes = np.zeros(num_envs, np.uint8)  # they go on
    codes[env_indices(env_ids, num_envs)] = ENDED
    # A terminal state at the time-out is a terminal state; a failure is one, too.
    kinds = ((truncated, "truncated", TRUNCATED), (terminated, "terminated", TERMINATED))
    for which, name, code in (*kinds, (failed, "failed", FAILED)):
        if which is not None:
            codes[_indices_among(which, name, codes, schema)] = code
    return codes


def env_indices(env_ids: Any, num_envs: int, what: str = "env_ids") -> NDArray[np.int64]:
    """The environments that whole numbers, or a bool mask ``(num_envs,)``, name; ascending.

    Raises:
        InputError: Other types, numbers out of ``0..num_envs-1``, or one of them twice.
    """
    if env_ids is None:
        raise InputError(f"{what}: expected whole numbers or a bool mask, got None")
    array = _as_array(env_ids, what, "whole numbers or a bool mask")
    if array.dtype == np.bool_:
        if array.shape != (num_envs,):
            raise InputError(f"{what}: expected a mask of shape ({num_envs},), got {array.shape}")
        return np.flatnonzero(array).astype(np.int64)
    is_plain = array.ndim == 0 or isinstance(env_ids, (list, tuple, range))
    array = array.reshape(-1)
    if array.size and array.dtype.kind not in "iu":
        raise InputError(f"{what}: expected whole numbers or a bool mask, got {array.dtype}")
    if not is_plain and array.size == num_envs and np.isin(array, (0, 1)).all():
        # Simulators give dones as 0 and 1 of a whole-number type: taken for ids, those would end
        # the wrong trajectories. Of one or two environments nobody can tell which they are.
        raise InputError(
            f"{what}: {num_envs} whole numbers of 0 or 1 may be ids or flags; flags of all "
            "environments must be bool, or come as dones=; ids may come as a list"
        )
    if array.size and (array.min() < 0 or array.max() >= num_envs):
        raise InputError(f"{what}: expected 0..{num_envs - 1}, got {array.min()}..{array.max()}")
    unique = np.unique(array)
    if len(unique) < len(array):
        raise InputError(f"{what}: an id is there twice; flags of all environments must be bool")
    return unique.astype(np.int64)


def _indices_among(
    which: Any, name: str, codes: NDArray[np.uint8], schema: Schema
) -> NDArray[np.int64]:
    """The environments that an argument names, which must be some of those that end."""
    if not schema.has_ends:
        raise InputError(
            f"{name}: expected None, for the store has no field {TRAJECTORY_END}; a new store has "
            "it if its schema was made by Schema.with_ends()"
        )
    named = env_indices(which, len(codes), name)
    others = named[codes[named] == GOES_ON]
    if len(others):
        raise InputError(f"{name}: expected some of env_ids, got {others.tolist()[:8]}, too")
    return named


def _flags(values: Any, num_envs: int, what: str) -> NDArray[np.bool_]:
    array = _as_array(values, what, f"flags of shape ({num_envs},)")
    if array.shape != (num_envs,) or array.dtype.kind not in "biuf":
        got = f"{array.dtype} {array.shape}"
        raise InputError(f"{what}: expected flags of shape ({num_envs},), got {got}")
    if not np.isin(array, (0, 1)).all():
        raise InputError(f"{what}: expected 0 and 1, got {np.unique(array)[:8].tolist()}")
    return array.astype(np.bool_)


def _as_array(values: Any, what: str, expected: str) -> NDArray[Any]:
    odd = unreadable(values)
    if odd is not None:
        raise InputError(f"{what}: expected {expected}, got {odd}")
    try:
        return np.asarray(as_numpy(values))
    except ValueError as error:
        raise InputError(f"{what}: expected {expected}: {error}") from error
