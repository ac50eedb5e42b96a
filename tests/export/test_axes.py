"""Fields of several axes in a file: MOSAIC's as flat rows, others as they are; and back again."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from mosaic_collect import Field, Schema, TrajectoryDataset, export_npy, import_npy
from mosaic_collect.errors import CorruptExportError, InputError, StoreMismatchError
from mosaic_collect.export import Options, plan_export
from mosaic_collect.export.compare import verify_export
from mosaic_collect.look.inspect import summarize
from tests import helpers
from tests.export import stores
from tests.importing.test_resume import interrupted

#: A student that sees three frames of five values, a camera, and a stereo pair that nobody reads.
SCHEMA = Schema(
    (
        Field(name="observations", dim=4),
        Field(name="student_observations", dim=(3, 5), dtype="float64"),
        Field(name="actions", dim=2),
        Field(name="action_mean", dim=2, default="actions"),
        Field(name="action_sigma", dim=2, default=0.01),
        Field(name="observations_camera", dim=(2, 4, 3), dtype="uint8"),
    )
)
ALL = SCHEMA.names
N = 4


@pytest.fixture(autouse=True)
def two_images_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mosaic_collect.store.grid.CHUNK_NBYTES", 50)


def write(store: str, steps: int = 10, **options: Any) -> stores.Rows:
    return stores.write(store, steps, schema=SCHEMA, num_envs=N, block_steps=4, **options)


def flat(recorded: stores.Rows) -> stores.Rows:
    """As MOSAIC's arrays are to be."""
    rows = recorded["student_observations"]
    return {**recorded, "student_observations": rows.reshape(*rows.shape[:2], -1)}


def test_rows_of_mosaics_fields_are_flat_and_the_file_says_so(store: str, npy: str) -> None:
    recorded = flat(write(store))
    report = export_npy(store, npy)
    data = stores.load(npy)
    assert data["student_observations"].shape == report.shapes["student_observations"]
    want = recorded["student_observations"].astype(np.float32)
    helpers.assert_same(data["student_observations"], want)
    assert data["metadata"]["obs_dim_dict"] == {"observations": 4, "student_observations": 15}
    assert data["metadata"]["mosaic_collect"]["axes"] == {"student_observations": [3, 5]}
    assert "observations_camera" not in data
    told = "student_observations: its axes (3, 5) became one of 15, in C order"
    assert told in report.notes
    assert verify_export(store, npy).ok


def test_flat_files_do_not_speak_of_axes(store: str, npy: str) -> None:
    stores.write(store, 3)
    export_npy(store, npy)
    assert "axes" not in stores.load(npy)["metadata"]["mosaic_collect"]


@pytest.mark.parametrize("slab", [1, 60, 120, 8 << 20])
@pytest.mark.parametrize("layout", ["grid", "compact"])
def test_other_fields_keep_their_axes(
    store: str, npy: str, layout: str, slab: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mosaic_collect.reading.selection.CELL_NBYTES", slab)
    recorded = flat(write(store, masks=stores.some_masks(N)))
    export_npy(store, npy, layout=layout, fields=ALL)
    assert verify_export(store, npy).ok
    if layout == "compact":
        stores.assert_compact(npy, recorded, recorded["valid_mask"], ALL)
        return
    camera = stores.load(npy)["observations_camera"]
    helpers.assert_same(camera, recorded["observations_camera"])


def test_a_changed_pixel_is_found(store: str, npy: str) -> None:
    write(store)
    export_npy(store, npy, fields=ALL)
    plan = plan_export(store, Options(fields=ALL))
    stores.flip(npy, plan.file.arrays["observations_camera"].offset + 5 * N * 24 + 30)
    (problem,) = verify_export(store, npy).problems
    assert problem.startswith("observations_camera, block 1: 1 rows differ")


def test_nothing_but_one_cell_is_read_at_once(store: str) -> None:
    write(store)
    table = TrajectoryDataset(store).view
    cells = table.cells_of(0, ["observations_camera"], 100)
    assert [(c.steps, c.envs) for c in cells] == [(range(4), range(e, e + 1)) for e in range(N)]
    assert [c.shape for c in table.cells_of(2, ["observations_camera"], 1)] == [(2, 1)] * N
    cells = table.cells_of(1, ["observations_camera"], 1)
    assert [c.at for c in cells][N] == (slice(2, 4), slice(0, 1))
    cells = table.cells_of(1, ["actions"], 1)
    shapes = [table.read_cell("observations_camera", c).shape for c in cells]
    assert all(shape[0] == 4 and shape[2:] == (2, 4, 3) for shape in shapes)


def test_skipped_are_just_the_images_of_the_damaged_chunk(store: str, npy: str) -> None:
    recorded = flat(write(store))
    with TrajectoryDataset(store).view.parts[0].shard("observations_camera", 1) as shard:
        # Of environment 2, the block's steps 2 and 3.
        offset = sum(map(shard.stored_nbytes, range(N + 2)))
    stores.flip(os.path.join(store, "observations_camera", "c.1.0.0.0.0"), offset)
    report = export_npy(store, npy, fields=ALL, skip_damaged=True)
    chosen = np.ones((10, N), bool)
    chosen[6:8, 2] = False
    stores.assert_compact(npy, recorded, chosen, ALL)
    assert report.left_out.damaged == 2


def test_pairs_with_nan_anywhere_in_their_axes_are_left_out(store: str, npy: str) -> None:
    def edit(step: int, rows: stores.Rows) -> None:
        rows["student_observations"][step % N, 2, 1] = np.nan if step in (1, 6) else 0
        rows["student_observations"][0, 0, 0] = 1e300 if step == 9 else 0  # too much for float32

    recorded = write(store, edit=edit)
    export_npy(store, npy)
    recorded["student_observations"][9, 0, 0, 0] = np.inf
    chosen = stores.finite_pairs(recorded, ALL)
    assert chosen.sum() == 10 * N - 3
    stores.assert_compact(npy, flat(recorded), chosen, ALL[:-1])


def test_images_as_what_mosaic_trains_on_are_refused(store: str, npy: str) -> None:
    images = Field(name="observations", dim=(3, 8, 8), dtype="uint8")
    schema = Schema((images, Field(name="actions", dim=2)))
    recorded = stores.write(store, 3, schema=schema)
    with pytest.raises(InputError, match=r"observations is uint8 of \(3, 8, 8\).* the other"):
        export_npy(store, npy)
    assert not os.path.exists(npy)
    export_npy(store, npy, fields=["actions"])
    helpers.assert_same(stores.load(npy)["actions"], recorded["actions"])


def test_several_stores_must_have_the_same_axes(store: str, npy: str) -> None:
    stores.write(store, 3, schema=Schema((Field(name="rgb", dim=(2, 3)),)))
    stores.write(store + "2", 3, schema=Schema((Field(name="rgb", dim=(3, 2)),)))
    with pytest.raises(StoreMismatchError, match=r"rgb: expected dim \(2, 3\).*got dim \(3, 2\)"):
        export_npy([store, store + "2"], npy)
    stores.write(store + "3", 4, schema=Schema((Field(name="rgb", dim=(2, 3)),)), num_envs=2)
    report = export_npy([store, store + "3"], npy)
    assert report.shapes["rgb"] == (3 * 4 + 4 * 2, 1, 2, 3)
    assert verify_export([store, store + "3"], npy).ok


class TestImport:
    """What was exported becomes a store of the same fields."""

    @pytest.mark.parametrize("after", [None, 5])
    def test_axes_come_back(
        self, store: str, npy: str, after: int | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also in an import that was interrupted."""
        recorded = write(store)
        export_npy(store, npy, fields=ALL)
        if after is not None:
            interrupted(npy, store + "2", monkeypatch, after)
        report = import_npy(npy, store + "2", resume="auto")
        assert report.first_step == (after or 0)
        back = TrajectoryDataset(store + "2")
        for name in ALL:
            kind = np.float32 if recorded[name].dtype.kind == "f" else None
            helpers.assert_same(back.read(name), recorded[name].astype(kind or np.uint8), name)
        assert back.schema["student_observations"].dim == (3, 5)
        assert back.schema["action_mean"].default == "actions"
        assert report.shapes["observations_camera"] == (10, N, 2, 4, 3)

    @pytest.mark.parametrize(
        "axes", [[3, 4], [], [15.0], [0], [-3, -5], "3x5", 15, [1] * 8 + [15], [1 << 62, 15]]
    )
    def test_axes_that_the_values_do_not_fill_are_refused(
        self, store: str, npy: str, axes: Any
    ) -> None:
        write(store, 3)
        export_npy(store, npy)
        data = stores.load(npy)
        data["metadata"]["mosaic_collect"]["axes"]["student_observations"] = axes
        np.save(npy, data)
        with pytest.raises(CorruptExportError, match="student_observations: expected axes of 15"):
            import_npy(npy, store + "2")
        assert not os.path.exists(store + "2")


def test_inspect_tells_the_shapes_of_a_file(store: str, npy: str) -> None:
    write(store)
    export_npy(store, npy, fields=ALL)
    shapes = {f.name: f.shape for f in summarize(npy).fields}
    assert shapes["observations_camera"] == (10, N, 2, 4, 3)
    assert shapes["student_observations"] == (10, N, 15)
