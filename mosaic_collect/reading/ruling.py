"""From what a caller asks for to the rules that say which pairs count.

An export and a sampler that are asked for the same hold the same pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from mosaic_collect.errors import InputError
from mosaic_collect.passes.engine import Engine, Threads
from mosaic_collect.reading.selection import Rules
from mosaic_collect.reading.union import Source, exported
from mosaic_collect.store.counts import nonfinite_pairs
from mosaic_collect.store.schema import MOSAIC_FIELDS, VALID_MASK, Field, Schema


def chosen_fields(schema: Schema, names: Sequence[str] | None) -> list[Field]:
    """By name and in the store's order; by default MOSAIC's, or all if the store has none.

    Raises:
        InputError: No such field, or none but the mask.
    """
    if names is None:
        ours = [f for f in schema.fields if f.name in MOSAIC_FIELDS]
        return ours or [schema[name] for name in schema.names]
    for name in names:
        schema[name]
    if not set(names) - {VALID_MASK}:
        raise InputError("fields: expected at least one, got none")
    return [f for f in schema.stored if f.name in names]


def nonfinite_fields(
    source: Source, fields: Sequence[Field], engine: Engine | None = None
) -> dict[str, int]:
    """Per field that holds any: pairs with NaN or infinity, as an export has them."""
    counts = {f.name: source.nonfinite(f.name) for f in fields}
    # float64 turns infinite beyond float32's range, which the store's own counts do not tell.
    for name in [f.name for f in fields if f.dtype == "float64"]:
        count = partial(_count_nonfinite, source, name)
        blocks = range(source.num_blocks)
        counts[name] = sum((engine or Threads()).map(count, blocks, source.require_seen))
    return {name: count for name, count in counts.items() if count}


def make_rules(
    source: Source,
    fields: Sequence[Field],
    nonfinite: dict[str, int],
    *,
    skip_damaged: bool = False,
    exclude_truncated: bool = False,
    exclude_failed: bool = False,
    engine: Engine | None = None,
    **others: Any,
) -> Rules:
    """The rules for the pairs of these fields.

    Args:
        source: The stores.
        fields: What is to be read.
        nonfinite: Those of them that hold NaN or infinity.
        skip_damaged: Whether a damaged chunk excludes its pairs; else it is an error.
        exclude_truncated: Whether to leave out trajectories that never ended.
        exclude_failed: Whether to leave out those that failed.
        engine: Who finds those; None: this thread.
        others: As ``Rules``'s.

    Raises:
        InputError: A store does not say how its trajectories ended.
    """
    floats = [f.name for f in fields if f.is_float]
    return Rules(
        fields=[f.name for f in fields],
        finite_fields=floats if skip_damaged else list(nonfinite),
        skip_damaged=skip_damaged,
        truncated_ids=source.truncated_ids() if exclude_truncated else None,
        failed_ids=source.failed_ids(engine) if exclude_failed else None,
        **others,
    )


def _count_nonfinite(source: Source, name: str, block: int) -> int:
    slabs = source.slabs(name, block)
    parts = (exported(source.read(name, block, slab), np.float32) for slab in slabs)
    return sum(map(nonfinite_pairs, parts))
