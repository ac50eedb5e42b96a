"""What of the stores a sampler draws from, as they are now."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mosaic_collect.errors import InputError
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.selection import (
    Rules,
    Selection,
    chosen_fields,
    make_rules,
    nonfinite_fields,
    select,
)
from mosaic_collect.reading.store_set import StoreSet, check_mergeable
from mosaic_collect.reading.table import Table
from mosaic_collect.sampling.options import SamplerOptions, asked_steps
from mosaic_collect.sampling.tiles import Tiles
from mosaic_collect.store.address import Address
from mosaic_collect.store.blobs import Blobs
from mosaic_collect.store.place import Place, check_distinct
from mosaic_collect.store.schema import VALID_MASK, Field
from mosaic_collect.store.view import StoreView

#: The path of a store, a dataset, or several of them.
Store = Address | TrajectoryDataset
Stores = Store | Sequence[Store]
#: One of them, or a pattern, whatever the working directory becomes.
Named = Blobs | str | TrajectoryDataset
#: Of the pool, a tile at most: so many are drawn from at a time, about.
_TILES_OF_A_POOL = 16
#: Of a pair in the pool, beside its values: its place, 4, and its code, 8, in up to three orders.
INDEX_NBYTES = 28


@dataclass(frozen=True)
class PoolPlan:
    """How a pool is divided.

    Attributes:
        slots: For tiles.
        active: Of them, those that are drawn from; the others are decoded meanwhile.
    """

    slots: int
    active: int

    @classmethod
    def of(cls, tiles: Tiles, nbytes: int) -> PoolPlan:
        """For a pool of so many bytes, whatever the number of threads.

        Raises:
            InputError: It has no room for two tiles.
        """
        slot_nbytes = tiles.nbytes + tiles.rows * INDEX_NBYTES
        number, slots = len(tiles.tiles), nbytes // slot_nbytes
        if slots >= number:
            return cls(number, number)
        if slots < 2:
            raise InputError(
                f"pool_mb: expected at least {2 * slot_nbytes / 1e6:g} for these fields and each "
                f"worker, got {nbytes / 1e6:g}"
            )
        return cls(slots, slots - max(1, slots // 4))


def named(stores: Stores) -> list[Named]:
    """What was named, made absolute now; a dataset that is given keeps its own snapshot.

    Raises:
        InputError: No store.
    """
    several = stores if isinstance(stores, Sequence) and not isinstance(stores, str) else [stores]
    if not several:
        raise InputError("stores: expected at least one, got none")
    found: list[Named] = []
    for store in several:
        if isinstance(store, TrajectoryDataset):
            found.append(copy.copy(store))
        else:
            found.extend(Place.of(store, "stores").items)
    return found


def open_views(stores: Sequence[Named], refreshed: bool = False) -> list[StoreView]:
    """Snapshots of all stores; in folders of ranks of those that have steps.

    Args:
        stores: As ``named`` gives them.
        refreshed: Whether datasets that were given are to look again.

    Raises:
        InputError: One store twice.
        StoreError: A store cannot be read, or there is none.
    """
    views = [view for store in stores for view in _each(store, refreshed)]
    check_distinct([view.blobs for view in views])
    return views


def look(
    views: Sequence[StoreView],
    options: SamplerOptions,
    committed: Sequence[int] | None = None,
) -> Tiles:
    """The tiles of what is asked for: one pass over the masks, if there is anything to leave out.

    Args:
        views: The stores.
        options: What is asked for.
        committed: Steps of each store that are there; None: all that are committed.

    Raises:
        InputError: No pair is left, a field that no batch can hold, or ends that are not known.
        StoreMismatchError: The stores' fields differ.
        CorruptStoreError: A damaged chunk.
    """
    names = [f.name for v in views for f in chosen_fields(v.state.schema, options.fields)]
    check_mergeable(views, names)
    table = Table(views)
    fields = chosen_fields(table.state.schema, options.fields)
    if any(f.name == VALID_MASK for f in fields):
        raise InputError("fields: batches hold no valid_mask, all their pairs are valid")
    if not table.state.num_blocks:
        raise InputError(f"{table.address}: no committed step, nothing to draw from")
    selection = _selection(table, fields, options, committed)
    row_nbytes = sum(f.row_nbytes for f in fields)
    values_nbytes = options.pool_nbytes * row_nbytes // (row_nbytes + INDEX_NBYTES)
    tile_nbytes = values_nbytes // _TILES_OF_A_POOL
    tiles = Tiles(table, fields, selection, tile_nbytes, options.skip_damaged)
    if not tiles.num_pairs:
        raise InputError(f"{table.address}: no pair is left to draw from")
    return tiles


def _each(store: Named, refreshed: bool) -> list[StoreView]:
    if not isinstance(store, TrajectoryDataset):
        return StoreSet.open(Place.of(store)).with_steps()
    if refreshed:
        store.refresh()
    return store.stores.with_steps()


def _selection(
    table: Table,
    fields: Sequence[Field],
    options: SamplerOptions,
    committed: Sequence[int] | None,
) -> Selection | None:
    """The pairs that count, as an export of these fields chooses them; None: every one."""
    rules = _rules(table, fields, options, committed)
    looked_for = (rules.steps, rules.asked_ids, rules.truncated_ids, rules.failed_ids)
    if not table.has_mask and not rules.looked_at and all(r is None for r in looked_for):
        return None
    return select(table, rules)[0]


def _rules(
    table: Table,
    fields: Sequence[Field],
    options: SamplerOptions,
    committed: Sequence[int] | None,
) -> Rules:
    there = [part.state.committed_steps for part in table.parts]
    steps = None
    if options.steps is not None or committed is not None:
        limits = there if committed is None else committed
        wanted = slice(None) if options.steps is None else options.steps
        steps = [asked_steps(wanted, limit) for limit in limits]
    ids = options.trajectories
    return make_rules(
        table,
        fields,
        {} if options.skip_damaged else nonfinite_fields(table, fields),
        skip_damaged=options.skip_damaged,
        exclude_truncated=options.exclude_truncated,
        exclude_failed=options.exclude_failed,
        steps=steps,
        asked_ids=None if ids is None else np.asarray(ids, np.int64),
    )
