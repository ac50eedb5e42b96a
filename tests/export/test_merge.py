"""Several stores as one file: their pairs one behind the other, and nothing else."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect import Field, Schema, TrajectoryDataset, export_npy
from mosaic_collect.errors import (
    CorruptExportError,
    CorruptStoreError,
    ExportError,
    IncompleteStoreError,
    InputError,
    NonFiniteError,
    StoreMismatchError,
    StoreNotFoundError,
)
from mosaic_collect.export.compare import verify_export
from mosaic_collect.look.inspect import summarize, summary_text
from mosaic_collect.npyfile.read import scan_npy
from mosaic_collect.store.schema import TRAJECTORY_ID, VALID_MASK
from tests import helpers
from tests.export import stores

MOTION = stores.STUDENT.with_fields(Field(name="motion_id", dtype="int32"))
NAMES = ("observations", "student_observations", "actions", "action_mean", "action_sigma")


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """Where three stores will lie."""
    return [str(tmp_path / f"{name}.zarr") for name in "abc"]


def write(path: str, first: int, steps: int, num_envs: int, **options: Any) -> stores.Rows:
    """Steps that no other store of the test has, and trajectories that end in it."""
    options = {"masks": stores.some_masks(num_envs), "schema": MOTION, **options}
    ends = {first + 3: [0], first + 5: range(num_envs)}
    return stores.write(path, steps, first=first, num_envs=num_envs, ends=ends, **options)


def three(paths: list[str], **options: Any) -> list[stores.Rows]:
    """Three stores of different widths, lengths and blocks."""
    return [
        write(paths[0], 0, 10, 4, **options),
        write(paths[1], 100, 7, 2, block_steps=5, **options),
        write(paths[2], 200, 11, 5, block_steps=2, **options),
    ]


def joined(recorded: list[stores.Rows], name: str, chosen: list[np.ndarray]) -> np.ndarray:
    """The chosen rows of all stores, in order, ``(M, 1[, D])``."""
    pairs = zip(recorded, chosen, strict=True)
    return np.concatenate([stores.chosen_rows(rows, name, c) for rows, c in pairs])


def assert_joined(
    npy: str, recorded: list[stores.Rows], chosen: list[np.ndarray], names: Any = NAMES
) -> None:
    data = stores.load(npy)
    assert sorted(data) == sorted([*names, "metadata"])
    for name in names:
        helpers.assert_same(data[name], joined(recorded, name, chosen), name)


def masks(recorded: list[stores.Rows]) -> list[np.ndarray]:
    return [rows[VALID_MASK] for rows in recorded]


def raised_ids(paths: list[str]) -> list[np.ndarray]:
    """Every store's ids, behind those that the stores before have used."""
    found, first = [], 0
    for path in paths:
        dataset = TrajectoryDataset(path)
        found.append(helpers.ids(dataset) + first)
        first += dataset.state.next_trajectory_id
    return found


@pytest.mark.parametrize(("padded", "order"), [(False, 1), (True, 1), (False, -1)])
def test_valid_pairs_of_all_stores_in_the_order_named(
    request: pytest.FixtureRequest, paths: list[str], npy: str, padded: bool, order: int
) -> None:
    if padded:
        request.getfixturevalue("small_chunks")
    recorded, paths = three(paths)[::order], paths[::order]
    report = export_npy(paths, npy)
    assert report.layout == "compact"
    assert_joined(npy, recorded, masks(recorded))
    assert report.num_pairs == sum(m.sum() for m in masks(recorded))
    assert report.left_out.invalid == sum((~m).sum() for m in masks(recorded))
    assert verify_export(paths, npy).ok


def test_a_list_of_one_is_that_store_byte_by_byte(paths: list[str], npy: str) -> None:
    three(paths)
    other = npy.replace("expert", "other")
    for options in ({}, {"layout": "grid"}, {"max_pairs": 5}):
        export_npy(paths[0], npy, **options)
        export_npy([Path(paths[0])], other, **options)
        assert Path(npy).read_bytes() == Path(other).read_bytes()


def test_what_all_stores_hold_in_full_is_compact_too(paths: list[str], npy: str) -> None:
    """Whether a merge is a grid does not hang on what its stores happen to hold."""
    recorded = [write(p, 100 * i, 6, 4, masks=None) for i, p in enumerate(paths)]
    assert export_npy(paths[0], npy).layout == "grid"
    assert export_npy(paths, npy).layout == "compact"
    assert_joined(npy, recorded, masks(recorded))


@pytest.mark.parametrize("masked", [False, True])
def test_a_grid_if_it_is_asked_for(paths: list[str], npy: str, masked: bool) -> None:
    given = [stores.some_masks(4) if masked and i == 1 else None for i in range(3)]
    recorded = [
        write(p, 100 * i, 6 + i, 4, masks=m, block_steps=2 + i)
        for i, (p, m) in enumerate(zip(paths, given, strict=True))
    ]
    report = export_npy(paths, npy, layout="grid", fields=[*NAMES, TRAJECTORY_ID])
    data = stores.load(npy)
    for name in NAMES:
        helpers.assert_same(data[name], np.concatenate([r[name] for r in recorded]), name)
    helpers.assert_same(data[TRAJECTORY_ID], np.concatenate(raised_ids(paths)))
    assert report.shapes["actions"] == (21, 4, 2)
    assert (VALID_MASK in data) is masked
    if masked:
        helpers.assert_same(data[VALID_MASK], np.concatenate(masks(recorded)))
    assert data["metadata"]["has_valid_mask"] is masked
    assert data["metadata"]["num_steps"] == sum(m.sum() for m in masks(recorded))
    assert verify_export(paths, npy).ok


def test_a_grid_of_different_widths_is_refused(paths: list[str], npy: str) -> None:
    three(paths)
    with pytest.raises(StoreMismatchError) as failure:
        export_npy(paths, npy, layout="grid")
    for words in ("a.zarr has 4", "b.zarr has 2", "c.zarr has 5", "layout='compact'"):
        assert words in str(failure.value)
    assert not os.path.exists(npy)


def test_a_grid_with_nan_anywhere_is_refused(paths: list[str], npy: str) -> None:
    write(paths[0], 0, 6, 4)
    write(paths[1], 100, 6, 4, edit=stores.nan_at("actions", (102, 1)))
    with pytest.raises(NonFiniteError, match="actions: 1 pairs"):
        export_npy(paths[:2], npy, layout="grid")
    export_npy(paths[:2], npy, layout="grid", allow_nonfinite=True)
    assert np.isnan(stores.load(npy)["actions"][8, 1, -1])


def test_trajectory_ids_stay_unique_and_the_report_says_how(paths: list[str], npy: str) -> None:
    recorded = three(paths)
    names = ["actions", "motion_id", TRAJECTORY_ID]
    report = export_npy(paths, npy, fields=names)
    ids = raised_ids(paths)
    for rows, raised in zip(recorded, ids, strict=True):
        rows[TRAJECTORY_ID] = raised
    assert_joined(npy, recorded, masks(recorded), names)
    assert not set(ids[0].flat) & set(ids[1].flat) | set(ids[1].flat) & set(ids[2].flat)

    used = [TrajectoryDataset(p).state.next_trajectory_id for p in paths]
    notes = "\n".join(report.notes)
    assert f"b.zarr are its own and {used[0]} more" in notes
    assert f"c.zarr are its own and {used[0] + used[1]} more" in notes
    assert not any("more, to be unique" in note for note in export_npy(paths, npy).notes)


def test_ids_beyond_int64_are_refused(paths: list[str], npy: str) -> None:
    three(paths)
    for path in paths[:2]:
        helpers.edit_state(path, next_trajectory_id=(1 << 63) - 1)
    with pytest.raises(ExportError, match="beyond int64"):
        export_npy(paths, npy)


def test_interrupted_trajectories_of_each_store_are_left_out(paths: list[str], npy: str) -> None:
    recorded = three(paths)
    report = export_npy(paths, npy, exclude_interrupted=True)
    whole = []
    for rows in recorded:
        ended = np.zeros_like(rows[VALID_MASK])
        ended[:6] = True  # all environments end on the sixth step, and never again
        whole.append(rows[VALID_MASK] & ended)
    assert_joined(npy, recorded, whole)
    assert report.left_out.interrupted == sum(
        (r[VALID_MASK] & ~w).sum() for r, w in zip(recorded, whole, strict=True)
    )
    assert verify_export(paths, npy).ok


def pairs_of(npy: str) -> list[tuple[float, ...]]:
    return [tuple(row) for row in stores.load(npy)["observations"][:, 0].tolist()]


def test_a_draw_is_of_all_stores_and_nested(paths: list[str], npy: str) -> None:
    recorded = three(paths)
    every = joined(recorded, "observations", masks(recorded))[:, 0]
    order = {tuple(row): at for at, row in enumerate(every.tolist())}
    assert len(order) == len(every)
    smaller: set[Any] = set()
    for k in (1, 9, 20, 40):
        report = export_npy(paths, npy, max_pairs=k, seed=7)
        drawn = pairs_of(npy)
        assert len(set(drawn)) == k
        assert [order[p] for p in drawn] == sorted(order[p] for p in drawn)
        assert smaller <= set(drawn)
        assert report.left_out.not_drawn == len(every) - k
        assert verify_export(paths, npy).ok
        smaller = set(drawn)


def test_a_draw_is_uniform_over_all_stores(paths: list[str], npy: str) -> None:
    """Each pair as often as any other, however many its store has."""
    recorded = [write(paths[0], 0, 12, 4, masks=None), write(paths[1], 100, 3, 2, masks=None)]
    small = {tuple(row) for row in recorded[1]["observations"].reshape(-1, 3).tolist()}
    found = 0
    for seed in range(200):
        export_npy(paths[:2], npy, max_pairs=9, seed=seed, fields=["observations"])
        found += len(small & set(pairs_of(npy)))
    # 200 draws of 9 of 54, of which 6 are the small store's: 200 expected, deviation 12.
    assert 140 < found < 260


def test_damage_in_one_store_is_named_or_gone_around(paths: list[str], npy: str) -> None:
    recorded = three(paths)
    stores.flip(os.path.join(paths[1], "actions", "c.1.0.0"), 3)
    with pytest.raises(CorruptStoreError, match=r"b\.zarr: actions, block 1"):
        export_npy(paths, npy)
    report = export_npy(paths, npy, skip_damaged=True)
    chosen = masks(recorded)
    chosen[1] = chosen[1].copy()
    chosen[1][5:] = False
    assert_joined(npy, recorded, chosen)
    assert report.left_out.damaged == 2 * 2
    assert verify_export(paths, npy).ok


def test_a_mask_that_contradicts_its_store_is_named(paths: list[str], npy: str) -> None:
    """Two lies that even out are none the less two."""
    three(paths)
    for path, by in zip(paths, (1, -1), strict=False):
        helpers.edit_state(path, num_valid=TrajectoryDataset(path).num_valid + by)
    with pytest.raises(CorruptStoreError, match=r"a\.zarr: valid_mask holds"):
        export_npy(paths, npy)


def test_unfinished_stores(paths: list[str], npy: str) -> None:
    recorded = [write(paths[0], 0, 6, 4), write(paths[1], 100, 6, 4, complete=False)]
    with pytest.raises(IncompleteStoreError, match=r"b\.zarr is still collecting"):
        export_npy(paths[:2], npy)
    report = export_npy(paths[:2], npy, allow_incomplete=True)
    assert report.num_pairs == sum(m.sum() for m in masks(recorded))


def test_a_store_without_steps_is_named(paths: list[str], npy: str) -> None:
    write(paths[0], 0, 6, 4)
    helpers.open_writer(paths[1], schema=MOTION).close()
    with pytest.raises(ExportError, match=r"b\.zarr: no committed step"):
        export_npy(paths[:2], npy)


def test_different_fields_are_refused_each_by_name(paths: list[str], npy: str) -> None:
    stores.write(paths[0], 3, schema=MOTION)
    wider = Schema.mosaic(obs_dim=4, action_dim=2, extra=[Field(name="motion_id", dtype="int64")])
    stores.write(paths[1], 3, schema=wider)
    stores.write(paths[2], 3, schema=MOTION.with_fields(Field(name="frame", dtype="int32")))
    with pytest.raises(StoreMismatchError) as failure:
        export_npy(paths, npy)
    for words in (
        "the same fields as " + paths[0],
        f"{paths[1]}: observations: expected dim 3 of float32, got dim 4 of float32",
        f"{paths[1]}: student_observations: expected dim 5 of float32, got no such field",
    ):
        assert words in str(failure.value)
    with pytest.raises(StoreMismatchError) as failure:
        export_npy(paths, npy, fields=["actions", "motion_id", "frame"])
    for words in (
        f"{paths[1]}: motion_id: expected one value of int32, got one value of int64",
        f"{paths[2]}: frame: expected no such field, got one value of int32",
    ):
        assert words in str(failure.value)
    assert not os.path.exists(npy)


def test_only_fields_that_are_exported_must_be_alike(paths: list[str], npy: str) -> None:
    recorded = [
        stores.write(paths[0], 3, schema=MOTION),
        stores.write(paths[1], 4, first=50, num_envs=2, schema=stores.STUDENT),
    ]
    with pytest.raises(StoreMismatchError, match="motion_id"):
        export_npy(paths[:2], npy, fields=["actions", "motion_id"])
    export_npy(paths[:2], npy)  # MOSAIC's fields, which both have
    export_npy(paths[:2], npy, fields=["actions", TRAJECTORY_ID])
    helpers.assert_same(stores.load(npy)["actions"], joined(recorded, "actions", masks(recorded)))
    with pytest.raises(InputError, match="no field 'rewards'"):
        export_npy(paths[:2], npy, fields=["rewards"])


def test_order_and_defaults_of_fields_do_not_matter(paths: list[str], npy: str) -> None:
    fields = [Field(name=f.name, dim=f.dim, dtype=f.dtype) for f in helpers.SMALL.fields]
    first = stores.write(paths[0], 3)
    writer = helpers.open_writer(paths[1], schema=Schema(tuple(fields[::-1])))
    for step in range(3):
        writer.add_step(**{name: rows[step] for name, rows in first.items() if name != VALID_MASK})
    writer.close()
    export_npy(paths[:2], npy)
    assert_joined(npy, [first, first], masks([first, first]), stores.MOSAIC_NAMES)
    dataset = TrajectoryDataset(paths[:2])
    for name in helpers.SMALL.names:
        helpers.assert_same(dataset.read(name), np.concatenate([first[name]] * 2), name)


@pytest.mark.parametrize("how", ["same", "slash", "link", "dots"])
def test_a_store_twice_is_refused(paths: list[str], npy: str, how: str) -> None:
    write(paths[0], 0, 6, 4)
    write(paths[1], 100, 6, 4)
    os.symlink(paths[0], paths[2])
    again = {
        "same": paths[0],
        "slash": paths[0] + "/",
        "link": paths[2],
        "dots": os.path.join(paths[1], "..", "a.zarr"),
    }[how]
    with pytest.raises(InputError, match="the same store as"):
        export_npy([paths[0], paths[1], again], npy)
    assert not os.path.exists(npy)


def test_no_store_and_a_missing_one(paths: list[str], npy: str) -> None:
    write(paths[0], 0, 6, 4)
    with pytest.raises(InputError, match="at least one"):
        export_npy([], npy)
    with pytest.raises(StoreNotFoundError, match=r"b\.zarr"):
        export_npy(paths[:2], npy)


@pytest.mark.parametrize("inside", range(3))
def test_the_target_lies_in_none_of_the_stores(paths: list[str], inside: int) -> None:
    three(paths)
    with pytest.raises(InputError, match="inside the store"):
        export_npy(paths, os.path.join(paths[inside], "e.npy"))


def test_the_file_names_every_source(paths: list[str], npy: str) -> None:
    recorded = [
        write(p, 100 * i, 6 + i, 2 + i, metadata={"label": f"G{i}"}) for i, p in enumerate(paths)
    ]
    report = export_npy(paths, npy)
    metadata = stores.load(npy)["metadata"]
    assert metadata["num_steps"] == report.num_pairs
    assert metadata["num_trajectories"] == sum(TrajectoryDataset(p).num_ended for p in paths)
    assert metadata["obs_dim_dict"] == {"observations": 3, "student_observations": 5}
    ours = metadata["mosaic_collect"]
    assert ours["left_out"] == asdict(report.left_out)
    assert [s["path"] for s in ours["stores"]] == paths
    assert [s["metadata"] for s in ours["stores"]] == [{"label": f"G{i}"} for i in range(3)]
    assert [(s["store_steps"], s["store_envs"]) for s in ours["stores"]] == [
        rows[VALID_MASK].shape for rows in recorded
    ]
    told = summary_text(summarize(npy))
    assert "6 steps x 2 envs" in told
    assert "c.zarr" in told


# -- verify_export ---------------------------------------------------------------------------------


def test_other_stores_than_the_files_are_found(paths: list[str], npy: str) -> None:
    three(paths)
    export_npy(paths, npy)
    assert "from 3 stores, 2 given" in verify_export(paths[:2], npy).problems[0]
    swapped = verify_export([paths[1], paths[0], paths[2]], npy)
    assert "10 steps, the store " + paths[1] in swapped.problems[0]
    export_npy(paths[0], npy)
    assert "from 1 stores, 3 given" in verify_export(paths, npy).problems[0]


def test_a_flipped_bit_is_placed_in_its_store(paths: list[str], npy: str) -> None:
    three(paths)
    export_npy(paths, npy)
    stored = scan_npy(npy).arrays["actions"]
    stores.flip(npy, stored.offset + stored.nbytes - 1, 1)
    assert verify_export(paths, npy).problems == (
        f"actions, block 5: 1 rows differ from {paths[2]}",
    )


@pytest.mark.parametrize("told", [None, 3, [1, 2, 3], {"a": 1}])
def test_sources_that_make_no_sense_are_refused(paths: list[str], npy: str, told: Any) -> None:
    three(paths)
    export_npy(paths, npy)
    data = stores.load(npy)
    data["metadata"]["mosaic_collect"]["stores"] = told
    np.save(npy, data)
    with pytest.raises(CorruptExportError, match="from which stores"):
        verify_export(paths, npy)
    summary_text(summarize(npy))
