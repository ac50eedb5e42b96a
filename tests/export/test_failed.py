"""``exclude_failed``: no row of a trajectory that ended by failing."""

from __future__ import annotations

import os
from unittest import mock

import numpy as np
import pytest

from mosaic_collect import TrajectoryDataset, export_npy
from mosaic_collect.errors import CorruptStoreError, ExportError, InputError
from mosaic_collect.export.compare import verify_export
from mosaic_collect.reading.ends import count_failed, failed_ids
from tests.export import stores

SCHEMA = stores.STUDENT.with_ends()
NAMES = [*stores.MOSAIC_NAMES, "student_observations"]


def write(store: str, steps: int, **options: object) -> stores.Rows:
    return stores.write(store, steps, schema=SCHEMA, **options)  # type: ignore[arg-type]


def test_left_out_are_all_rows_of_those_that_failed_wherever_blocks_end(
    store: str, npy: str
) -> None:
    recorded = write(store, 11, ends={1: [0], 10: range(4)}, falls={4: [0, 3], 7: [1]})
    report = export_npy(store, npy, exclude_failed=True)

    kept = np.ones((11, 4), bool)
    kept[2:5, 0] = kept[:5, 3] = kept[:8, 1] = False
    stores.assert_compact(npy, recorded, kept, NAMES)
    assert report.left_out.failed == 3 + 5 + 8
    assert verify_export(store, npy).ok
    assert TrajectoryDataset(store).num_ended == 1 + 3 + 4


def test_those_that_failed_with_the_last_step(store: str, npy: str) -> None:
    recorded = write(store, 6, ends={5: [0]}, falls={5: [1, 2]})
    export_npy(store, npy, exclude_failed=True)
    kept = np.ones((6, 4), bool)
    kept[:, 1:3] = False
    stores.assert_compact(npy, recorded, kept, NAMES)


def test_over_a_resume_only_the_failed_run_is_left_out(store: str, npy: str) -> None:
    first = write(store, 4, falls={2: [0]}, complete=False)
    last = write(store, 4, first=4, falls={7: [0, 1]}, resume=True)
    report = export_npy(store, npy, exclude_failed=True)
    kept = np.ones((8, 4), bool)
    kept[:3, 0] = kept[4:, :2] = False
    both = {name: np.concatenate([first[name], last[name]]) for name in first}
    stores.assert_compact(npy, both, kept, NAMES)
    assert report.left_out.failed == 3 + 8


def test_each_pair_counts_under_the_first_reason(store: str, npy: str) -> None:
    masks = stores.some_masks(4)
    recorded = write(
        store,
        8,
        masks=masks,
        ends={7: [0, 2]},
        falls={4: [0, 1]},
        edit=stores.nan_at("actions", (3, 0), (5, 0), (2, 3)),
    )
    report = export_npy(store, npy, exclude_failed=True, exclude_interrupted=True)
    valid = recorded["valid_mask"]
    failed = np.zeros((8, 4), bool)
    failed[:5, :2] = True
    interrupted = np.zeros((8, 4), bool)
    interrupted[5:, 1] = interrupted[:, 3] = True
    finite = stores.finite_pairs(recorded, NAMES)
    stores.assert_compact(npy, recorded, finite & ~failed & ~interrupted, NAMES)
    left = report.left_out
    assert left.invalid == (~valid).sum()
    assert left.interrupted == (valid & interrupted).sum()
    assert left.failed == (valid & failed).sum()
    assert left.nonfinite == (valid & ~finite & ~failed & ~interrupted).sum()


def test_none_failed_leaves_out_nothing_and_all_failed_everything(store: str, npy: str) -> None:
    recorded = write(store, 6, ends={2: [1], 5: range(4)})
    report = export_npy(store, npy, exclude_failed=True)
    assert report.layout == "compact"
    stores.assert_compact(npy, recorded, recorded["valid_mask"], NAMES)
    write(store + "2", 6, falls={5: range(4)})
    with pytest.raises(ExportError, match="24 failed"):
        export_npy(store + "2", npy, exclude_failed=True)


def test_without_it_they_are_in(store: str, npy: str) -> None:
    write(store, 6, falls={2: [0], 5: range(4)})
    report = export_npy(store, npy)
    assert (report.layout, report.num_pairs) == ("grid", 24)


def test_a_store_that_does_not_know_is_refused(store: str, npy: str) -> None:
    stores.write(store, 6, ends={5: range(4)})
    with pytest.raises(InputError, match=r"trajectory_end.*with_ends"):
        export_npy(store, npy, exclude_failed=True)
    assert not os.path.exists(npy)


@pytest.mark.parametrize("skip", [False, True])
def test_damaged_ends_are_refused_even_around_damage(store: str, npy: str, skip: bool) -> None:
    """An end that cannot be read may be that of rows in any block before it."""
    write(store, 11, falls={4: [0]})
    stores.flip(os.path.join(store, "trajectory_end", "c.1.0"), 0)
    with pytest.raises(CorruptStoreError, match="trajectory_end, block 1"):
        export_npy(store, npy, exclude_failed=True, skip_damaged=skip)
    export_npy(store, npy)


def test_ids_are_found_chunk_by_chunk(store: str) -> None:
    """Environments of several chunks; ids and ends are cut differently."""
    with mock.patch("mosaic_collect.store.grid.CHUNK_NBYTES", 24):
        write(store, 7, num_envs=9, ends={1: [0, 8]}, falls={3: [8, 4, 0], 6: [2]})
    dataset = TrajectoryDataset(store)
    grids = dataset.state.grids()
    assert grids["trajectory_end"].chunks == 2
    assert grids["trajectory_id"].chunks == 9
    ids = dataset.read("trajectory_id")
    want = sorted([ids[3, 8], ids[3, 4], ids[3, 0], ids[6, 2]])
    assert failed_ids(dataset.view).tolist() == want
    assert count_failed(dataset.view) == 4
