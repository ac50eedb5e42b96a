"""HDF5 and Parquet files as stores: every value, and where trajectories end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect import TrajectoryDataset, import_file, verify_store
from mosaic_collect.errors import CorruptExportError, InputError, MosaicCollectError
from mosaic_collect.export import export
from mosaic_collect.store.schema import TRAJECTORY_END, VALID_MASK
from tests import helpers
from tests.export import rows, stores
from tests.export.rows import FIELDS, assert_same
from tests.importing.test_resume import interrupted

h5py = pytest.importorskip("h5py")
pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
VALUES = [name for name in FIELDS if name != TRAJECTORY_END]


@pytest.fixture(params=["e.hdf5", "e.parquet"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / request.param)


@pytest.fixture(params=[1, 300, 8 << 20])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the file is cut while it is read."""
    monkeypatch.setattr("mosaic_collect.importing.source.READ_NBYTES", request.param)


def by_source(dataset: TrajectoryDataset, fields: list[str]) -> rows.Trajectories:
    """Trajectories of an import by the ids that the file had."""
    ids = dataset.read("source_trajectory_id")[:, 0]
    values = {name: dataset.read(name)[:, 0] for name in fields}
    return {n: {k: v[ids == n] for k, v in values.items()} for n in np.unique(ids).tolist()}


@pytest.mark.usefixtures("pieces")
def test_every_value_comes_back(store: str, path: str, made: str) -> None:
    before = rows.record(store)
    export(store, path, fields=FIELDS)
    told: list[int] = []
    report = import_file(path, made, progress=told.append)
    after = TrajectoryDataset(made)
    every = np.ones((13, 4), np.bool_)
    assert_same(by_source(after, VALUES), rows.expected(before, every, VALUES))
    assert [after.schema[name] for name in VALUES] == [before.schema[name] for name in VALUES]
    assert sum(told) == 2 * report.file_nbytes
    assert (report.num_steps, report.num_envs) == (52, 1)
    assert verify_store(made).ok
    own = after.read("source_trajectory_id")[:, 0]
    assert len(after.trajectories) == len(np.unique(own))
    ends = {int(own[t.first_step]): t.end for t in after.trajectories}
    assert ends == {trajectory.id: trajectory.end for trajectory in before.trajectories}


def test_ends_that_are_not_the_files_are_kept_beside(store: str, path: str, made: str) -> None:
    """The last row of a trajectory may be masked, and its code with it."""
    before = rows.record(store, masks=stores.some_masks(4))
    export(store, path, fields=FIELDS)
    import_file(path, made)
    kept = by_source(TrajectoryDataset(made), ["source_trajectory_end"])
    want = rows.expected(before, before.read(VALID_MASK), [TRAJECTORY_END])
    assert kept.keys() == want.keys()
    for number, fields in want.items():
        found = kept[number]["source_trajectory_end"]
        np.testing.assert_array_equal(found, fields[TRAJECTORY_END])
    rows.record(store + "2")
    export(store + "2", path, fields=FIELDS)
    import_file(path, made + "2")
    assert "source_trajectory_end" not in TrajectoryDataset(made + "2").schema.names


@pytest.mark.parametrize("after", [0, 3, 20, 51])
def test_an_import_that_was_interrupted_is_resumed(
    store: str, path: str, made: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows.record(store)
    export(store, path, fields=FIELDS, exclude_interrupted=False)
    import_file(path, made + "2")
    interrupted(path, made, monkeypatch, after)
    assert import_file(path, made, resume=True).first_step == after
    whole, resumed = TrajectoryDataset(made + "2"), TrajectoryDataset(made)
    for name in (*whole.schema.names, TRAJECTORY_END):
        helpers.assert_same(resumed.read(name), whole.read(name), name)


def test_files_of_others(tmp_path: Path, made: str) -> None:
    actions = np.arange(10, dtype=np.float32).reshape(5, 2)
    with h5py.File(tmp_path / "e.h5", "w") as file:
        for number, part in ((10, actions[3:]), (2, actions[:3])):
            demo = file.create_group(f"data/demo_{number}")
            demo["actions"], demo["obs/eef_pos"], demo["states"] = part, part + 1, part * 2.0
            demo["next_obs/eef_pos"], demo["rewards"] = part + 2, part[:, 0]
    import_file(tmp_path / "e.h5", made)
    dataset = TrajectoryDataset(made)
    assert set(dataset.schema.names) >= {"actions", "eef_pos", "states", "rewards"}
    helpers.assert_same(dataset.read("actions")[:, 0], actions)
    helpers.assert_same(dataset.read("eef_pos")[:, 0], actions + 1)
    assert helpers.ids(dataset).ravel().tolist() == [0, 0, 0, 1, 1]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(actions.ravel()), 2)
    table = pa.table({"actions": vectors, "end": pa.array(range(5)), "trajectory_id": [7] * 5})
    parquet.write_table(table, tmp_path / "e.parquet")
    import_file(tmp_path / "e.parquet", made + "2")
    dataset = TrajectoryDataset(made + "2")
    helpers.assert_same(dataset.read("actions")[:, 0], actions)
    assert dataset.read("end").ravel().tolist() == [0, 1, 2, 3, 4]


def uneven(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["data/demo_0/actions"], file["data/demo_0/obs/a"] = np.ones((3, 2)), np.ones((2, 2))


TABLES = {
    "text": pa.table({"a": ["x"]}),
    "lists": pa.table({"a": [[1.0], [1.0, 2.0]]}),
    "null": pa.table({"a": [1.0, None], "trajectory_id": [0, 0]}),
    "apart": pa.table({"a": [1.0, 2.0, 3.0], "trajectory_id": [0, 1, 0]}),
    "empty": pa.table({"a": pa.array([], pa.float32())}),
}


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("e.csv", Path.touch, "expected a name ending in .npy, .hdf5"),
        ("e.h5", Path.touch, "cannot become a store"),
        ("e.h5", lambda path: h5py.File(path, "w").close(), "data"),
        ("e.h5", uneven, "data/demo_0/obs/a: expected 3 rows"),
        ("e.parquet", Path.touch, "cannot become a store"),
        ("e.parquet", lambda p: parquet.write_table(TABLES["text"], p), "a: expected numbers"),
        ("e.parquet", lambda p: parquet.write_table(TABLES["lists"], p), "a: expected numbers"),
        ("e.parquet", lambda p: parquet.write_table(TABLES["apart"], p), "do not lie together"),
        ("e.parquet", lambda p: parquet.write_table(TABLES["empty"], p), "holds no rows"),
    ],
)
def test_refused(tmp_path: Path, made: str, name: str, write: Any, words: str) -> None:
    path = tmp_path / name
    write(path)
    with pytest.raises((CorruptExportError, InputError), match=words):
        import_file(path, made)
    assert not Path(made).exists()


def test_null_is_no_value(tmp_path: Path, made: str) -> None:
    parquet.write_table(TABLES["null"], tmp_path / "e.parquet")
    with pytest.raises(MosaicCollectError, match="got null"):
        import_file(tmp_path / "e.parquet", made)


def test_stores_of_stores(store: str, path: str, made: str) -> None:
    """An export of an import holds the same trajectories."""
    stores.write(store, 9, ends={4: [0, 1, 2, 3], 8: [0, 1, 2, 3]})
    names = ["observations", "actions"]
    export(store, path, fields=names)
    import_file(path, made)
    again = path.replace("e.", "again.")
    export(made, again, fields=names)
    ours, theirs = (list(rows.read(p, names).values()) for p in (path, again))
    assert len(ours) == len(theirs) == 8
    found = sorted(t["actions"].tobytes() for t in theirs)
    assert found == sorted(t["actions"].tobytes() for t in ours)
