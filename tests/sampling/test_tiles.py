"""Tiles: every chosen pair once, in place, whatever the cutting."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from mosaic_collect import TrajectoryDataset
from mosaic_collect.errors import CorruptStoreError
from mosaic_collect.reading.selection import Rules, every_pair, select
from mosaic_collect.reading.subset import SubsetOptions
from mosaic_collect.reading.table import Table
from mosaic_collect.sampling.options import LoaderOptions
from mosaic_collect.sampling.tiles import INDEX_NBYTES, Tiles
from tests.export import stores
from tests.helpers import record

NAMES = ("observations", "actions")


def tiles_of(
    *datasets: TrajectoryDataset, names: Any = NAMES, rules: Any = None, **options: Any
) -> Tiles:
    table = Table([dataset.view.parts[0] for dataset in datasets])
    fields = [f for f in table.state.schema.stored if f.name in names]
    selection = every_pair(table) if rules is None else select(Rules(table, **rules))[0]
    return Tiles(table, fields, selection, LoaderOptions(batch_size=1, **options))


def all_rows(tiles: Tiles) -> dict[str, np.ndarray]:
    """Every tile's chosen pairs, one tile behind the other."""
    room = {f.name: np.zeros((tiles.rows, *f.row_shape), f.dtype) for f in tiles.fields}
    found: dict[str, list[np.ndarray]] = {name: [] for name in room}
    for number in range(len(tiles.tiles)):
        places = tiles.load(number, room)
        for name, values in room.items():
            found[name].append(values[places])
    return {name: np.concatenate(values) for name, values in found.items()}


def assert_same_pairs(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    """The same pairs in any order, and each pair's fields together."""
    names = list(got)
    both = [
        np.concatenate([rows[n].reshape(len(rows[n]), -1) for n in names], 1)
        for rows in (got, want)
    ]
    assert sorted(map(tuple, both[0].tolist())) == sorted(map(tuple, both[1].tolist()))


@pytest.mark.usefixtures("small_chunks")
def test_tiles_are_cut_where_the_coarsest_chunks_meet_if_they_may_be_large(tmp_path: Any) -> None:
    dataset = record(tmp_path / "a.zarr", 4, num_envs=13, block_steps=4, schema=stores.STUDENT)
    names = ("student_observations", "actions")
    fine, coarse = (dataset.view.grids[n].chunk_envs for n in names)
    assert fine < coarse
    mb = 3 * fine * 4 * (sum(dataset.schema[n].row_nbytes for n in names) + INDEX_NBYTES) / 1e6
    large, small = (tiles_of(dataset, names=names, shuffle_buffer_mb=n) for n in (16, mb))
    assert len(large.tiles[0].envs) == coarse
    assert len(small.tiles[0].envs) == fine


def test_no_block_looks_through_all_steps_that_are_asked_for(store: str) -> None:
    """Else a store of twice as many blocks would take four times as long."""
    stores.write(store, 11)
    dataset = TrajectoryDataset(store)
    tiles = tiles_of(dataset, rules={"steps": [range(3, 10**13, 2)]})
    assert tiles.num_pairs == 4 * 4
    want = {n: dataset.read(n)[3::2].reshape(16, -1) for n in NAMES}
    assert_same_pairs(all_rows(tiles), want)


def test_a_mask_that_changed_is_told(store: str) -> None:
    stores.write(store, 6, masks=stores.some_masks(4))
    tiles = tiles_of(TrajectoryDataset(store), rules={})
    tiles.counts[0] += 1
    with pytest.raises(CorruptStoreError, match=r"block 0, environments 0\.\.4: expected .* pairs"):
        all_rows(tiles)


def test_damage_is_an_error_or_gone_around_and_an_error_after_the_selection(store: str) -> None:
    """Its pairs were selected then: what lay in their place before is no pair of the store."""
    recorded = stores.write(store, 9)
    stores.flip(f"{store}/actions/c.1.0.0", 5)
    dataset = TrajectoryDataset(store)
    with pytest.raises(CorruptStoreError, match="actions, block 1"):
        all_rows(tiles_of(dataset))
    table = dataset.view
    fields = [table.state.schema[n] for n in NAMES]
    chosen, _ = select(SubsetOptions(skip_damaged=True).rules(table, fields, {}))
    tiles = Tiles(table, fields, chosen, LoaderOptions(batch_size=1, skip_damaged=True))
    want = {n: recorded[n][[*range(3), *range(6, 9)]].reshape(24, -1) for n in NAMES}
    assert_same_pairs(all_rows(tiles), want)
    stores.flip(f"{store}/actions/c.2.0.0", 5)
    with pytest.raises(CorruptStoreError, match=r"actions, block 2, .*after the pairs were select"):
        all_rows(tiles)
    os.remove(f"{store}/observations/c.0.0.0")
    with pytest.raises(CorruptStoreError, match=r"observations, block 0: the file .* is missing"):
        all_rows(tiles)
