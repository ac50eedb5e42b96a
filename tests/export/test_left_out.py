"""What a compact export leaves out, why, and how many pairs: each counts under one reason."""

from __future__ import annotations

import os
from typing import Any
from unittest import mock

import numpy as np
import pytest

from mosaic_collect import Field, TrajectoryDataset, export_npy, verify_export
from mosaic_collect.errors import CorruptStoreError, ExportError, InputError, NonFiniteError
from mosaic_collect.reading.trajectories import count_failed, failed_ids
from tests import helpers
from tests.export import stores

SCHEMA = stores.STUDENT.with_ends()
NAMES = [*stores.MOSAIC_NAMES, "student_observations"]
WIDE = stores.STUDENT.with_fields(Field(name="wide", dim=2, dtype="float64"))
EVERY = slice(None)


def write(store: str, *runs: dict[str, Any], **options: Any) -> stores.Rows:
    """Record runs one behind the other; each is a number of steps with ends and falls."""
    done: list[stores.Rows] = []
    for number, run in enumerate(runs):
        first = sum(len(rows["actions"]) for rows in done)
        resumed = {"resume": True} if number else options
        is_last = number == len(runs) - 1
        done.append(
            stores.write(store, **run, first=first, schema=SCHEMA, complete=is_last, **resumed)
        )
    return {name: np.concatenate([rows[name] for rows in done]) for name in done[0]}


@pytest.mark.parametrize(
    ("reason", "runs", "out"),
    [
        pytest.param(
            "interrupted",
            [{"steps": 8, "ends": {3: [0, 1], 7: [1, 2]}}],
            [(slice(4, 8), 0), (EVERY, 3)],
            id="by the end of the store",
        ),
        pytest.param(
            "interrupted",
            [{"steps": 5, "ends": {2: [0], 4: [1]}}, {"steps": 4, "ends": {8: range(4)}}],
            [(slice(3, 5), 0), (slice(0, 5), [2, 3])],
            id="by a resume",
        ),
        pytest.param(
            "interrupted",
            [{"steps": 4, "ends": {1: [3]}}, {"steps": 4}, {"steps": 3, "ends": {9: [0, 1]}}],
            [(slice(2, None), 3), (slice(0, 8), [0, 1]), (10, [0, 1]), (EVERY, 2)],
            id="within blocks",
        ),
        pytest.param(
            "interrupted", [{"steps": 6, "ends": {2: [1], 5: range(4)}}], [], id="none interrupted"
        ),
        pytest.param(
            "failed",
            [{"steps": 11, "ends": {1: [0], 10: range(4)}, "falls": {4: [0, 3], 7: [1]}}],
            [(slice(2, 5), 0), (slice(0, 5), 3), (slice(0, 8), 1)],
            id="wherever blocks end",
        ),
        pytest.param(
            "failed",
            [{"steps": 6, "ends": {5: [0]}, "falls": {5: [1, 2]}}],
            [(EVERY, [1, 2])],
            id="with the last step",
        ),
        pytest.param(
            "failed",
            [{"steps": 4, "falls": {2: [0]}}, {"steps": 4, "falls": {7: [0, 1]}}],
            [(slice(0, 3), 0), (slice(4, 8), [0, 1])],
            id="over a resume",
        ),
        pytest.param("failed", [{"steps": 6, "ends": {5: range(4)}}], [], id="none failed"),
    ],
)
@pytest.mark.parametrize("block_steps", [3, 5])
def test_trajectories(
    store: str, npy: str, reason: str, runs: list[Any], out: list[Any], block_steps: int
) -> None:
    """All their rows, wherever blocks and runs end."""
    recorded = write(store, *runs, block_steps=block_steps)
    kept = np.ones(recorded["valid_mask"].shape, bool)
    for steps, envs in out:
        kept[steps, envs] = False
    report = export_npy(store, npy, **{f"exclude_{reason}": True})
    assert report.layout == "compact"
    assert getattr(report.left_out, reason) == (~kept).sum()
    stores.assert_compact(npy, recorded, kept, NAMES)
    assert verify_export(store, npy).ok


def test_each_pair_counts_under_the_first_reason(store: str, npy: str) -> None:
    recorded = stores.write(
        store,
        8,
        schema=SCHEMA,
        masks=stores.some_masks(4),
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


@pytest.mark.parametrize(
    ("recording", "options", "words"),
    [
        ({"block_steps": 6}, {"skip_damaged": True}, "24 damaged"),
        ({}, {"exclude_interrupted": True}, "24 interrupted"),
        ({"falls": {5: range(4)}}, {"exclude_failed": True}, "24 failed"),
        ({"edit": lambda step, rows: rows["action_mean"].fill(np.nan)}, {}, "24 nonfinite"),
        ({"masks": lambda step: np.zeros(4, bool)}, {}, "24 invalid"),
    ],
)
def test_nothing_left_is_nothing_to_export(
    store: str, npy: str, recording: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    stores.write(store, 6, schema=SCHEMA, **recording)
    if "skip_damaged" in options:
        os.unlink(os.path.join(store, "actions", "c.0.0.0"))
    with pytest.raises(ExportError, match=words):
        export_npy(store, npy, **options)
    assert not os.path.exists(npy)


# -- failures --------------------------------------------------------------------------------------


def test_a_store_that_does_not_know_how_they_ended_is_refused(store: str, npy: str) -> None:
    stores.write(store, 6, ends={5: range(4)})
    with pytest.raises(InputError, match=r"trajectory_end.*with_ends"):
        export_npy(store, npy, exclude_failed=True)
    assert not os.path.exists(npy)


@pytest.mark.parametrize("skip", [False, True])
def test_damaged_ends_are_refused_even_around_damage(store: str, npy: str, skip: bool) -> None:
    """An end that cannot be read may be that of rows in any block before it."""
    write(store, {"steps": 11, "falls": {4: [0]}})
    stores.flip(os.path.join(store, "trajectory_end", "c.1.0"), 0)
    with pytest.raises(CorruptStoreError, match="trajectory_end, block 1") as error:
        export_npy(store, npy, exclude_failed=True, skip_damaged=skip)
    assert ("skip_damaged" in str(error.value)) is not skip, "named, unless it is taken already"
    export_npy(store, npy)


def test_ids_are_found_chunk_by_chunk(store: str) -> None:
    """Environments of several chunks; ids and ends are cut differently."""
    with mock.patch("mosaic_collect.store.grid.CHUNK_NBYTES", 24):
        write(store, {"steps": 7, "ends": {1: [0, 8]}, "falls": {3: [8, 4, 0], 6: [2]}}, num_envs=9)
    dataset = TrajectoryDataset(store)
    grids = dataset.state.grids()
    assert grids["trajectory_end"].chunks == 2
    assert grids["trajectory_id"].chunks == 9
    ids = dataset.read("trajectory_id")
    want = sorted([ids[3, 8], ids[3, 4], ids[3, 0], ids[6, 2]])
    assert failed_ids(dataset.view).tolist() == want
    assert count_failed(dataset.view) == 4


# -- NaN and infinity: never in a compact export, in a grid only by name ---------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("field", stores.MOSAIC_NAMES)
@pytest.mark.parametrize("allow", [False, True])
def test_rows_with_it_never_enter_a_compact_export(
    store: str, npy: str, field: str, value: float, allow: bool
) -> None:
    edit = stores.nan_at(field, (0, 0), (4, 3), (7, 1), value=value)
    recorded = stores.write(store, 8, edit=edit)
    report = export_npy(store, npy, layout="compact", allow_nonfinite=allow)
    finite = stores.finite_pairs(recorded, [field])
    stores.assert_compact(npy, recorded, finite, stores.MOSAIC_NAMES)
    assert (report.left_out.nonfinite, report.num_pairs) == (3, 8 * 4 - 3)


def test_infinities_that_cancel_are_seen(store: str, npy: str) -> None:
    """A sum over the values, the quick way to look for NaN, must not be trusted to be finite."""

    def edit(step: int, rows: stores.Rows) -> None:
        if step == 1:
            rows["observations"][0, :2] = np.inf, -np.inf
        if step == 2:
            rows["observations"][:2, 0] = 3e38  # finite, though their sum is not
        if step == 3:  # two fields of one pair
            rows["observations"][1, 0] = rows["actions"][1, 0] = np.nan

    recorded = stores.write(store, 4, edit=edit)
    report = export_npy(store, npy)
    assert report.left_out.nonfinite == 2
    good = stores.finite_pairs(recorded, ["observations"])
    stores.assert_compact(npy, recorded, good, stores.MOSAIC_NAMES)


def test_nan_in_a_field_matters_only_if_it_is_exported(store: str, npy: str) -> None:
    recorded = stores.write(store, 6, schema=WIDE, edit=stores.nan_at("wide", (3, 2)))
    report = export_npy(store, npy)
    assert (report.layout, report.num_pairs) == ("grid", 24)
    names = (*NAMES, "wide")
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
    assert verify_export(store, npy).ok


def test_float64_beyond_float32_is_infinite_in_the_file(store: str, npy: str) -> None:
    """Finite as recorded, infinite as float32: such a row is one with infinity."""
    edit = stores.nan_at("wide", (2, 1), value=1e300)
    recorded = stores.write(store, 5, schema=WIDE, edit=edit)
    names = (*NAMES, "wide")
    good = np.ones((5, 4), bool)
    good[2, 1] = False
    for layout in ("auto", "compact"):
        report = export_npy(store, npy, fields=names, layout=layout)
        assert report.left_out.nonfinite == 1
        stores.assert_compact(npy, recorded, good, names)
    with pytest.raises(NonFiniteError, match="wide"):
        export_npy(store, npy, fields=["actions", "wide"], layout="grid")
    export_npy(store, npy, fields=["actions", "wide"], layout="grid", allow_nonfinite=True)
    assert np.isinf(stores.load(npy)["wide"][2, 1, -1])
