"""Which fields enter, by name, and what becomes of their dtypes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mosaic_collect import Field, Schema, export_npy
from tests import helpers
from tests.export import stores

EXTRA = (
    Field(name="motion_id", dtype="int32"),
    Field(name="contacts", dim=4, dtype="bool"),
    Field(name="double", dim=2, dtype="float64"),
    Field(name="half", dim=2, dtype="float16"),
    Field(name="byte", dim=3, dtype="uint8"),
)
SCHEMA = Schema.mosaic(obs_dim=3, action_dim=2, student_obs_dim=5, extra=EXTRA)


def test_by_default_mosaics_fields_and_no_others(store: str, npy: str) -> None:
    stores.write(store, 4, schema=SCHEMA)
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
    recorded = stores.write(store, 8, schema=SCHEMA, masks=masks)
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


def test_compact_keeps_time_order_within_each_trajectory(store: str, npy: str) -> None:
    """Also where rows are missing in between, and whatever the blocks."""
    masks, ends = stores.some_masks(4), {2: [0], 6: [0, 1], 9: [3], 13: [2]}
    recorded = stores.write(
        store, 20, masks=masks, ends=ends, edit=stores.nan_at("actions", (8, 1), (10, 0))
    )
    export_npy(store, npy, fields=["observations", "actions", "trajectory_id"])
    data = stores.load(npy)
    ids = data["trajectory_id"][:, 0]
    good = stores.finite_pairs(recorded, ["actions"])
    stored_ids = helpers.ids(helpers.TrajectoryDataset(store))
    for one in np.unique(stored_ids):
        steps, envs = np.nonzero((stored_ids == one) & good)
        assert len(set(envs.tolist())) <= 1
        want = recorded["observations"][steps, envs]
        np.testing.assert_array_equal(data["observations"][ids == one, 0], want)
    assert set(ids) == set(stored_ids[good])


def test_the_report_notes_what_training_would_miss(store: str, npy: str) -> None:
    stores.write(store, 3, schema=SCHEMA)

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
    stores.write(store, 3, schema=SCHEMA, metadata={"acting": acting})

    def told(*fields: str) -> str:
        return " ".join(export_npy(store, npy, fields=fields).notes)

    labels = ("student_observations", "actions", "action_sigma")
    assert "MOSAIC learns from action_mean; actions are what was" in told(*labels, "action_mean")
    assert "WARNING: the labels left are actions, which were disturbed on purpose" in told(*labels)
    assert "disturbed" not in told("student_observations", "action_mean", "action_sigma")


@pytest.mark.parametrize("acting", [{"start": "random"}, {}, None, True, 5, "act_by", [["a"]]])
def test_what_says_of_no_disturbance(store: str, npy: str, acting: Any) -> None:
    """Random starts disturb no label; and a word of the user's own may be called so, too."""
    stores.write(store, 3, schema=SCHEMA, metadata={"acting": acting})
    assert not any("disturbed" in note for note in export_npy(store, npy).notes)
