"""What an exported ``.npy`` file contains: arrays, metadata, and notes on them.

    grid       [T, N, D]    every pair, at its step and environment, with a valid_mask [T, N]
    compact    [M, 1, D]    valid, finite pairs only, by step, then environment

MOSAIC takes each of its own arrays for ``[T, N, D]`` of float32, so rows of several axes become one
axis, in C order, and the file's metadata keep the axes. It reads no other arrays: they keep theirs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from mosaic_collect.errors import InputError
from mosaic_collect.npyfile.layout import AXES, GRID, OURS, ArraySpec
from mosaic_collect.reading.numbering import MOTION_ID
from mosaic_collect.reading.store_set import alike_notes
from mosaic_collect.reading.table import Table
from mosaic_collect.store.metadata import StoreState
from mosaic_collect.store.schema import MOSAIC_FIELDS, TRAJECTORY_ID, VALID_MASK, Field

#: Entries of a store's metadata under "acting" whose presence means that actions were perturbed.
_PERTURBING = {"action_noise", "act_by"}


def arrays_of(
    table: Table, fields: Iterable[Field], layout: str, num_pairs: int
) -> dict[str, ArraySpec]:
    """Shape and dtype of each array; floats are float32, which MOSAIC's networks take."""
    width = table.state.num_envs if layout == GRID else 1
    leading = num_pairs // width, width
    arrays: dict[str, ArraySpec] = {
        f.name: (
            (*leading, *((f.width,) if _is_flattened(f) else f.row_shape)),
            "float32" if f.is_float else f.dtype,
        )
        for f in fields
        if f.name != VALID_MASK
    }
    if layout == GRID and table.has_mask:
        arrays[VALID_MASK] = leading, "bool"
    return arrays


def _is_flattened(field: Field) -> bool:
    """Whether several axes of the field become one."""
    return field.has_axes and field.name in MOSAIC_FIELDS


def check_rows(fields: Iterable[Field]) -> None:
    """Refuse images as what MOSAIC trains on: it would not normalise them, and crash on uint8.

    Raises:
        InputError: Naming each field.
    """
    images = [f for f in fields if _is_flattened(f) and not f.is_float]
    if images:
        wrong = ", ".join(f"{f.name} is {f.dtype} of {f.dim}" for f in images)
        raise InputError(
            f"fields: MOSAIC takes rows of float32, but {wrong}: leave it out by naming the other "
            "fields"
        )


def file_metadata(
    table: Table,
    arrays: Collection[str],
    num_valid: int,
    ours: dict[str, Any],
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """MOSAIC's ``metadata``, and the export's provenance in it."""
    fields = table.state.schema.fields
    widths = {f.name: None if f.dim is None else f.width for f in fields}
    axes = {f.name: list(f.row_shape) for f in fields if f.name in arrays and _is_flattened(f)}
    return {
        "num_trajectories": table.state.num_trajectories,
        "num_steps": num_valid,
        "obs_dim_dict": {n: width for n, width in widths.items() if n.endswith("observations")},
        "action_dim": widths.get("actions"),
        "has_valid_mask": VALID_MASK in arrays,
        **more,
        OURS: {**ours, **describe_stores(table), **({AXES: axes} if axes else {})},
    }


def describe_stores(table: Table) -> dict[str, Any]:
    """Describe the stores; of several also their paths, and the new numbers of their ids."""
    if len(table.parts) == 1:
        return _store(table.parts[0].state)
    stores = [
        {
            "path": part.address,
            "first_trajectory_id": numbering.first_id,
            "motion_ids": list(numbering.motions),
            **_store(part.state),
        }
        for part, numbering in zip(table.parts, table.numberings, strict=True)
    ]
    return {"stores": stores}


def _store(state: StoreState) -> dict[str, Any]:
    return {
        "store_status": state.status,
        "store_steps": state.committed_steps,
        "store_envs": state.num_envs,
        "runs": [run.told() for run in state.runs],
        "metadata": state.metadata,
    }


def notes_on(table: Table, layout: str, names: Collection[str]) -> Iterator[str]:
    """What the reader of a file with these arrays should know, one sentence each."""
    yield from alike_notes({p.address: p.state.metadata for p in table.parts})
    if len(table.parts) > 1:
        yield from _notes_of_ids(table, names)
    if layout == GRID and table.state.num_valid < table.state.num_pairs:
        yield "MOSAIC ignores valid_mask and trains on the invalid rows of this grid"
    for field in filter(_is_flattened, table.state.schema.fields):
        if field.name in names:
            yield f"{field.name}: its axes {field.dim} became one of {field.width}, in C order"
    missing = {"actions", "action_mean", "action_sigma"} - set(names)
    if missing:
        yield f"MOSAIC's loss also reads {', '.join(sorted(missing))}, left out here"
    yield from _notes_of_labels(table, names)
    if {"observations", "student_observations"} <= set(names):
        yield "MOSAIC loads observations, but trains on student_observations only"
    if not {"observations", "student_observations"} & set(names):
        yield "MOSAIC cannot train on it: no observations"


def _notes_of_ids(table: Table, names: Collection[str]) -> Iterator[str]:
    """Note how the ids of several stores became unique."""
    numbered = [(p.address, n) for p, n in zip(table.parts, table.numberings, strict=True)]
    if TRAJECTORY_ID in names:
        for address, numbering in numbered[1:]:
            raised = f"its own and {numbering.first_id} more, to be unique"
            yield f"{TRAJECTORY_ID}: those of {address} are {raised}"
    if MOTION_ID not in names:
        return
    if any(numbering.changes(MOTION_ID) for numbering in table.numberings):
        yield (
            f"{MOTION_ID}: numbered through {table.numberings[0].num_motions} motions of all "
            "stores; the file's metadata hold the new ids of each store under motion_ids"
        )
    unnamed = [address for address, numbering in numbered if not numbering.motions]
    if unnamed:
        yield (
            f"{MOTION_ID}: the metadata of {', '.join(unnamed)} name no motions, so one id of "
            "theirs may mean several motions"
        )


def _notes_of_labels(table: Table, names: Collection[str]) -> Iterator[str]:
    """Note which labels a trainer gets, if ``actions`` were perturbed."""
    told = (part.state.metadata.get("acting") for part in table.parts)
    disturbed = any(isinstance(acting, dict) and _PERTURBING & set(acting) for acting in told)
    if "actions" not in names or not disturbed:
        return
    if "action_mean" in names:
        yield "MOSAIC learns from action_mean; actions are what was executed, disturbed on purpose"
    else:
        yield (
            "WARNING: the labels left are actions, which were disturbed on purpose, and MOSAIC "
            "would learn the disturbance: export action_mean, too"
        )
