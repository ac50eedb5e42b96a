"""What a file says of itself: MOSAIC's ``metadata``, and, under our name, where it is from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from mosaic_collect.export.options import Options
from mosaic_collect.export.rows import flat_dim, is_flattened
from mosaic_collect.npyfile.layout import AXES, COMPACT, OURS, ArraySpec
from mosaic_collect.reading.numbering import Numbering
from mosaic_collect.reading.selection import Left
from mosaic_collect.reading.table import Table
from mosaic_collect.store.metadata import StoreState
from mosaic_collect.store.schema import VALID_MASK
from mosaic_collect.store.view import StoreView


def about(
    table: Table,
    layout: str,
    arrays: Mapping[str, ArraySpec],
    num_pairs: int,
    left: Left,
    options: Options,
) -> dict[str, Any]:
    """The file's ``metadata``."""
    fields = table.state.schema.fields
    dims = {f.name: flat_dim(f) for f in fields if f.name.endswith("observations")}
    action = [flat_dim(f) for f in fields if f.name == "actions"]
    axes = {f.name: list(f.row_shape) for f in fields if f.name in arrays and is_flattened(f)}
    told = {
        "num_trajectories": table.state.num_trajectories,
        "num_steps": num_pairs if layout == COMPACT else table.state.num_valid,
        "obs_dim_dict": dims,
        "action_dim": action[0] if action else None,
        "has_valid_mask": VALID_MASK in arrays,
        **(options.metadata or {}),
    }
    ours = _provenance(table, layout, left, options)
    return {**told, OURS: {**ours, AXES: axes} if axes else ours}


def _provenance(table: Table, layout: str, left: Left, options: Options) -> dict[str, Any]:
    told = {"layout": layout, "options": options.told(), "left_out": asdict(left)}
    states = [part.state for part in table.parts]
    if len(states) == 1:
        return {**told, **_store(states[0])}
    return {**told, "stores": list(map(_one_of_several, table.parts, table.numberings))}


def _one_of_several(part: StoreView, numbering: Numbering) -> dict[str, Any]:
    """A store by its path, and the new numbers of its trajectory ids and motion ids."""
    ids = {"first_trajectory_id": numbering.first_id, "motion_ids": list(numbering.motions)}
    return {"path": part.address, **ids, **_store(part.state)}


def _store(state: StoreState) -> dict[str, Any]:
    return {
        "store_status": state.status,
        "store_steps": state.committed_steps,
        "store_envs": state.num_envs,
        "runs": [run.told() for run in state.runs],
        "metadata": state.metadata,
    }
