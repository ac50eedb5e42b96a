"""What lies in a store's place, held against what the store says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from itertools import islice
from typing import Any

from mosaic_collect.store.blobs import Blobs
from mosaic_collect.store.metadata import ATTRIBUTE, StoreState
from mosaic_collect.store.root import read_document
from mosaic_collect.store.strict_json import object_in

_SHARD = re.compile(r"c\.(\d+)(\.0)+")


def looked_through(blobs: Blobs, state: StoreState, most: int) -> tuple[list[str], list[str]]:
    """Keys of committed shards that are not there, at most so many, and of what is no part of it.

    Each folder is listed once.
    """
    missing: list[str] = []
    debris = [n for n in blobs.names() if blobs.is_debris(n)]
    for name in state.grids():
        names = blobs.names(name)
        missing += absent_shards(names, state, name, most - len(missing))
        debris += [f"{name}/{n}" for n in names if _is_past(n, state) or blobs.is_debris(n)]
    return missing, debris


def _is_past(name: str, state: StoreState) -> bool:
    shard = _SHARD.fullmatch(name)
    return shard is not None and int(shard.group(1)) >= state.num_blocks


def attributes_of(blobs: Blobs, state: StoreState) -> dict[str, dict[str, Any]]:
    """Attributes that others gave a store's arrays."""
    return {name: _additions_to(blobs, name) for name in state.grids()}


def _additions_to(blobs: Blobs, name: str) -> dict[str, Any]:
    try:
        document = json.loads(read_document(blobs, name) or b"{}")
    except ValueError:
        return {}
    return {k: v for k, v in object_in(document, "attributes").items() if k != ATTRIBUTE}


def missing_shards(blobs: Blobs, state: StoreState, most: int) -> list[str]:
    """Keys of committed shards that are not there, at most so many."""
    missing: list[str] = []
    for name in state.grids():
        missing += absent_shards(blobs.names(name), state, name, most - len(missing))
    return missing


def absent_shards(names: Iterable[str], state: StoreState, field: str, most: int) -> list[str]:
    """Keys of a field's committed shards that are not there, at most so many.

    Args:
        names: What is there, ``Blobs.names`` of the field.
        state: What the store says.
        field: Which.
        most: Of them.

    Metadata may claim more blocks than could ever be counted: after this call none is missing or
    the claim is known to be wrong.
    """
    have, grid = set(names), state.grid(field)
    blocks = range(state.num_blocks)
    return list(islice((grid.shard_key(b) for b in blocks if grid.shard_name(b) not in have), most))
