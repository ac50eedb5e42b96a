"""Damaged stores: refused, or exported without the pairs that were hit."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect import TrajectoryDataset, export_npy, verify_export
from mosaic_collect.cli import main
from mosaic_collect.errors import CorruptStoreError, ExportError
from mosaic_collect.export import Options, plan_export
from mosaic_collect.reading.verify import verify_store
from mosaic_collect.store.metadata import root_document
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


@pytest.mark.parametrize("layout", ["grid", "compact"])
@pytest.mark.parametrize(
    ("field", "damage", "words"),
    [
        ("actions", lambda path: stores.flip(path, 5), "actions, block 1, chunk 0"),
        ("action_sigma", os.unlink, "action_sigma, block 1"),
        ("valid_mask", lambda path: stores.flip(path, 0), "valid_mask, block 1"),
    ],
)
def test_damage_is_refused_and_named(
    store: str, npy: str, layout: str, field: str, damage: Any, words: str
) -> None:
    stores.write(store, 10, masks=stores.some_masks(4))
    damage(shard(store, field, 1))
    refused(store, npy, words, layout=layout)


@pytest.mark.parametrize("layout", ["auto", "grid", "compact"])
@pytest.mark.parametrize("field", ["actions", "valid_mask"])
def test_the_error_names_the_way_around_damage(
    store: str, npy: str, layout: str, field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stores.write(store, 10, masks=stores.some_masks(4))
    stores.flip(shard(store, field, 2), 5)
    into = "the export" if layout == "compact" else "a compact export"
    refused(store, npy, f"skip_damaged=True makes {into}", layout=layout)
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


@pytest.mark.parametrize("field", NAMES)
def test_skipped_are_just_the_pairs_of_the_chunk(
    small_chunks: int, store: str, npy: str, field: str
) -> None:
    recorded = stores.write(store, 10, num_envs=7, masks=stores.some_masks(7))
    grid = TrajectoryDataset(store).state.grid(field)
    assert grid.chunks > 1
    hit = np.zeros((10, 7), bool)
    hit[2 * grid.block_steps : 3 * grid.block_steps, : grid.chunk_envs] = True
    stores.flip(shard(store, field, 2), 3)  # within the first chunk
    refused(store, npy, f"{field}, block 2, chunk 0")

    report = export_npy(store, npy, skip_damaged=True)
    stores.assert_compact(npy, recorded, recorded["valid_mask"] & ~hit, NAMES)
    assert report.left_out.damaged == hit.sum()
    assert report.left_out.invalid == (~hit & ~recorded["valid_mask"]).sum()


def test_only_the_damaged_chunk_of_a_mask_is_skipped(
    small_chunks: int, store: str, npy: str
) -> None:
    recorded = stores.write(store, 4, num_envs=150, block_steps=2)
    grid = TrajectoryDataset(store).state.grid("valid_mask")
    assert grid.chunks > 1
    stores.flip(shard(store, "valid_mask", 1), 0)
    hit = np.zeros((4, 150), bool)
    hit[grid.block_steps : 2 * grid.block_steps, : grid.chunk_envs] = True
    report = export_npy(store, npy, skip_damaged=True)
    assert report.left_out.damaged == hit.sum()
    stores.assert_compact(npy, recorded, ~hit, NAMES)


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


def test_all_damaged_is_nothing_to_export(store: str, npy: str) -> None:
    stores.write(store, 3)
    os.unlink(shard(store, "actions", 0))
    with pytest.raises(ExportError, match="12 damaged"):
        export_npy(store, npy, skip_damaged=True)


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
    state, steps = TrajectoryDataset(store).state, 1 << 39
    claim = replace(state, committed_steps=steps, num_valid=4 * steps)
    Path(store, "zarr.json").write_bytes(root_document(claim))
    with pytest.raises(CorruptStoreError, match=r"claim \d+ blocks, and \d shards") as failure:
        export_npy(store, npy, **options)
    assert "skip_damaged" not in str(failure.value)
    with pytest.raises(CorruptStoreError, match="claim"):
        verify_export(store, npy)
