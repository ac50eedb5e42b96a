"""Stores that are damaged, unfinished or empty: refused, or exported as far as they go."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from mosaic_collect import TrajectoryDataset, export_npy, verify_export
from mosaic_collect.cli import main
from mosaic_collect.errors import (
    CorruptStoreError,
    ExportError,
    IncompleteStoreError,
    StoreNotFoundError,
)
from mosaic_collect.export import Options, plan_export
from mosaic_collect.reading.verify import verify_store
from tests import helpers
from tests.export import stores

NAMES = stores.MOSAIC_NAMES


def shard(store: str, field: str, block: int) -> str:
    dims = 1 if field in ("valid_mask", "trajectory_id") else 2
    return os.path.join(store, field, f"c.{block}" + ".0" * dims)


def refused(store: str, npy: str, match: str, **options: object) -> None:
    before = sorted(os.listdir(os.path.dirname(npy)))
    with pytest.raises(CorruptStoreError, match=match):
        export_npy(store, npy, **options)
    assert sorted(os.listdir(os.path.dirname(npy))) == before, "something was left behind"


@pytest.mark.parametrize("layout", ["auto", "grid", "compact"])
@pytest.mark.parametrize(
    ("field", "damage", "words"),
    [
        ("actions", lambda path: stores.flip(path, 5), "actions, block 2, chunk 0"),
        ("action_sigma", os.unlink, "action_sigma, block 2"),
        ("valid_mask", lambda path: stores.flip(path, 0), "valid_mask, block 2"),
    ],
)
def test_damage_is_refused_and_named_with_the_way_around_it(
    store: str,
    npy: str,
    layout: str,
    field: str,
    damage: Any,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stores.write(store, 10, masks=stores.some_masks(4))
    damage(shard(store, field, 2))
    into = "the export" if layout == "compact" else "a compact export"
    refused(store, npy, f"{words}.*; skip_damaged=True makes {into}", layout=layout)
    with pytest.raises(CorruptStoreError, match="skip_damaged=True makes"):
        plan_export(store, Options(layout=layout)).write(npy)
    assert main(["export", store, npy, "--layout", layout]) == 2
    assert f"--skip-damaged makes {into}" in capsys.readouterr().err
    assert main(["export", store, npy, "--skip-damaged"]) == 0
    assert "12 damaged" in capsys.readouterr().out
    assert "skip" not in str(verify_export(store, npy).problems)


@pytest.mark.parametrize(
    ("damage", "gone"),
    [
        pytest.param([], [], id="undamaged"),
        pytest.param(
            [("actions", 0, 4), ("observations", 0, 4), ("actions", 3, None)],
            [0, 1, 2, 9],
            id="a pair damaged in two fields counts once",
        ),
        pytest.param([("valid_mask", 1, None)], [3, 4, 5], id="the mask is gone"),
        pytest.param([("valid_mask", 1, -1)], [3, 4, 5], id="nothing is known to be valid"),
    ],
)
def test_skipped_steps(store: str, npy: str, damage: list[Any], gone: list[int]) -> None:
    recorded = stores.write(store, 10, masks=stores.some_masks(4))
    for field, block, position in damage:
        path = shard(store, field, block)
        os.unlink(path) if position is None else stores.flip(path, position)
    report = export_npy(store, npy, skip_damaged=True)
    whole = recorded["valid_mask"].copy()
    whole[gone] = False
    assert report.left_out.damaged == 4 * len(gone)
    stores.assert_compact(npy, recorded, whole, NAMES)


def test_damage_in_a_left_out_field_does_not_matter(store: str, npy: str) -> None:
    recorded = stores.write(store, 10)
    stores.flip(shard(store, "observations", 2), 5)
    os.unlink(shard(store, "action_sigma", 0))
    for skip in (False, True):
        export_npy(
            store, npy, fields=["actions", "action_mean"], layout="compact", skip_damaged=skip
        )
        every = recorded["valid_mask"]
        stores.assert_compact(npy, recorded, every, ["actions", "action_mean"])


@pytest.mark.parametrize("field", [*NAMES, "valid_mask"])
def test_skipped_are_just_the_pairs_of_the_chunk(
    small_chunks: int, store: str, npy: str, field: str
) -> None:
    num_envs = 150 if field == "valid_mask" else 7
    recorded = stores.write(store, 10, num_envs=num_envs, masks=stores.some_masks(num_envs))
    grid = TrajectoryDataset(store).state.grid(field)
    assert grid.chunks > 1
    hit = np.zeros((10, num_envs), bool)
    hit[2 * grid.block_steps : 3 * grid.block_steps, : grid.chunk_envs] = True
    stores.flip(shard(store, field, 2), 0)  # within the first chunk
    refused(store, npy, f"{field}, block 2, chunk 0")

    report = export_npy(store, npy, skip_damaged=True)
    stores.assert_compact(npy, recorded, recorded["valid_mask"] & ~hit, NAMES)
    assert report.left_out.damaged == hit.sum()
    assert report.left_out.invalid == (~hit & ~recorded["valid_mask"]).sum()


def test_damage_after_the_pairs_were_selected_is_no_hole_in_the_file(
    small_chunks: int, store: str, npy: str
) -> None:
    """A block that holds pairs to leave out forgives no damage that came since."""
    stores.write(store, 4, num_envs=150, block_steps=2)
    stores.flip(shard(store, "actions", 1), 0)
    plan = plan_export(store, Options(skip_damaged=True))
    assert 0 < plan.left.damaged < 2 * 150
    stores.flip(shard(store, "valid_mask", 1), -1)
    with pytest.raises(CorruptStoreError, match=r"block 1: expected .* damaged after"):
        plan.write(npy)
    assert not os.path.exists(npy)


def test_skipping_with_nan_and_a_draw(store: str, npy: str) -> None:
    """Damage, NaN, idle environments and a draw in one store, each pair under one reason."""
    edit = stores.nan_at("actions", (0, 0), (4, 1))
    recorded = stores.write(store, 10, masks=stores.some_masks(4), edit=edit)
    stores.flip(shard(store, "action_mean", 0), 4)
    report = export_npy(store, npy, skip_damaged=True, max_pairs=9)
    left = report.left_out
    whole = stores.finite_pairs(recorded, NAMES)
    whole[:3] = False
    assert left.damaged == 12
    assert left.nonfinite == 1, "NaN in a damaged pair counts as damaged"
    assert report.num_pairs == 9
    assert left.not_drawn == whole.sum() - 9
    assert sum(vars(left).values()) + 9 == 40


def test_a_mask_that_contradicts_the_metadata_is_refused(store: str, npy: str) -> None:
    """The mask of another store, whole by its checksums."""
    stores.write(store, 6, masks=stores.some_masks(4))
    other = store + "2"
    stores.write(other, 6)
    os.replace(shard(other, "valid_mask", 0), shard(store, "valid_mask", 0))
    refused(store, npy, "valid_mask")
    assert not verify_store(store).ok


@pytest.mark.parametrize("options", [{}, {"layout": "grid"}, {"skip_damaged": True}], ids=str)
def test_metadata_that_claim_endless_steps_are_refused_at_once(
    store: str, npy: str, options: dict[str, Any]
) -> None:
    stores.write(store, 10)
    export_npy(store, npy)
    helpers.edit_state(store, committed_steps=1 << 39, num_valid=1 << 41)
    with pytest.raises(CorruptStoreError, match=r"claim \d+ blocks, and \d shards") as failure:
        export_npy(store, npy, **options)
    assert "skip_damaged" not in str(failure.value)
    with pytest.raises(CorruptStoreError, match="claim"):
        verify_export(store, npy)


# -- unfinished and empty stores -------------------------------------------------------------------


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
