"""``exclude_interrupted``: only trajectories that ended."""

from __future__ import annotations

import numpy as np
import pytest

from mosaic_collect import export_npy
from mosaic_collect.errors import ExportError
from tests.export import stores


def concatenated(*parts: stores.Rows) -> stores.Rows:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_left_out_are_those_cut_off_by_the_end_of_the_store(store: str, npy: str) -> None:
    recorded = stores.write(store, 8, ends={3: [0, 1], 7: [1, 2]})
    report = export_npy(store, npy, exclude_interrupted=True)

    whole = np.ones((8, 4), bool)
    whole[4:, 0] = whole[:, 3] = False
    stores.assert_compact(npy, recorded, whole, stores.MOSAIC_NAMES)
    assert report.left_out.interrupted == 4 + 8


def test_left_out_are_those_cut_off_by_a_resume(store: str, npy: str) -> None:
    first = stores.write(store, 5, ends={2: [0], 4: [1]}, complete=False)
    last = stores.write(store, 4, first=5, ends={8: range(4)}, resume=True)
    report = export_npy(store, npy, exclude_interrupted=True)

    whole = np.ones((9, 4), bool)
    whole[3:5, 0] = whole[:5, 2:] = False
    stores.assert_compact(npy, concatenated(first, last), whole, stores.MOSAIC_NAMES)
    assert report.left_out.interrupted == 2 + 10


def test_left_out_are_those_cut_off_in_the_middle_of_a_block(store: str, npy: str) -> None:
    first = stores.write(store, 4, ends={1: [3]}, complete=False, block_steps=5)
    second = stores.write(store, 4, first=4, complete=False, resume=True)
    last = stores.write(store, 3, first=8, ends={9: [0, 1]}, resume=True)
    export_npy(store, npy, exclude_interrupted=True)

    whole = np.zeros((11, 4), bool)
    whole[:2, 3] = whole[8:10, :2] = True
    stores.assert_compact(npy, concatenated(first, second, last), whole, stores.MOSAIC_NAMES)


def test_invalid_pairs_of_them_count_as_invalid(store: str, npy: str) -> None:
    masks = stores.some_masks(4)
    recorded = stores.write(store, 8, masks=masks, ends={7: [0, 2]})
    report = export_npy(store, npy, exclude_interrupted=True)

    valid = recorded["valid_mask"]
    whole = valid.copy()
    whole[:, [1, 3]] = False
    stores.assert_compact(npy, recorded, whole, stores.MOSAIC_NAMES)
    assert report.left_out.invalid == (~valid).sum()
    assert report.left_out.interrupted == valid[:, [1, 3]].sum()


def test_none_interrupted_leaves_out_nothing(store: str, npy: str) -> None:
    recorded = stores.write(store, 6, ends={2: [1], 5: range(4)})
    report = export_npy(store, npy, exclude_interrupted=True)
    assert report.left_out.interrupted == 0
    stores.assert_compact(npy, recorded, recorded["valid_mask"], stores.MOSAIC_NAMES)


def test_all_interrupted_is_nothing_to_export(store: str, npy: str) -> None:
    stores.write(store, 6)
    with pytest.raises(ExportError, match="24 interrupted"):
        export_npy(store, npy, exclude_interrupted=True)


def test_a_draw_is_of_the_whole_ones(store: str, npy: str) -> None:
    recorded = stores.write(store, 9, ends={8: [2]})
    export_npy(store, npy, exclude_interrupted=True, max_pairs=5)
    rows = stores.load(npy)["observations"][:, 0]
    whole = {tuple(row) for row in recorded["observations"][:, 2].tolist()}
    assert {tuple(row) for row in rows.tolist()} <= whole
    assert len(rows) == 5


def test_without_it_they_are_in(store: str, npy: str) -> None:
    stores.write(store, 6)
    assert export_npy(store, npy).num_pairs == 24
