"""What a caller says of ends: whose trajectories, and how, named in one of the ways it may be.

Values are NumPy arrays, torch tensors or sequences; this module never imports torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import unreadable
from mosaic_collect.errors import InputError
from mosaic_collect.recording.ring.host import as_numpy
from mosaic_collect.store.schema import ENDED, FAILED, TRAJECTORY_END, Schema


def told_ends(
    env_ids: Any, failed: Any, dones: Any, time_outs: Any, schema: Schema, num_envs: int
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Whose trajectories end, ascending, and how each does: ``ENDED`` or ``FAILED``.

    Args:
        env_ids: As ``TrajectoryWriter.end_trajectories`` takes it; the next three, too.
        failed: Which of them failed.
        dones: Flags instead.
        time_outs: Beside them.
        schema: Of the store.
        num_envs: Environments, N.

    Raises:
        InputError: Not so.
    """
    if dones is not None or time_outs is not None:
        env_ids, failed = _of_flags(dones, time_outs, num_envs, env_ids, failed)
    envs = env_indices(env_ids, num_envs)
    return envs, _codes(envs, failed, schema, num_envs)


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


def _of_flags(
    dones: Any, time_outs: Any, num_envs: int, env_ids: Any, failed: Any
) -> tuple[NDArray[np.bool_], NDArray[np.bool_] | None]:
    """``env_ids`` and ``failed`` out of the flags that simulators give."""
    if env_ids is not None or failed is not None or dones is None:
        raise InputError(
            "end_trajectories: expected dones (and time_outs), or env_ids (and failed)"
        )
    ended = _flags(dones, num_envs, "dones")
    return ended, None if time_outs is None else ended & ~_flags(time_outs, num_envs, "time_outs")


def _codes(
    envs: NDArray[np.int64], failed: Any, schema: Schema, num_envs: int
) -> NDArray[np.uint8]:
    """How the trajectories of these environments ended, one an entry."""
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
