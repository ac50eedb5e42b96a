"""HDF5 in robomimic's layout: one demo per trajectory, each value as it was recorded."""

from __future__ import annotations

import errno
import functools
import importlib.util
import json
import operator
import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect import Field, Schema, TrajectoryDataset
from mosaic_collect.errors import CorruptStoreError, ExportError, InputError, SpaceError
from mosaic_collect.export import export
from mosaic_collect.store.schema import TRAJECTORY_ID, VALID_MASK
from tests.export import stores

h5py = pytest.importorskip("h5py")

SCHEMA = Schema.mosaic(
    obs_dim=3,
    action_dim=2,
    student_obs_dim=5,
    extra=[
        Field(name="qpos", dim=4, dtype="float64"),
        Field(name="camera", dim=(2, 4, 3), dtype="uint8"),
        Field(name="motion_id", dtype="int32"),
    ],
).with_ends()
KEYS = {
    "actions": "actions",
    "action_mean": "action_mean",
    "action_sigma": "action_sigma",
    "observations": "obs/observations",
    "student_observations": "obs/student_observations",
    "camera": "obs/camera",
    "qpos": "states/qpos",
    "motion_id": "motion_id",
    "trajectory_end": "trajectory_end",
}


@pytest.fixture
def target(tmp_path: Path) -> str:
    return str(tmp_path / "expert.hdf5")


def record(store: str, **options: Any) -> TrajectoryDataset:
    ends = {2: [0], 5: [0, 1, 2], 8: [3]}
    stores.write(store, 13, schema=SCHEMA, ends=ends, falls={6: [1], 9: [0]}, **options)
    return TrajectoryDataset(store)


def assert_demos(target: str, dataset: TrajectoryDataset, chosen: np.ndarray) -> None:
    """Each trajectory with a chosen pair is a demo of just its chosen rows, in order."""
    ids = dataset.read(TRAJECTORY_ID)
    with h5py.File(target) as file:
        demos = {int(d.attrs["trajectory_id"]): d for d in file["data"].values()}
        assert sorted(demos) == np.unique(ids[chosen]).tolist()
        assert file["data"].attrs["total"] == chosen.sum()
        for number, demo in demos.items():
            mine = chosen & (ids == number)
            (env,) = np.flatnonzero(mine.any(axis=0))
            assert demo.attrs["num_samples"] == mine.sum()
            for name, key in KEYS.items():
                want = dataset.read(name)[mine[:, env], env]
                assert demo[key].dtype == want.dtype
                np.testing.assert_array_equal(demo[key][...], want, err_msg=name)


def test_one_demo_per_trajectory_bit_for_bit(store: str, target: str) -> None:
    dataset = record(store, masks=stores.some_masks(4))
    told: list[int] = []
    report = export(store, target, fields=list(KEYS), progress=told.append)
    chosen = dataset.read(VALID_MASK)
    assert_demos(target, dataset, chosen)
    assert (report.layout, report.num_pairs) == ("hdf5", chosen.sum())
    assert sum(told) == report.device_nbytes
    assert report.file_nbytes == os.path.getsize(target)


@pytest.mark.parametrize("field", ["actions", "trajectory_id"])
def test_small_cells_and_damage(small_chunks: int, store: str, target: str, field: str) -> None:
    """Several cells per block, of which one is damaged: no demo is mixed."""
    dataset = record(store, block_steps=4, num_envs=19)
    ids = dataset.read(TRAJECTORY_ID)
    grid = dataset.state.grid(field)
    assert grid.chunks > 1
    stores.flip(str(Path(store, field, "c.1.0.0" if field == "actions" else "c.1.0")), 3)
    with pytest.raises(CorruptStoreError, match="skip_damaged=True"):
        export(store, target, fields=list(KEYS))
    assert not os.path.exists(target)
    chosen = dataset.read(VALID_MASK)
    chosen[4:8, : grid.chunk_envs] = False
    export(store, target, fields=list(KEYS), skip_damaged=True)
    untouched = TrajectoryDataset(store)
    with h5py.File(target) as file:
        assert file["data"].attrs["total"] == chosen.sum()
        for demo in file["data"].values():
            number = int(demo.attrs["trajectory_id"])
            mine = chosen & (ids == number)
            (env,) = np.flatnonzero(mine.any(axis=0))
            want = untouched.read("observations")[mine[:, env], env]
            np.testing.assert_array_equal(demo["obs/observations"][...], want)


def test_filters_are_those_of_the_npy_export(store: str, target: str, npy: str) -> None:
    record(store, masks=stores.some_masks(4))
    for options in ({"exclude_failed": True}, {"max_pairs": 9, "seed": 3}):
        ours = export(store, target, "hdf5", fields=["actions"], **options)
        theirs = export(store, npy, fields=["actions"], layout="compact", **options)
        assert (ours.num_pairs, ours.left_out) == (theirs.num_pairs, theirs.left_out)
        with h5py.File(target) as file:
            rows = [demo["actions"][...] for demo in file["data"].values()]
        found, want = np.concatenate(rows), stores.load(npy)["actions"][:, 0]
        np.testing.assert_array_equal(np.sort(found, axis=0), np.sort(want, axis=0))


def test_several_stores_and_where_they_are_from(tmp_path: Path, target: str) -> None:
    paths = [str(tmp_path / f"{name}.zarr") for name in "ab"]
    for path in paths:
        record(path)
    export(paths, target, fields=list(KEYS))
    dataset = TrajectoryDataset(paths)
    assert_demos(target, dataset, dataset.read(VALID_MASK))
    with h5py.File(target) as file:
        told = json.loads(file["mosaic_collect"][()])
        env_args = json.loads(file["data"].attrs["env_args"])
    assert [store["path"] for store in told["stores"]] == paths
    assert env_args["type"] == 2


def test_a_split_by_trajectory_is_reproducible(store: str, target: str) -> None:
    record(store)
    masks = []
    for seed in (1, 1, 2):
        export(store, target, fields=["actions"], valid_share=0.3, seed=seed)
        with h5py.File(target) as file:
            names, masks_of = (
                set(file["data"]),
                {k: v[...].tolist() for k, v in file["mask"].items()},
            )
        masks.append(masks_of)
        assert {n.decode() for kind in masks_of.values() for n in kind} == names
        assert len(masks_of["valid"]) == round(0.3 * len(names))
    assert masks[0] == masks[1] != masks[2]
    with pytest.raises(ExportError, match="none of a kind"):
        export(store, target, fields=["actions"], valid_share=0.01)


@pytest.mark.parametrize(
    ("path", "options", "words"),
    [
        ("e.npz", {}, "expected npy or hdf5"),
        ("e.h5", {"format": "csv"}, "got csv"),
        ("e.npy", {"format": "hdf5"}, "ending in .hdf5 or .h5"),
        ("e.h5", {"layout": "grid"}, "holds no grid"),
        ("e.h5", {"valid_share": 1.0}, "valid_share"),
        ("e.npy", {"valid_share": 0.5}, "no split"),
        ("e.h5", {"depth": 3}, "depth"),
    ],
)
def test_refused(store: str, tmp_path: Path, path: str, options: Any, words: str) -> None:
    record(store)
    with pytest.raises(InputError, match=words):
        export(store, tmp_path / path, **options)
    assert [entry.name for entry in tmp_path.iterdir()] == ["expert.zarr"]


def test_a_full_disk_leaves_the_file_that_was_there(
    store: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(store)
    export(store, target, fields=["actions"])
    before, named = Path(target).read_bytes(), sorted(os.listdir(os.path.dirname(target)))

    def full(self: Any, *args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(h5py.Group, "__setitem__", full)
    with pytest.raises(SpaceError, match="nothing was left"):
        export(store, target, fields=["actions"])
    assert Path(target).read_bytes() == before
    assert sorted(os.listdir(os.path.dirname(target))) == named


def isaac_labs_reader(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Isaac Lab's own reader, without the packages around it, which need a simulator."""
    found = importlib.util.find_spec("isaaclab")
    roots = [] if found is None else [Path(path) for path in found.submodule_search_locations or ()]
    folders = [path for root in roots for path in root.glob("**/utils/datasets")]
    if not folders:
        pytest.skip("Isaac Lab is not installed here")
    stubs = {name: types.ModuleType(name) for name in ("alone", "alone.math", "alone.datasets")}
    stubs["alone"].__path__, stubs["alone.datasets"].__path__ = [], [str(folders[0])]
    stubs["alone.math"].convert_quat = None  # type: ignore[attr-defined]  for files of older forms
    for name, module in stubs.items():
        monkeypatch.setitem(sys.modules, name, module)
    return importlib.import_module("alone.datasets.hdf5_dataset_file_handler")


def test_isaac_lab_reads_every_value(
    store: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = isaac_labs_reader(monkeypatch)
    dataset = record(store)
    export(store, target, fields=list(KEYS))
    reader = module.HDF5DatasetFileHandler()
    reader.open(target)
    ids = dataset.read(TRAJECTORY_ID)
    assert reader.get_num_episodes() == len(np.unique(ids))
    for name in reader.get_episode_names():
        data = reader.load_episode(name, "cpu").data
        with h5py.File(target) as file:
            mine = ids == file[f"data/{name}"].attrs["trajectory_id"]
        (env,) = np.flatnonzero(mine.any(axis=0))
        for field, key in KEYS.items():
            value = functools.reduce(operator.getitem, key.split("/"), data)
            np.testing.assert_array_equal(value.numpy(), dataset.read(field)[mine[:, env], env])
