"""Grid, compact and auto: what each holds, when which is chosen, and which fields enter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mosaic_collect import Field, Schema, export_npy, verify_export
from tests import helpers
from tests.export import stores

ENDS = stores.STUDENT.with_ends()
EXTRA = (
    Field(name="motion_id", dtype="int32"),
    Field(name="contacts", dim=4, dtype="bool"),
    Field(name="double", dim=2, dtype="float64"),
    Field(name="half", dim=2, dtype="float16"),
    Field(name="byte", dim=3, dtype="uint8"),
)
EXTENDED = Schema.mosaic(obs_dim=3, action_dim=2, student_obs_dim=5, extra=EXTRA)
ENDLESS = {"trajectory_end": np.zeros((5, 4), np.uint8)}


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


def test_a_store_of_other_fields_exports_all_of_them_and_ends_by_name_only(
    store: str, npy: str
) -> None:
    schema = Schema((Field(name="lidar", dim=4), Field(name="reward"))).with_ends()
    recorded = stores.write(store, 5, schema=schema)
    for names, more in ((None, {}), (["lidar", "reward", "trajectory_end"], ENDLESS)):
        export_npy(store, npy, fields=names)
        data = stores.load(npy)
        assert data.pop("metadata")["action_dim"] is None
        want = {name: recorded[name] for name in ("lidar", "reward")} | more
        assert sorted(data) == sorted(want)
        for name, rows in want.items():
            helpers.assert_same(data[name], rows, name)


# -- fields, by name, and what becomes of their dtypes --------------------------------------------


def test_by_default_mosaics_fields_and_no_others(store: str, npy: str) -> None:
    stores.write(store, 4, schema=EXTENDED)
    export_npy(store, npy)
    assert set(stores.load(npy)) == {*stores.MOSAIC_NAMES, "student_observations", "metadata"}


@pytest.mark.parametrize("layout", ["grid", "compact"])
@pytest.mark.parametrize(
    "names",
    [
        ["student_observations", "actions", "action_mean", "action_sigma"],
        ["motion_id", "actions"],
        ["double", "half", "byte", "contacts"],
        ["action_sigma", "actions", "actions"],
    ],
)
def test_just_those_named(store: str, npy: str, layout: str, names: list[str]) -> None:
    masks = stores.some_masks(4)
    recorded = stores.write(store, 8, schema=EXTENDED, masks=masks)
    export_npy(store, npy, layout=layout, fields=names)

    data = stores.load(npy)
    grid = layout == "grid"
    assert set(data) == {*names, "metadata"} | ({"valid_mask"} if grid else set())
    for name in names:
        rows = recorded[name]
        want = rows.astype(np.float32) if rows.dtype.kind == "f" else rows
        if not grid:
            want = want[recorded["valid_mask"]][:, None]
        helpers.assert_same(data[name], want, name)


def test_the_mask_may_be_named_in_a_grid(store: str, npy: str) -> None:
    stores.write(store, 3, masks=stores.some_masks(4))
    export_npy(store, npy, layout="grid", fields=["actions", "valid_mask"])
    assert set(stores.load(npy)) == {"actions", "valid_mask", "metadata"}


def test_the_report_notes_what_training_would_miss(store: str, npy: str) -> None:
    stores.write(store, 3, schema=EXTENDED)

    def notes(*fields: str) -> str:
        return " ".join(export_npy(store, npy, fields=fields).notes)

    assert "action_sigma" in notes("observations", "actions", "action_mean")
    assert "no observations" in notes("actions", "action_mean", "action_sigma")
    both = ("observations", "student_observations", "actions", "action_mean", "action_sigma")
    assert "student_observations only" in notes(*both)
    assert notes(*both[1:]) == ""


@pytest.mark.parametrize("acting", [{"action_noise": 0.3}, {"act_by": "sample"}])
def test_which_label_is_learned_of_a_disturbed_recording(
    store: str, npy: str, acting: dict[str, Any]
) -> None:
    stores.write(store, 3, schema=EXTENDED, metadata={"acting": acting})

    def told(*fields: str) -> str:
        return " ".join(export_npy(store, npy, fields=fields).notes)

    labels = ("student_observations", "actions", "action_sigma")
    assert "MOSAIC learns from action_mean; actions are what was" in told(*labels, "action_mean")
    assert "WARNING: the labels left are actions, which were disturbed on purpose" in told(*labels)
    assert "disturbed" not in told("student_observations", "action_mean", "action_sigma")


@pytest.mark.parametrize("acting", [{"start": "random"}, {}, None, True, 5, "act_by", [["a"]]])
def test_what_says_of_no_disturbance(store: str, npy: str, acting: Any) -> None:
    """Random starts disturb no label; and a word of the user's own may be called so, too."""
    stores.write(store, 3, schema=EXTENDED, metadata={"acting": acting})
    assert not any("disturbed" in note for note in export_npy(store, npy).notes)
