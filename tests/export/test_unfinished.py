"""Stores that are not complete, and stores without a pair."""

from __future__ import annotations

import os

import pytest

from mosaic_collect import export_npy, verify_export
from mosaic_collect.errors import ExportError, IncompleteStoreError, StoreNotFoundError
from tests import helpers
from tests.export import stores


def test_an_unfinished_store_is_exported_only_if_allowed(store: str, npy: str) -> None:
    recorded = stores.write(store, 7, complete=False)
    with pytest.raises(IncompleteStoreError, match=r"7 steps.*allow_incomplete"):
        export_npy(store, npy)
    assert not os.path.exists(npy)

    report = export_npy(store, npy, allow_incomplete=True)
    helpers.assert_same(stores.load(npy)["observations"], recorded["observations"])
    assert report.num_pairs == 28
    assert stores.load(npy)["metadata"]["mosaic_collect"]["store_status"] == "collecting"
    assert verify_export(store, npy).ok, "while nothing is added"


def test_while_a_writer_is_at_work_the_committed_prefix(store: str, npy: str) -> None:
    with helpers.open_writer(store) as writer:
        helpers.add(writer, *range(5))
        writer.commit()
        helpers.add(writer, *range(5, 9))
        export_npy(store, npy, allow_incomplete=True)
        rows = stores.load(npy)["observations"]
        want = helpers.expected(range(9), 4)["observations"]
        # Full blocks may be committed by now, what is in the current one is not.
        assert 5 <= len(rows) <= 8
        helpers.assert_same(rows, want[: len(rows)])
    export_npy(store, npy)
    helpers.assert_same(stores.load(npy)["observations"], want)


@pytest.mark.parametrize("complete", [False, True])
def test_zero_steps_are_nothing_to_export(store: str, npy: str, complete: bool) -> None:
    helpers.open_writer(store).close(complete=complete)
    with pytest.raises(ExportError, match="nothing to export"):
        export_npy(store, npy, allow_incomplete=True)


def test_a_store_killed_before_its_first_document(store: str, npy: str) -> None:
    os.mkdir(store)
    with pytest.raises((ExportError, IncompleteStoreError)):
        export_npy(store, npy)
    with pytest.raises(ExportError, match="nothing to export"):
        export_npy(store, npy, allow_incomplete=True)


def test_no_store(tmp_path, npy: str) -> None:
    with pytest.raises(StoreNotFoundError):
        export_npy(tmp_path / "nothing.zarr", npy)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("not a store")
    with pytest.raises(StoreNotFoundError):
        export_npy(tmp_path / "folder", npy)
    with pytest.raises(StoreNotFoundError):
        export_npy(tmp_path / "folder" / "notes.txt", npy)
