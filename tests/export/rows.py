"""Exports of one trajectory after the other, read back by the libraries below their formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from mosaic_collect import Field, Schema, TrajectoryDataset
from mosaic_collect.store.schema import TRAJECTORY_ID
from tests.export import stores

SCHEMA = Schema.mosaic(
    obs_dim=3,
    action_dim=2,
    student_obs_dim=5,
    extra=[
        Field(name="qpos", dim=4, dtype="float64"),
        Field(name="camera", dim=(2, 4, 3), dtype="uint8"),
        Field(name="height", dim=1, dtype="float16"),
        Field(name="contact", dtype="bool"),
        Field(name="motion_id", dtype="int32"),
    ],
).with_ends()
FIELDS = [f.name for f in SCHEMA.fields]
#: Places of the fields in an HDF5 demo, and in LeRobot's features.
HDF5 = {
    **{name: f"obs/{name}" for name in ("observations", "student_observations", "camera")},
    **{name: f"obs/{name}" for name in ("height", "contact")},
    "qpos": "states/qpos",
    **{n: n for n in ("actions", "action_mean", "action_sigma", "motion_id", "trajectory_end")},
}
LEROBOT = {
    **{name: key.replace("obs/", "observation.") for name, key in HDF5.items()},
    "observations": "observation.state",
    "actions": "action",
    "qpos": "observation.qpos",
    **{
        name: f"info.{name}"
        for name in ("action_mean", "action_sigma", "motion_id", "trajectory_end")
    },
}
Trajectories = dict[int, dict[str, np.ndarray]]


def record(store: str, **options: Any) -> TrajectoryDataset:
    """Record 13 steps of trajectories that end in several ways, or not at all."""
    ends = {2: [0], 5: [0, 1, 2], 8: [3]}
    stores.write(store, 13, schema=SCHEMA, ends=ends, falls={6: [1], 9: [0]}, **options)
    return TrajectoryDataset(store)


def expected(dataset: TrajectoryDataset, chosen: np.ndarray, fields: list[str]) -> Trajectories:
    """Chosen rows of each trajectory, in the order of time."""
    found = {}
    for trajectory in dataset.trajectories:
        mine = chosen[trajectory.first_step : trajectory.last_step + 1, trajectory.env]
        if mine.any():
            found[trajectory.id] = {name: np.asarray(trajectory[name])[mine] for name in fields}
    return found


def assert_same(found: Trajectories, want: Trajectories) -> None:
    """Every value and dtype is equal."""
    assert sorted(found) == sorted(want)
    for number, fields in want.items():
        assert sorted(found[number]) == sorted(fields)
        for name, rows in fields.items():
            assert found[number][name].dtype == rows.dtype, name
            np.testing.assert_array_equal(found[number][name], rows, err_msg=f"{number} {name}")


def read(path: str, fields: list[str]) -> Trajectories:
    """Read an export by the ending of its name."""
    suffix = Path(path).suffix
    return {".hdf5": _hdf5, ".parquet": _parquet, "": _lerobot}[suffix](path, fields)


def _hdf5(path: str, fields: list[str]) -> Trajectories:
    import h5py

    with h5py.File(path) as file:
        demos = list(file["data"].values())
        assert file["data"].attrs["total"] == sum(d.attrs["num_samples"] for d in demos)
        found = {
            int(d.attrs["trajectory_id"]): {name: d[HDF5[name]][...] for name in fields}
            for d in demos
        }
        for demo in demos:
            rows = found[int(demo.attrs["trajectory_id"])]
            assert {len(values) for values in rows.values()} == {demo.attrs["num_samples"]}
    return found


def column(table: Any, name: str, field: Field) -> np.ndarray:
    """Values of a column of pyarrow, in the shape of the field's rows."""
    array = table.column(name).combine_chunks()
    flat = array.flatten() if field.row_shape and hasattr(array.type, "list_size") else array
    values = flat.to_numpy(zero_copy_only=False)
    return values.reshape(-1, *field.row_shape)


def _parquet(path: str, fields: list[str]) -> Trajectories:
    from pyarrow import parquet

    table = parquet.read_table(path)
    ids, frames = (table.column(n).to_numpy() for n in (TRAJECTORY_ID, "frame_index"))
    starts = np.flatnonzero(np.diff(ids, prepend=-1))
    assert len(starts) == len(np.unique(ids)), "rows of a trajectory lie together"
    assert np.array_equal(frames == 0, np.isin(np.arange(len(ids)), starts))
    values = {name: column(table, name, SCHEMA[name]) for name in fields}
    return {n: {k: v[ids == n] for k, v in values.items()} for n in np.unique(ids).tolist()}


def _lerobot(path: str, fields: list[str]) -> Trajectories:
    from pyarrow import concat_tables, parquet

    files = sorted((Path(path) / "data").rglob("*.parquet"))
    table = concat_tables([parquet.read_table(file) for file in files])
    episodes = parquet.read_table(Path(path) / "meta/episodes/chunk-000/file-000.parquet")
    info = json.loads((Path(path) / "meta/info.json").read_text())
    assert table.column("index").to_pylist() == list(range(info["total_frames"]))
    values = {n: column(table, LEROBOT[n], SCHEMA[n]) for n in fields if n != "camera"}
    if "camera" in fields:
        values["camera"] = np.stack(
            [_image(row["bytes"]) for row in table.column(LEROBOT["camera"]).to_pylist()]
        )
    found = {}
    for row in episodes.to_pylist():
        at = slice(row["dataset_from_index"], row["dataset_to_index"])
        assert set(table.column("episode_index")[at].to_pylist()) == {row["episode_index"]}
        found[row["trajectory_id"]] = {name: v[at] for name, v in values.items()}
    return found


def _image(data: bytes) -> np.ndarray:
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)))
