"""Grid, compact and auto: what each holds, and when which is chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mosaic_collect import Field, Schema, export_npy, verify_export
from tests import helpers
from tests.export import stores

ENDS = stores.STUDENT.with_ends()


def no_masks(step: int) -> None:
    return None


def all_true_masks(step: int) -> np.ndarray:
    return np.ones(4, bool)


def one_mask(step: int) -> np.ndarray | None:
    """Given once, and all true."""
    return np.ones(4, bool) if step == 3 else None


def one_invalid(step: int) -> np.ndarray | None:
    return np.array([True, False, True, True]) if step == 3 else None


def metadata(path: str) -> dict[str, Any]:
    return stores.load(path)["metadata"]


@pytest.mark.parametrize("layout", ["grid", "compact"])
@pytest.mark.parametrize("masks", [no_masks, all_true_masks, one_mask, one_invalid])
def test_a_grid_holds_the_mask_if_one_was_ever_given_and_compact_the_valid_rows(
    store: str, npy: str, masks: Any, layout: str
) -> None:
    recorded = stores.write(store, 7, masks=masks)
    report = export_npy(store, npy, layout=layout)
    data, valid = stores.load(npy), recorded["valid_mask"]
    there = layout == "grid" and masks is not no_masks
    assert ("valid_mask" in data) == there == data["metadata"]["has_valid_mask"]
    assert report.layout == layout
    assert report.num_pairs == data["metadata"]["num_steps"] == valid.sum()
    if there:
        helpers.assert_same(data["valid_mask"], valid)
    if layout == "compact":
        stores.assert_compact(npy, recorded, valid, stores.MOSAIC_NAMES)
        assert report.left_out.invalid == (~valid).sum()


@pytest.mark.parametrize(
    ("recording", "options", "layout"),
    [
        ({"masks": no_masks}, {}, "grid"),
        ({"masks": all_true_masks}, {}, "grid"),
        ({"masks": one_mask}, {}, "grid"),
        ({"masks": one_invalid}, {}, "compact"),
        ({"masks": stores.some_masks(4)}, {}, "compact"),
        ({"edit": stores.nan_at("actions", (2, 1))}, {}, "compact"),
        ({}, {"max_pairs": 3}, "compact"),
        ({}, {"exclude_interrupted": False}, "grid"),
        ({"schema": ENDS, "ends": {4: [1]}, "falls": {2: [0]}}, {}, "grid"),
    ],
)
def test_auto_is_a_grid_only_if_every_row_is_valid_finite_and_wanted(
    store: str, npy: str, recording: Any, options: Any, layout: str
) -> None:
    stores.write(store, 9, **recording)
    assert export_npy(store, npy, **options).layout == layout
    assert stores.load(npy)["metadata"]["mosaic_collect"]["options"]["layout"] == "auto"
    assert verify_export(store, npy).ok


def test_metadata_is_mosaics(store: str, npy: str) -> None:
    masks, ends = stores.some_masks(4), {2: [0, 1], 6: [0], 8: [3]}
    recorded = stores.write(store, 9, masks=masks, ends=ends, schema=stores.STUDENT)
    for layout in ("grid", "compact"):
        export_npy(store, npy, layout=layout)
        told = metadata(npy)
        assert told["num_trajectories"] == 4
        assert told["num_steps"] == recorded["valid_mask"].sum()
        assert sorted(told["obs_dim_dict"].values()) == [3, 5]
        assert told["action_dim"] == 2
        ours = {k for k in told if k.startswith("mosaic_collect")}
        assert set(told) - ours == {
            *("num_trajectories", "num_steps", "obs_dim_dict", "action_dim", "has_valid_mask"),
        }
        assert ours == {"mosaic_collect"}, "our provenance goes under one further key"


def test_provenance_says_where_it_comes_from(store: str, npy: str) -> None:
    stores.write(store, 4, metadata={"checkpoint": "model_3000.pt", "seeds": [1, 2]})
    export_npy(store, npy, layout="compact", seed=5)
    ours = metadata(npy)["mosaic_collect"]
    assert ours["metadata"] == {"checkpoint": "model_3000.pt", "seeds": [1, 2]}
    assert (ours["store_steps"], ours["store_envs"], ours["layout"]) == (4, 4, "compact")
    assert ours["options"]["seed"] == 5
    assert ours["runs"][0]["versions"]["numpy"]


def test_a_store_of_other_fields_exports_all_of_them(store: str, npy: str) -> None:
    schema = Schema((Field(name="lidar", dim=4), Field(name="reward")))
    recorded = stores.write(store, 5, schema=schema)
    export_npy(store, npy)
    data = stores.load(npy)
    helpers.assert_same(data["lidar"], recorded["lidar"])
    helpers.assert_same(data["reward"], recorded["reward"])
    assert data["metadata"]["action_dim"] is None


def test_how_trajectories_ended_is_exported_by_name_only(store: str, npy: str) -> None:
    recorded = stores.write(store, 5, schema=Schema((Field(name="lidar", dim=4),)).with_ends())
    export_npy(store, npy)
    assert sorted(stores.load(npy)) == ["lidar", "metadata"]
    export_npy(store, npy, fields=["lidar", "trajectory_end"])
    data = stores.load(npy)
    helpers.assert_same(data["lidar"], recorded["lidar"])
    helpers.assert_same(data["trajectory_end"], np.zeros((5, 4), np.uint8))
