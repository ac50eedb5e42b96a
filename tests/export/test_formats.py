"""Formats of one trajectory after the other: each value as it was recorded, or nothing at all."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect import Field, Schema, TrajectoryDataset
from mosaic_collect.errors import (
    CorruptStoreError,
    InputError,
    MissingDependencyError,
    SpaceError,
    WriteError,
)
from mosaic_collect.export import export
from mosaic_collect.reading.selection import TRAIN, VALIDATION
from mosaic_collect.store.schema import TRAJECTORY_ID, VALID_MASK
from tests import helpers
from tests.export import rows, stores
from tests.export.rows import FIELDS, assert_same, expected, record

h5py = pytest.importorskip("h5py")
parquet = pytest.importorskip("pyarrow.parquet")
FORMATS = {"hdf5": "e.hdf5", "parquet": "e.parquet", "lerobot": "e"}


@pytest.fixture(params=FORMATS)
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def target(tmp_path: Path, form: str) -> str:
    return str(tmp_path / FORMATS[form])


def write(store: Any, target: str, **options: Any) -> Any:
    own = {} if Path(target).suffix else {"format": "lerobot", "fps": 50}
    return export(store, target, **own, **options)


def assert_exported(target: str, dataset: TrajectoryDataset, chosen: np.ndarray) -> None:
    assert_same(rows.read(target, FIELDS), expected(dataset, chosen, FIELDS))


@pytest.mark.parametrize("waiting", [1, 1 << 20])
def test_every_value(
    store: str, target: str, form: str, waiting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a group is one environment, whose rows do not wait."""
    monkeypatch.setattr("mosaic_collect.export.rows.BATCH_NBYTES", waiting)
    dataset = record(store, masks=stores.some_masks(4), block_steps=4)
    told: list[int] = []
    report = write(store, target, fields=FIELDS, progress=told.append)
    chosen = dataset.read(VALID_MASK)
    assert_exported(target, dataset, chosen)
    assert (report.layout, report.num_pairs) == (form, chosen.sum())
    assert sum(told) == report.device_nbytes


@pytest.mark.parametrize("field", ["actions", "trajectory_id"])
def test_small_cells_and_damage(small_chunks: int, store: str, target: str, field: str) -> None:
    """Several cells per block, of which one is damaged: no trajectory is mixed."""
    dataset = record(store, block_steps=4, num_envs=19)
    chosen, want = dataset.read(VALID_MASK), {}
    chosen[4:8, : dataset.state.grid(field).chunk_envs] = False
    want = expected(dataset, chosen, FIELDS)
    stores.flip(str(Path(store, field, "c.1.0.0" if field == "actions" else "c.1.0")), 3)
    with pytest.raises(CorruptStoreError, match="skip_damaged=True"):
        write(store, target, fields=FIELDS)
    assert not os.path.lexists(target)
    write(store, target, fields=FIELDS, skip_damaged=True)
    assert_same(rows.read(target, FIELDS), want)


@pytest.mark.parametrize(
    "options",
    [{"exclude_failed": True}, {"max_pairs": 9, "seed": 3}, {"split": TRAIN, "split_seed": 1}],
    ids=str,
)
def test_filters_are_those_of_the_npy_export(
    store: str, target: str, npy: str, options: dict[str, Any]
) -> None:
    record(store, masks=stores.some_masks(4))
    ours = write(store, target, fields=["actions"], **options)
    theirs = export(store, npy, fields=["actions"], layout="compact", **options)
    assert (ours.num_pairs, ours.left_out) == (theirs.num_pairs, theirs.left_out)
    found = np.concatenate([t["actions"] for t in rows.read(target, ["actions"]).values()])
    want = stores.load(npy)["actions"][:, 0]
    np.testing.assert_array_equal(np.sort(found, axis=0), np.sort(want, axis=0))


def test_several_stores_and_where_they_are_from(tmp_path: Path, target: str, form: str) -> None:
    paths = [str(tmp_path / f"{name}.zarr") for name in "ab"]
    for path, num_envs in zip(paths, (4, 6), strict=True):
        record(path, num_envs=num_envs)
    write(paths, target, fields=FIELDS)
    every = np.ones((26, 6), np.bool_)
    assert_exported(target, TrajectoryDataset(paths), every)
    if form == "hdf5":
        with h5py.File(target) as file:
            told = file["mosaic_collect"][()]
            assert json.loads(file["data"].attrs["env_args"])["type"] == 2
    elif form == "parquet":
        told = parquet.read_schema(target).metadata[b"mosaic_collect"]
    else:
        told = Path(target, "meta", "mosaic_collect.json").read_text()
    assert [store["path"] for store in json.loads(told)["stores"]] == paths


def test_columns_of_a_table_name_the_pair(store: str, tmp_path: Path) -> None:
    dataset, target = record(store, masks=stores.some_masks(4)), str(tmp_path / "e.parquet")
    export(store, target, fields=["actions"])
    table = parquet.read_table(target)
    step, env = (table.column(name).to_numpy() for name in ("step", "environment"))
    np.testing.assert_array_equal(
        rows.column(table, "actions", rows.SCHEMA["actions"]), dataset.read("actions")[step, env]
    )
    ids = dataset.read(TRAJECTORY_ID)[step, env]
    np.testing.assert_array_equal(table.column(TRAJECTORY_ID).to_numpy(), ids)
    ends = dict(
        zip(*(dataset.trajectories.columns[n].tolist() for n in ("id", "end")), strict=True)
    )
    assert table.column("end").to_pylist() == [ends[number] for number in ids.tolist()]
    told = json.loads(parquet.read_schema(target).metadata[b"mosaic_collect"])
    assert told["fields"] == [{"name": "actions", "dim": 2, "dtype": "float32"}]


def test_row_groups_and_files_are_bounded(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = record(store)
    monkeypatch.setattr("mosaic_collect.export.parquet._GROUP_NBYTES", 200)
    monkeypatch.setattr("mosaic_collect.export.lerobot.FILE_MB", 0.0002)
    monkeypatch.setattr("mosaic_collect.export.lerobot.CHUNK_FILES", 2)
    for target in (str(tmp_path / "e.parquet"), str(tmp_path / "e")):
        write(store, target, fields=FIELDS)
        assert_exported(target, dataset, dataset.read(VALID_MASK))
    assert parquet.ParquetFile(tmp_path / "e.parquet").num_row_groups > 3
    assert len({file.parent for file in (tmp_path / "e" / "data").rglob("*.parquet")}) > 1


def test_masks_of_a_file_are_the_sides_of_the_split(store: str, tmp_path: Path) -> None:
    dataset, target = record(store), str(tmp_path / "e.h5")
    split = {"validation_fraction": 0.4, "split_seed": 2}
    export(store, target, fields=["actions"], **split)
    with h5py.File(target) as file:
        sides = {
            kind: {int(file[f"data/{name.decode()}"].attrs["trajectory_id"]) for name in names}
            for kind, names in file["mask"].items()
        }
    assert sides["train"] | sides["valid"] == set(dataset.trajectories.columns["id"].tolist())
    for kind, side in (("train", TRAIN), ("valid", VALIDATION)):
        only = str(tmp_path / f"{side}.hdf5")
        export(store, only, fields=["actions"], split=side, **split)
        assert set(rows.read(only, ["actions"])) == sides[kind]


def test_lerobots_metadata(store: str, tmp_path: Path) -> None:
    motions = [{"path": f"/m/{name}.npz"} for name in ("walk", "run")]
    robot = {"name": "g1", "control_dt": 0.02, "action_names": ["hip", "knee"]}
    dataset = record(store, metadata={"robot": robot, "motions": motions})
    target, meta = tmp_path / "e", tmp_path / "e" / "meta"
    export(store, target, "lerobot", fields=FIELDS, state="student_observations")
    info, stats = (json.loads((meta / f"{name}.json").read_text()) for name in ("info", "stats"))
    told = {"fps": 50, "codebase_version": "v3.0", "robot_type": "g1"}
    assert {key: info[key] for key in told} == told
    assert info["features"]["action"]["names"] == ["actions[hip]", "actions[knee]"]
    assert info["features"]["observation.state"]["shape"] == [5]
    assert info["features"]["observation.camera"]["dtype"] == "image"
    want = dataset.read("student_observations").reshape(-1, 5).astype(np.float64)
    for name, value in (("min", want.min(0)), ("mean", want.mean(0)), ("std", want.std(0))):
        np.testing.assert_allclose(stats["observation.state"][name], value)
    camera = dataset.read("camera").reshape(-1, 3) / 255
    np.testing.assert_allclose(np.ravel(stats["observation.camera"]["max"]), camera.max(0))
    tasks = parquet.read_table(meta / "tasks.parquet").to_pandas()
    episodes = parquet.read_table(meta / "episodes/chunk-000/file-000.parquet").to_pylist()
    data = parquet.read_table(target / "data/chunk-000/file-000.parquet")
    motion = {t.id: t.motion for t in dataset.trajectories}
    for row in episodes:
        number = data.column("task_index")[row["dataset_from_index"]].as_py()
        names = ["walk.npz", "run.npz"]
        name = names[motion[row["trajectory_id"]]] if motion[row["trajectory_id"]] < 2 else ""
        assert row["tasks"] == [name] == [tasks.index[number]]


@pytest.mark.parametrize(
    ("path", "options", "words"),
    [
        ("e.npz", {}, "e.npz: expected a name ending in .npy, .hdf5, .h5, .parquet"),
        ("e.h5", {"format": "xml"}, "expected npy, hdf5, .* or .*, got xml"),
        ("e.npy", {"format": "hdf5"}, "ending in .hdf5 or .h5"),
        ("e.h5", {"layout": "grid"}, "holds no grid"),
        ("e.h5", {"fps": 50}, "fps: no option of an export to hdf5"),
        ("e.npy", {"state": "qpos"}, "state: no option"),
        ("e.h5", {"depth": 3}, "depth: no option"),
        ("e", {"format": "lerobot"}, "fps: expected steps per second"),
        ("e", {"format": "lerobot", "fps": -1}, "got -1"),
        ("e", {"format": "lerobot", "fps": 50, "state": "speed"}, "state: expected one of"),
        ("expert.zarr", {"format": "lerobot", "fps": 50}, "is not replaced"),
        ("expert.zarr/e", {"format": "lerobot", "fps": 50}, "lies inside the store"),
    ],
)
def test_refused(store: str, tmp_path: Path, path: str, options: Any, words: str) -> None:
    record(store)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=words):
        export(store, tmp_path / path, **options)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("path", "name", "words"),
    [
        ("e.parquet", "Environment", "Environment: the file has its own column"),
        ("e", "state", "two of them would be the feature observation.state"),
    ],
)
def test_names_that_clash(store: str, tmp_path: Path, path: str, name: str, words: str) -> None:
    stores.write(store, 2, schema=Schema.mosaic(3, 2, extra=[Field(name)]))
    with pytest.raises(InputError, match=words):
        write(store, str(tmp_path / path), fields=["observations", name])
    assert [entry.name for entry in tmp_path.iterdir()] == ["expert.zarr"]


def test_a_field_may_be_named_step(store: str, tmp_path: Path) -> None:
    recorded = stores.write(store, 4, schema=Schema.mosaic(3, 2, extra=[Field("step")]))
    for name in ("e.h5", "e"):
        write(store, str(tmp_path / name), fields=["actions", "step"])
    with h5py.File(tmp_path / "e.h5") as file:
        np.testing.assert_array_equal(file["data/demo_2/obs/step"], recorded["step"][:, 2])
    table = parquet.read_table(tmp_path / "e/data/chunk-000/file-000.parquet")
    found = rows.column(table, "observation.step", Field("step"))
    np.testing.assert_array_equal(found, recorded["step"].T.ravel())


@pytest.mark.parametrize(
    ("form", "package", "extra"),
    [("hdf5", "h5py", "hdf5"), ("parquet", "pyarrow", "parquet"), ("lerobot", "PIL", "lerobot")],
    indirect=["form"],
)
def test_a_library_that_is_missing(
    store: str, target: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(store)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"mosaic-collect\[{extra}\]"):
        write(store, target, fields=FIELDS)
    assert not os.path.lexists(target)


FULL = {
    "hdf5": "os.pwrite",
    "parquet": "pyarrow.parquet.ParquetWriter.write_table",
    "lerobot": "pyarrow.parquet.ParquetWriter.write_table",
}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left"), SpaceError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["full", "interrupt"],
)
def test_an_end_halfway_leaves_what_was_there(
    store: str, target: str, form: str, error: Any, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(store)
    if form != "lerobot":  # which replaces nothing
        write(store, target, fields=["actions"])
    folder = Path(target).parent
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def fail(*args: Any, **more: Any) -> None:
        raise error

    monkeypatch.setattr(FULL[form], fail)
    with pytest.raises(kind):
        write(store, target, fields=["actions"])
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert not [path for path in folder.iterdir() if path.name.endswith(".tmp")]


def test_a_format_is_imported_when_it_is_used() -> None:
    code = """
import sys
from mosaic_collect.export import export, export_npy

for name in ("hdf5", "parquet", "lerobot"):
    assert f"mosaic_collect.export.{name}" not in sys.modules
"""
    assert helpers.run_python(code).returncode == 0


def test_an_encoder_that_fails(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(store)
    encoder = tmp_path / "ffmpeg"
    encoder.write_text("#!/bin/sh\necho no room >&2\nexit 1\n")
    encoder.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(encoder))
    with pytest.raises(WriteError, match="e: writing failed, nothing was left there: ffmpeg: no"):
        write(store, str(tmp_path / "e"), fields=FIELDS, video=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expert.zarr", "ffmpeg"]
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(MissingDependencyError, match="videos need imageio-ffmpeg"):
        write(store, str(tmp_path / "e"), fields=FIELDS, video=True)


def test_a_video_has_even_sides(store: str, tmp_path: Path) -> None:
    schema = Schema.mosaic(3, 2, extra=[Field("camera", dim=(4, 5, 3), dtype="uint8")])
    stores.write(store, 2, schema=schema)
    with pytest.raises(InputError, match="camera: a video needs even height and width, got 4 x 5"):
        write(store, str(tmp_path / "e"), fields=["actions", "camera"], video=True)
