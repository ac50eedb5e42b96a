"""NaN and infinity: never in a compact export, in a grid only by name, always counted."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from mosaic_collect import Field, export_npy
from mosaic_collect.errors import ExportError, NonFiniteError
from tests import helpers
from tests.export import stores

WITH_EXTRA = stores.STUDENT.with_fields(Field(name="wide", dim=2, dtype="float64"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("field", ["observations", "actions", "action_mean", "action_sigma"])
def test_rows_with_it_never_enter_a_compact_export(
    store: str, npy: str, field: str, value: float
) -> None:
    edit = stores.nan_at(field, (0, 0), (4, 3), (7, 1), value=value)
    recorded = stores.write(store, 8, edit=edit)
    report = export_npy(store, npy, layout="compact")

    stores.assert_compact(
        npy, recorded, stores.finite_pairs(recorded, [field]), stores.MOSAIC_NAMES
    )
    assert report.left_out.nonfinite == 3
    assert report.num_pairs == 8 * 4 - 3


def test_infinities_that_cancel_are_seen(store: str, npy: str) -> None:
    """A sum over the values, the quick way to look for NaN, must not be trusted to be finite."""

    def edit(step: int, rows: stores.Rows) -> None:
        if step == 1:
            rows["observations"][0, :2] = np.inf, -np.inf
        if step == 2:
            rows["observations"][:2, 0] = 3e38  # finite, though their sum is not

    recorded = stores.write(store, 4, edit=edit)
    report = export_npy(store, npy)
    assert report.left_out.nonfinite == 1
    good = stores.finite_pairs(recorded, ["observations"])
    stores.assert_compact(npy, recorded, good, stores.MOSAIC_NAMES)


def test_a_pair_counts_under_its_first_reason_only(store: str, npy: str) -> None:
    """NaN in an invalid pair is an invalid pair; NaN in two fields is one pair."""

    def edit(step: int, rows: stores.Rows) -> None:
        if step == 2:
            rows["observations"][0, 0] = rows["actions"][0, 0] = np.nan
        if step == 3:
            rows["observations"][1, 0] = np.nan

    def masks(step: int) -> np.ndarray:
        return np.array([True, step != 3, True, True])

    stores.write(store, 6, edit=edit, masks=masks)
    report = export_npy(store, npy)
    assert (report.left_out.invalid, report.left_out.nonfinite) == (1, 1)
    assert report.num_pairs == 6 * 4 - 2


def test_nan_in_a_left_out_field_leaves_nothing_out(store: str, npy: str) -> None:
    recorded = stores.write(
        store, 6, schema=stores.STUDENT, edit=stores.nan_at("observations", (3, 2))
    )
    names = ("student_observations", "actions", "action_mean", "action_sigma")
    report = export_npy(store, npy, fields=names)
    assert report.layout == "grid"
    assert report.left_out.nonfinite == 0
    helpers.assert_same(stores.load(npy)["actions"], recorded["actions"])


def test_nan_in_an_extra_field_matters_only_if_exported(store: str, npy: str) -> None:
    edit = stores.nan_at("wide", (3, 2))
    recorded = stores.write(store, 6, schema=WITH_EXTRA, edit=edit)
    assert export_npy(store, npy).num_pairs == 24
    names = (*stores.MOSAIC_NAMES, "wide")
    assert export_npy(store, npy, fields=names).num_pairs == 23
    stores.assert_compact(npy, recorded, stores.finite_pairs(recorded, names), names)


@pytest.mark.parametrize("valid", [True, False])
def test_a_grid_with_nan_is_refused_unless_allowed(store: str, npy: str, valid: bool) -> None:
    """In invalid rows, too: MOSAIC ignores the mask, and one NaN destroys the policy."""
    mask = np.array([True, valid, True, True])
    recorded = stores.write(
        store, 6, edit=stores.nan_at("observations", (3, 1)), masks=lambda step: mask
    )
    with pytest.raises(NonFiniteError, match=r"observations: 1 pairs.*allow_nonfinite"):
        export_npy(store, npy, layout="grid")
    assert not os.path.exists(npy)

    export_npy(store, npy, layout="grid", allow_nonfinite=True)
    helpers.assert_same(stores.load(npy)["observations"], recorded["observations"])


def test_allowing_it_changes_nothing_for_compact(store: str, npy: str) -> None:
    recorded = stores.write(store, 6, edit=stores.nan_at("actions", (3, 1)))
    export_npy(store, npy, layout="compact", allow_nonfinite=True)
    good = stores.finite_pairs(recorded, ["actions"])
    stores.assert_compact(npy, recorded, good, stores.MOSAIC_NAMES)


def test_nothing_finite_is_nothing_to_export(store: str, npy: str) -> None:
    def edit(step: int, rows: stores.Rows) -> None:
        rows["action_mean"][:] = np.nan

    stores.write(store, 3, edit=edit)
    with pytest.raises(ExportError, match="12 nonfinite"):
        export_npy(store, npy)
    assert not os.path.exists(npy)


def _too_large_for_float32(step: int, rows: stores.Rows) -> None:
    if step == 2:
        rows["wide"][1, 0] = 1e300


@pytest.mark.parametrize("layout", ["auto", "compact"])
def test_float64_beyond_float32_is_infinite_in_the_file(store: str, npy: str, layout: Any) -> None:
    """Finite as recorded, infinite as float32: such a row is one with infinity."""
    recorded = stores.write(store, 5, schema=WITH_EXTRA, edit=_too_large_for_float32)
    names = (*stores.MOSAIC_NAMES, "wide")
    report = export_npy(store, npy, fields=names, layout=layout)
    assert report.left_out.nonfinite == 1
    good = np.ones((5, 4), bool)
    good[2, 1] = False
    stores.assert_compact(npy, recorded, good, names)


def test_a_grid_with_float64_beyond_float32_is_refused_unless_allowed(store: str, npy: str) -> None:
    stores.write(store, 5, schema=WITH_EXTRA, edit=_too_large_for_float32)
    with pytest.raises(NonFiniteError, match="wide"):
        export_npy(store, npy, fields=["actions", "wide"], layout="grid")
    export_npy(store, npy, fields=["actions", "wide"], layout="grid", allow_nonfinite=True)
    assert np.isinf(stores.load(npy)["wide"][2, 1, 0])
