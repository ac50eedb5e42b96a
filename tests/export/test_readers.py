"""Exports in the hands of the libraries that they are for: every value is compared."""

from __future__ import annotations

import functools
import importlib
import operator
import subprocess
import sys
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect import Field, Schema, TrajectoryDataset, TrajectoryWriter
from mosaic_collect.export import export
from mosaic_collect.store.schema import TRAJECTORY_ID, VALID_MASK
from tests.envs import ISAACLAB, LEROBOT, ROBOMIMIC, ROOT, Environment
from tests.export import rows, stores
from tests.export.rows import FIELDS, HDF5, SCHEMA, Trajectories, assert_same, expected

pytest.importorskip("h5py")
pytest.importorskip("pyarrow")


@pytest.fixture
def dataset(store: str) -> TrajectoryDataset:
    return rows.record(store, masks=stores.some_masks(4))


@pytest.fixture
def want(dataset: TrajectoryDataset) -> Trajectories:
    return expected(dataset, dataset.read(VALID_MASK), FIELDS)


def run(environment: Environment, script: str, path: str, out: str, *more: str) -> Any:
    """Run a script that reads an export in an environment; return what it read."""
    environment.require()
    command = [str(environment.python), str(ROOT / "tests" / "export" / script), path, out, *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return np.load(out)


def by_trajectory(ids: Any, columns: dict[str, Iterable[Any]], fields: list[str]) -> Trajectories:
    """Columns of a table, of numbers or lists, as trajectories of rows."""
    numbers = np.asarray(ids)
    arrays = {
        name: np.array(list(columns[name]), SCHEMA[name].dtype).reshape(-1, *SCHEMA[name].row_shape)
        for name in fields
    }
    return {n: {k: v[numbers == n] for k, v in arrays.items()} for n in np.unique(numbers).tolist()}


@pytest.mark.parametrize("library", ["pandas", "duckdb", "datasets", "polars"])
def test_tables(
    library: str, dataset: TrajectoryDataset, want: Trajectories, tmp_path: Path
) -> None:
    module = pytest.importorskip(library)
    path = str(tmp_path / "e.parquet")
    export(dataset.path, path, fields=FIELDS)
    if library == "pandas":
        table = module.read_parquet(path)
    elif library == "polars":
        table = module.read_parquet(path).to_dict(as_series=False)
    elif library == "duckdb":
        found = module.execute("SELECT * FROM read_parquet(?)", [path])
        names = [column[0] for column in found.description]
        table = dict(zip(names, zip(*found.fetchall(), strict=True), strict=True))
    else:
        options = {"data_files": path, "cache_dir": str(tmp_path), "split": "train"}
        table = module.load_dataset("parquet", **options)
    assert_same(by_trajectory(table[TRAJECTORY_ID], table, FIELDS), want)


@pytest.mark.slow
def test_lerobot(dataset: TrajectoryDataset, want: Trajectories, tmp_path: Path) -> None:
    folder = str(tmp_path / "e")
    export(dataset.path, folder, "lerobot", fields=FIELDS, fps=50)
    read = run(LEROBOT, "read_lerobot.py", folder, str(tmp_path / "read.npz"))
    columns = {name: read[key] for name, key in rows.LEROBOT.items() if name != "actions"}
    columns["actions"] = read["action_now"]
    camera = np.moveaxis(columns["camera"] * 255, 1, -1)
    columns["camera"] = np.round(camera)
    ids = read["trajectory_ids"][read["episode_index"]]
    assert_same(by_trajectory(ids, columns, FIELDS), want)
    frames = np.concatenate([np.arange(n) for n in np.bincount(read["episode_index"])])
    np.testing.assert_array_equal(read["frame_index"], frames)
    np.testing.assert_allclose(read["timestamp"], frames / 50, rtol=1e-6)


@pytest.mark.slow
def test_lerobots_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each frame is the recorded one, within 4 of 255 steps of brightness on average."""
    pytest.importorskip("imageio_ffmpeg")
    store, folder, shape = str(tmp_path / "s"), str(tmp_path / "e"), (32, 48, 3)
    schema = Schema.mosaic(3, 2, extra=[Field(name="camera", dim=shape, dtype="uint8")]).with_ends()
    names, generator = ["observations", "actions", "camera"], np.random.default_rng(0)
    y, x, _ = np.ogrid[: shape[0], : shape[1], :3]
    with TrajectoryWriter(store, schema, 3) as writer:
        for step in range(40):
            phase = 0.4 * step + np.arange(3)[:, None, None, None] + np.arange(3) / 3
            waves = np.sin((x + y) / 9 + phase)
            writer.add_step(
                observations=generator.random((3, 3), np.float32),
                actions=generator.random((3, 2), np.float32),
                camera=(120 + 100 * waves).astype(np.uint8),
            )
            writer.end_trajectories(np.arange(3) == step % 7)
    dataset = TrajectoryDataset(store)
    monkeypatch.setattr("mosaic_collect.export.lerobot.FILE_MB", 0.1)
    export(store, folder, "lerobot", fields=names, fps=30, video=True)
    assert len([*Path(folder, "videos").rglob("*.mp4")]) > 2
    read = run(LEROBOT, "read_lerobot.py", folder, str(tmp_path / "read.npz"), "30")
    ids = read["trajectory_ids"][read["episode_index"]]
    for trajectory in dataset.trajectories:
        found = np.moveaxis(read["observation.camera"][ids == trajectory.id], 1, -1) * 255
        recorded = np.asarray(trajectory["camera"]).astype(np.float64)
        error = np.abs(found[:, None] - recorded[None]).mean(axis=(2, 3, 4))
        assert (error.argmin(axis=1) == np.arange(len(recorded))).all()
        assert error.diagonal().max() < 4


@pytest.mark.slow
def test_robomimic(dataset: TrajectoryDataset, want: Trajectories, tmp_path: Path) -> None:
    import h5py

    path, names = str(tmp_path / "e.hdf5"), ["observations", "student_observations"]
    export(dataset.path, path, fields=[*names, "actions"], validation_fraction=0.4)
    found: Trajectories = {}
    for mask in ("train", "valid"):
        out = str(tmp_path / f"{mask}.npz")
        read = run(ROBOMIMIC, "read_robomimic.py", path, out, mask, *names)
        with h5py.File(path) as file:
            ids = [file[f"data/{demo}"].attrs["trajectory_id"] for demo in read["demos"]]
        found |= by_trajectory(ids, dict(read), [*names, "actions"])
    assert_same(found, {n: {k: t[k] for k in [*names, "actions"]} for n, t in want.items()})


@pytest.mark.slow
def test_isaac_lab(
    dataset: TrajectoryDataset,
    want: Trajectories,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its own reader, without the packages around it, which need a simulator."""
    import h5py

    pytest.importorskip("torch")
    environment = ISAACLAB["2.3.2.post1"]
    environment.require()
    (folder,) = environment.folder.glob("lib/*/site-packages/isaaclab/**/isaaclab/utils/datasets")
    stubs = {name: types.ModuleType(name) for name in ("alone", "alone.math", "alone.datasets")}
    stubs["alone"].__path__, stubs["alone.datasets"].__path__ = [], [str(folder)]
    stubs["alone.math"].convert_quat = None  # type: ignore[attr-defined]  for files of older forms
    for name, module in stubs.items():
        monkeypatch.setitem(sys.modules, name, module)
    path = str(tmp_path / "e.hdf5")
    export(dataset.path, path, fields=FIELDS)
    reader = importlib.import_module("alone.datasets.hdf5_dataset_file_handler")
    handler = reader.HDF5DatasetFileHandler()
    handler.open(path)
    found = {}
    with h5py.File(path) as file:
        for name in handler.get_episode_names():
            data = handler.load_episode(name, "cpu").data
            found[int(file[f"data/{name}"].attrs["trajectory_id"])] = {
                field: functools.reduce(operator.getitem, key.split("/"), data).numpy()
                for field, key in HDF5.items()
            }
    assert_same(found, want)
