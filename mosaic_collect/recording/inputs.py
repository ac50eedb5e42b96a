"""Checks of what a caller hands to ``add_step``, all before anything is staged.

Values are NumPy arrays or torch tensors; this module never imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import is_tensor, unreadable
from mosaic_collect.errors import InputError
from mosaic_collect.recording.ring.host import as_numpy
from mosaic_collect.store.schema import ENDED, FAILED, TRAJECTORY_END, VALID_MASK, Field, Schema

_MASK = Field(name=VALID_MASK, dtype="bool")


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

    def check(self, rows: Mapping[str, Any], mask: Any, given: Mapping[str, bool]) -> None:
        """Check one step.

        Args:
            rows: Per field, a value of shape ``(num_envs, dim)``; absent ones left out.
            mask: Shape ``(num_envs,)``, bool; or None.
            given: What earlier steps gave of the optional fields; empty before the first.

        Raises:
            InputError: Naming each field at fault, what was expected and what came.
        """
        problems = [p for name in self._required if name not in rows for p in [_missing(name)]]
        problems += [
            p
            for name in self._optional
            if name in given
            for p in _changed(name, given[name], name in rows)
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


def env_indices(env_ids: Any, num_envs: int, what: str = "env_ids") -> NDArray[np.int64]:
    """Environments a caller names: whole numbers, or a bool mask of shape ``(num_envs,)``.

    Args:
        env_ids: So named.
        num_envs: Environments, N.
        what: The argument's name, for errors.

    Returns:
        Ascending.

    Raises:
        InputError: Other types, numbers out of ``0..num_envs-1``, or one of them twice.
    """
    array = _as_array(env_ids, what, "whole numbers or a bool mask")
    if array.dtype == np.bool_:
        if array.shape != (num_envs,):
            raise InputError(f"{what}: expected a mask of shape ({num_envs},), got {array.shape}")
        return np.flatnonzero(array).astype(np.int64)
    if num_envs == 1 and array.shape == (1,) and not isinstance(env_ids, (list, tuple, range)):
        # [0] says that nobody is done, or that environment 0 is.
        raise InputError(
            f"{what}: one environment's number may be an id or a flag: give a bool mask, or dones="
        )
    array = array.reshape(-1)
    if array.size and array.dtype.kind not in "iu":
        raise InputError(f"{what}: expected whole numbers or a bool mask, got {array.dtype}")
    if array.size and (array.min() < 0 or array.max() >= num_envs):
        raise InputError(f"{what}: expected 0..{num_envs - 1}, got {array.min()}..{array.max()}")
    unique = np.unique(array)
    if len(unique) < len(array):
        # Simulators give dones as 0 and 1 of a whole-number type: taken for ids, those would end
        # the wrong trajectories.
        raise InputError(f"{what}: an id is there twice; flags of all environments must be bool")
    return unique.astype(np.int64)


def ends_of_flags(
    dones: Any, time_outs: Any, num_envs: int, env_ids: Any, failed: Any
) -> tuple[NDArray[np.bool_], NDArray[np.bool_] | None]:
    """``env_ids`` and ``failed`` out of the flags that simulators give.

    Args:
        dones: Shape ``(num_envs,)``, bool or numbers that are 0 or 1.
        time_outs: Likewise; None: nobody failed.
        num_envs: Environments, N.
        env_ids: Given beside them, which nothing may be.
        failed: As ``env_ids``.

    Raises:
        InputError: Not so.
    """
    if env_ids is not None or failed is not None or dones is None:
        raise InputError(
            "end_trajectories: expected dones (and time_outs), or env_ids (and failed)"
        )
    ended = _flags(dones, num_envs, "dones")
    return ended, None if time_outs is None else ended & ~_flags(time_outs, num_envs, "time_outs")


def _flags(values: Any, num_envs: int, what: str) -> NDArray[np.bool_]:
    array = _as_array(values, what, f"flags of shape ({num_envs},)")
    if array.shape != (num_envs,) or array.dtype.kind not in "biuf":
        got = f"{array.dtype} {array.shape}"
        raise InputError(f"{what}: expected flags of shape ({num_envs},), got {got}")
    if not np.isin(array, (0, 1)).all():
        raise InputError(f"{what}: expected 0 and 1, got {np.unique(array)[:8].tolist()}")
    return array.astype(np.bool_)


def _as_array(values: Any, what: str, expected: str) -> NDArray[Any]:
    """What a caller gives as an array, or in other words.

    Raises:
        InputError: It cannot be read.
    """
    odd = unreadable(values)
    if odd is not None:
        raise InputError(f"{what}: expected {expected}, got {odd}")
    try:
        return np.asarray(as_numpy(values))
    except ValueError as error:
        raise InputError(f"{what}: expected {expected}: {error}") from error


def end_codes(
    envs: NDArray[np.int64], failed: Any, schema: Schema, num_envs: int
) -> NDArray[np.uint8]:
    """How the trajectories of these environments ended: ``ENDED`` or ``FAILED``, one an entry.

    Args:
        envs: Whose trajectories end.
        failed: Which of them failed, named as ``env_indices`` takes them; None: none.
        schema: Of the store.
        num_envs: Environments, N.

    Raises:
        InputError: ``failed`` names others, or the store has no place for it.
    """
    if failed is None:
        return np.full(len(envs), ENDED, np.uint8)
    if not schema.has_ends:
        raise InputError(
            f"failed: expected None, for the store has no field {TRAJECTORY_END}; a new store has "
            "it if its schema was made by Schema.with_ends()"
        )
    fell = env_indices(failed, num_envs, "failed")
    others = np.setdiff1d(fell, envs)
    if len(others):
        raise InputError(f"failed: expected some of env_ids, got {others.tolist()[:8]}, too")
    return np.where(np.isin(envs, fell), FAILED, ENDED).astype(np.uint8)


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


def _missing(name: str) -> str:
    return f"{name}: expected on every step, got none"


def _changed(name: str, before: bool, now: bool) -> list[str]:
    if before == now:
        return []
    words = ("left out", "given")
    return [f"{name}: expected {words[before]} as on the first step, got {words[now]}"]


def _unknown(name: str, fields: Mapping[str, Field]) -> str:
    if name == TRAJECTORY_END:
        return f"{name}: the writer's own; it is said by end_trajectories(env_ids, failed)"
    return f"{name}: unknown field; the fields are: {', '.join(fields)}"
