"""Stores to export, and what their exports must hold, worked out from what was recorded."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mosaic_collect.store.schema import VALID_MASK, Schema
from mosaic_collect.store.shard import LABEL_NBYTES
from tests import helpers

#: Three fields of three widths: a mix-up of fields shows as a wrong shape.
STUDENT = Schema.mosaic(obs_dim=3, action_dim=2, student_obs_dim=5)
Rows = dict[str, np.ndarray]
Ends = Mapping[int, Any]  # step -> environments whose trajectory ends with it


def write(
    path: str,
    steps: int,
    *,
    masks: Callable[[int], np.ndarray | None] | None = None,
    edit: Callable[[int, Rows], None] | None = None,
    ends: Ends | None = None,
    falls: Ends | None = None,
    complete: bool = True,
    first: int = 0,
    **options: Any,
) -> Rows:
    """Record steps ``first..first + steps - 1`` of identifiable values.

    Args:
        path: The store.
        steps: How many.
        masks: Step -> mask ``(N,)``, or None for a step without one.
        edit: Changes a step's rows in place, to put NaN there, say.
        ends: Trajectories to end.
        falls: Trajectories to end by failing; for a schema with ``trajectory_end``.
        complete: Leave a complete store, or an unfinished one.
        first: Step that the values are of.
        options: As ``helpers.open_writer``'s.

    Returns:
        What was recorded, per field and for the mask, ``(steps, N[, D])``.
    """
    recorded: dict[str, list[np.ndarray]] = {}
    writer = helpers.open_writer(path, **options)
    for step in range(first, first + steps):
        rows = helpers.rows(step, writer.num_envs, writer.schema)
        if edit is not None:
            edit(step, rows)
        mask = None if masks is None else masks(step)
        writer.add_step(**rows, valid_mask=mask)
        rows[VALID_MASK] = np.ones(writer.num_envs, bool) if mask is None else mask
        for name, value in rows.items():
            recorded.setdefault(name, []).append(value.copy())
        if ends is not None and step in ends:
            writer.end_trajectories(ends[step])
        if falls is not None and step in falls:
            writer.end_trajectories(falls[step], falls[step])
    writer.close(complete=complete)
    return {name: np.stack(values) for name, values in recorded.items()}


def some_masks(num_envs: int) -> Callable[[int], np.ndarray]:
    """The mask of ``helpers.mask``, with all environments idle on every seventh step."""
    return lambda step: helpers.mask(step, num_envs) & (step % 7 != 5)


def chosen_rows(recorded: Rows, name: str, chosen: np.ndarray) -> np.ndarray:
    """A field's compact form: its chosen rows by step, then environment, ``(M, 1[, D])``."""
    rows = recorded[name][chosen]
    kind = np.float32 if rows.dtype.kind == "f" else rows.dtype
    return np.ascontiguousarray(rows[:, None], kind)


def finite_pairs(recorded: Rows, names: Any) -> np.ndarray:
    """Valid pairs without NaN or infinity in any of the fields, ``(T, N)``."""
    chosen = recorded[VALID_MASK].copy()
    for name in names:
        rows = recorded[name].reshape(*chosen.shape, -1)
        if rows.dtype.kind == "f":
            chosen &= np.isfinite(rows).all(axis=-1)
    return chosen


def load(path: str) -> dict[str, Any]:
    """The dict of an exported file."""
    return np.load(path, allow_pickle=True).item()


def assert_compact(path: str, recorded: Rows, chosen: np.ndarray, names: Any) -> None:
    """The file holds just these fields' rows of just these pairs, bit for bit and in order."""
    data = load(path)
    assert sorted(data) == sorted([*names, "metadata"])
    for name in names:
        helpers.assert_same(data[name], chosen_rows(recorded, name, chosen), name)


def nan_at(field: str, *pairs: tuple[int, int], value: float = np.nan) -> Callable[..., None]:
    """An ``edit`` that puts a value into the last feature of some (step, env) pairs."""

    def edit(step: int, rows: Rows) -> None:
        for at, env in pairs:
            if at == step:
                rows[field][env, -1] = value

    return edit


def flip(path: str, position: int, mask: int = 0xFF) -> None:
    """Change bits of one byte of a file; a negative position counts from its end.

    That of a shard counts from its first chunk.
    """
    if os.path.basename(path).startswith("c.") and position >= 0:
        position += LABEL_NBYTES
    with open(path, "r+b") as file:
        file.seek(position, 2 if position < 0 else 0)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ mask]))


MOSAIC_NAMES = ("observations", "actions", "action_mean", "action_sigma")
