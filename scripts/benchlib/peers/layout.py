"""This package's layout, as metadata for the peers that can be given it."""

from __future__ import annotations

import os
from typing import Any

from benchlib.peers import Plan
from benchlib.peers.ours import schema_of
from benchlib.workload import Workload
from mosaic_collect.store.codec import Compressor
from mosaic_collect.store.grid import FieldGrid, cut_steps
from mosaic_collect.store.metadata import StoreState, array_metadata


def array_documents(workload: Workload, plan: Plan) -> dict[str, dict[str, Any]]:
    """Per field of the workload, the ``zarr.json`` of an array of ``plan.steps`` steps."""
    schema = schema_of(workload)
    grids = {f.name: FieldGrid.plan(f, workload.num_envs, plan.block_steps) for f in schema.stored}
    state = StoreState(
        schema=schema,
        num_envs=workload.num_envs,
        block_steps=plan.block_steps,
        chunk_envs={n: g.chunk_envs for n, g in grids.items()},
        chunk_steps=cut_steps(grids),
        compressor=Compressor.named(plan.compressor),
        committed_steps=plan.steps,
    )
    return {n: array_metadata(state, n) for n in workload.pool}


def chunk_shapes(workload: Workload, plan: Plan) -> dict[str, list[int]]:
    """Per field, the shape of a chunk within a shard."""
    documents = array_documents(workload, plan)
    return {n: d["codecs"][0]["configuration"]["chunk_shape"] for n, d in documents.items()}


def array_path(store: str, field: str) -> str:
    """Where a field lies in a store."""
    return os.path.join(store, field)
