"""Files of MOSAIC's collector as stores: every value, bit for bit, and what the file says."""

from __future__ import annotations

import hashlib
import logging
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect import (
    Field,
    TrajectoryDataset,
    TrajectoryWriter,
    export_npy,
    import_npy as import_it,
)
from mosaic_collect.errors import InputError, StoreExistsError
from mosaic_collect.importing.source import IMPORTED_FROM
from mosaic_collect.reading.verify import verify_store
from mosaic_collect.store.metadata import COMPLETE
from mosaic_collect.store.schema import TRAJECTORY_ID, VALID_MASK
from tests import helpers
from tests.export import stores
from tests.importing import files


@pytest.fixture(params=["whole", "step by step", "three steps"])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the file is cut while it is read."""
    step_nbytes = 4 * (stores.STUDENT.pair_nbytes - 8)  # without trajectory ids
    nbytes = {"whole": 8 << 20, "step by step": 1, "three steps": 3 * step_nbytes}
    monkeypatch.setattr("mosaic_collect.importing.source.READ_NBYTES", nbytes[request.param])


def assert_holds(store: str, data: dict[str, Any]) -> TrajectoryDataset:
    """The store's fields are the file's arrays."""
    dataset = TrajectoryDataset(store)
    arrays = {k: v for k, v in data.items() if isinstance(v, np.ndarray)}
    for name, values in arrays.items():
        helpers.assert_same(dataset.read(name), values, name)
    assert set(dataset.fields) == {*arrays, VALID_MASK, TRAJECTORY_ID}
    assert dataset.status == COMPLETE
    assert verify_store(store).ok
    return dataset


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize(
    ("steps", "num_envs", "masked"), [(11, 4, False), (11, 4, True), (1, 1, True)]
)
def test_every_value_and_the_mask(
    npy: str, made: str, steps: int, num_envs: int, masked: bool
) -> None:
    data = files.grid(steps, num_envs, masked)
    np.save(npy, data)
    report = import_it(npy, made)
    dataset = assert_holds(made, data)
    assert dataset.state.has_mask is masked
    assert dataset.num_valid == report.num_valid == data["metadata"]["num_steps"]
    assert (report.num_steps, report.num_envs, report.first_step) == (steps, num_envs, 0)
    assert report.shapes == {name: data[name].shape for name in files.NAMES}
    assert report.file_nbytes == os.path.getsize(npy)


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.parametrize("masked", [False, True])
def test_what_upstreams_collector_saves(npy: str, made: str, masked: bool) -> None:
    """And its export holds the valid rows of it."""
    import torch

    from tests.mosaic.upstream import UpstreamCollector

    data = files.grid(masked=masked)
    collector = UpstreamCollector(obs_dim=3, action_dim=2, student_obs_dim=5)
    for step in range(11):
        rows = {name: torch.from_numpy(data[name][step]) for name in files.NAMES}
        mask = torch.from_numpy(data[VALID_MASK][step]) if masked else None
        collector.add_step(**rows, valid_mask=mask)
    collector.mark_trajectory_end(3)
    collector.save(npy)
    import_it(npy, made)
    assert_holds(made, data)

    again = npy.replace("expert", "again")
    report = export_npy(made, again)
    assert report.layout == ("compact" if masked else "grid")
    valid = data[VALID_MASK] if masked else np.ones((11, 4), bool)
    for name in files.NAMES:
        want = data[name][valid][:, None] if masked else data[name]
        helpers.assert_same(stores.load(again)[name], want, name)
    export_npy(made, again, layout="grid")
    for name in set(data) - {"metadata"}:
        helpers.assert_same(stores.load(again)[name], data[name], name)


def test_the_schema_is_mosaics_so_a_collection_can_go_on(npy: str, made: str) -> None:
    files.save(npy)
    import_it(npy, made)
    assert TrajectoryDataset(made).schema == stores.STUDENT
    with TrajectoryWriter(made, stores.STUDENT, 4, resume=True) as writer:
        writer.add_step(**helpers.rows(11, 4, stores.STUDENT))
    data = helpers.expected(range(12), 4, stores.STUDENT)
    assert_holds(made, data)


def test_without_mean_sigma_student_and_metadata(npy: str, made: str) -> None:
    left_out = ("student_observations", "action_mean", "action_sigma", "metadata", VALID_MASK)
    data = files.save(npy, **dict.fromkeys(left_out))
    report = import_it(npy, made)
    assert_holds(made, data)
    assert any("action_mean, action_sigma" in note for note in report.notes)


def test_keys_in_any_order_and_further_arrays(npy: str, made: str) -> None:
    motion = np.arange(44, dtype=np.int32).reshape(11, 4)
    wide = np.arange(88, dtype=np.uint8).reshape(11, 4, 2)
    camera = np.arange(11 * 4 * 24, dtype=np.uint8).reshape(11, 4, 2, 4, 3)
    grid = files.grid()
    data = {
        "motion_id": motion,
        "wide": wide,
        "camera": camera,
        **dict(reversed(grid.items())),
        "action_mean": grid["actions"],  # one array under two keys
    }
    np.save(npy, data)
    import_it(npy, made)
    dataset = assert_holds(made, data)
    assert dataset.schema.names == (*files.NAMES, "motion_id", "wide", "camera")


@pytest.mark.parametrize("kind", ["float16", "float64"])
def test_other_floats_are_kept_and_said(npy: str, made: str, kind: str) -> None:
    exact = (files.grid()["actions"] % 1000 + 1 / 3).astype(kind)
    data = files.save(npy, actions=exact, action_mean=exact)
    report = import_it(npy, made)
    assert_holds(made, data)
    said = [note for note in report.notes if "float64 is kept in actions, action_mean" in note]
    assert len(said) == (kind == "float64")


def test_nan_comes_as_it_is_and_is_counted(npy: str, made: str) -> None:
    data = files.grid()
    data["actions"][3, 1, 0] = np.nan
    data["observations"][4, 2, 1] = -np.inf
    np.save(npy, data)
    import_it(npy, made)
    dataset = assert_holds(made, data)
    assert dataset.state.nonfinite == {**dict.fromkeys(files.NAMES, 0), "actions": 1} | {
        "observations": 1
    }


# -- what the file says ----------------------------------------------------------------------------


def test_what_the_file_says_is_in_the_metadata(npy: str, made: str) -> None:
    data = files.save(npy, comment="by hand", seeds=[1, 2])
    import_it(npy, made, metadata={"robot": "G1"})
    metadata = TrajectoryDataset(made).metadata
    assert metadata["robot"] == "G1"
    assert metadata[IMPORTED_FROM] == {
        "path": npy,
        "nbytes": os.path.getsize(npy),
        "sha256": hashlib.sha256(Path(npy).read_bytes()).hexdigest(),
        "metadata": data["metadata"],
        "others": {"comment": "by hand", "seeds": [1, 2]},
    }


def test_numbers_of_numpy_and_tuples_as_json_has_them(npy: str, made: str) -> None:
    files.save(npy, metadata={"num_steps": np.int64(24), "t": (1, 2), "big": -(2**70), "x": "ä"})
    import_it(npy, made)
    told = TrajectoryDataset(made).metadata[IMPORTED_FROM]["metadata"]
    assert told == {"num_steps": 24, "t": [1, 2], "big": -(2**70), "x": "ä"}


def test_contradictions_are_said(npy: str, made: str) -> None:
    files.save(npy, metadata={"num_steps": 1, "num_trajectories": 3})
    notes = "\n".join(import_it(npy, made).notes)
    assert "says num_steps 1, valid pairs are" in notes
    assert "no trajectory ids" in notes
    assert "num_trajectories 3" in notes


# -- the call --------------------------------------------------------------------------------------


def test_options_are_the_writers(npy: str, made: str) -> None:
    files.save(npy)
    import_it(Path(npy), Path(made), buffer_mb=0.005, compressor="lz4")
    state = TrajectoryDataset(made).state
    assert state.compressor.name == "lz4"
    assert state.block_steps < 11
    for options, words in (
        ({"buffer_mb": 0}, "buffer_mb"),
        ({"compressor": "zip"}, "compressor"),
        ({"metadata": {"a": {1}}}, "metadata"),
        ({"metadata": {IMPORTED_FROM: "me"}}, IMPORTED_FROM),
    ):
        with pytest.raises(InputError, match=words):
            import_it(npy, made + "2", **options)
    assert not os.path.exists(made + "2")


def test_nothing_is_pickled_or_loaded(npy: str, made: str, monkeypatch) -> None:
    files.save(npy)

    def forbidden(*arguments: Any, **options: Any) -> None:
        raise AssertionError("unpickled")

    for name in ("pickle.load", "pickle.loads", "pickle.Unpickler", "numpy.load"):
        monkeypatch.setattr(name, forbidden)
    import_it(npy, made)


def test_an_existing_store_is_refused_before_the_file_is_read(
    npy: str, made: str, monkeypatch
) -> None:
    files.save(npy)
    helpers.record(made, 3)
    monkeypatch.setattr("mosaic_collect.importing.source.read_into", None)
    with pytest.raises(StoreExistsError, match="imported"):
        import_it(npy, made)
    helpers.assert_holds(TrajectoryDataset(made), range(3))


def test_progress_is_told_the_file_twice_and_nothing_is_shown(
    npy: str, made: str, capsys, caplog
) -> None:
    files.save(npy)
    told: list[int] = []
    with caplog.at_level(logging.INFO):
        report = import_it(npy, made, progress=told.append)
    assert len(told) > 2
    assert sum(told) == 2 * report.file_nbytes == 2 * os.path.getsize(npy)
    assert capsys.readouterr() == ("", "")
    assert "11 steps" in caplog.text


# -- our own exports -------------------------------------------------------------------------------

MOTION = stores.STUDENT.with_fields(Field(name="motion_id", dtype="int32"))
EVERY = [*files.NAMES, "motion_id", TRAJECTORY_ID]
ENDS = {3: [0, 1], 6: [0], 10: [2]}


def exported(store: str, npy: str, **options: Any) -> TrajectoryDataset:
    stores.write(store, 11, masks=stores.some_masks(4), ends=ENDS, schema=MOTION)
    export_npy(store, npy, fields=EVERY, **options)
    return TrajectoryDataset(store)


@pytest.mark.usefixtures("pieces")
def test_a_grid_comes_back_bit_for_bit(store: str, npy: str, made: str) -> None:
    before = exported(store, npy, layout="grid")
    report = import_it(npy, made)
    after = TrajectoryDataset(made)
    for name in (*MOTION.names, VALID_MASK):
        helpers.assert_same(after.read(name), before.read(name), name)
    helpers.assert_same(after.read("source_trajectory_id"), helpers.ids(before))
    assert after.schema["motion_id"] == MOTION["motion_id"]
    told = after.metadata[IMPORTED_FROM]["metadata"]
    assert told["mosaic_collect"]["store_steps"] == 11
    assert any("kept as source_trajectory_id" in note for note in report.notes)


def test_trajectories_of_a_grid_end_where_its_ids_change(store: str, npy: str, made: str) -> None:
    """The last step's end alone is not in the file."""
    before = exported(store, npy, layout="grid")
    report = import_it(npy, made)
    after = TrajectoryDataset(made)
    helpers.assert_same(helpers.ids(after), helpers.ids(before))
    assert (before.num_ended, after.num_ended) == (4, 3)
    assert report.num_trajectories == 3
    assert any("3 changes" in n and "num_trajectories 4" in n for n in report.notes)


def test_a_compact_file_is_one_environment(store: str, npy: str, made: str) -> None:
    before = exported(store, npy, layout="compact")
    report = import_it(npy, made)
    after = TrajectoryDataset(made)
    valid = before.read(VALID_MASK)
    assert (after.num_steps, after.num_envs) == (valid.sum(), 1)
    for name in MOTION.names:
        helpers.assert_same(after.read(name), before.read(name)[valid][:, None], name)
    helpers.assert_same(after.read("source_trajectory_id"), helpers.ids(before)[valid][:, None])
    assert set(helpers.ids(after).flat) == {0}, "ids that alternate end nothing"
    notes = "\n".join(report.notes)
    assert "knows no environments" in notes
    assert "trajectories lie mixed" in notes
    assert after.num_ended == 0


def test_ids_that_fall_in_one_environment_end_nothing(npy: str, made: str, monkeypatch) -> None:
    monkeypatch.setattr("mosaic_collect.importing.source.READ_NBYTES", 1)
    ids = np.zeros((11, 4), np.int64)
    ids[5:, 2], ids[6:, 2] = 1, 0
    files.save(npy, trajectory_id=ids)
    report = import_it(npy, made)
    dataset = TrajectoryDataset(made)
    helpers.assert_same(dataset.read("source_trajectory_id"), ids)
    assert (helpers.ids(dataset) == [0, 1, 2, 3]).all()
    assert any("trajectories lie mixed" in note for note in report.notes)


def test_ids_at_the_ends_of_int64(npy: str, made: str) -> None:
    """Differences of them overflow; comparisons do not."""
    ids = np.full((11, 4), np.iinfo(np.int64).min)
    ids[5:, 1] = np.iinfo(np.int64).max
    files.save(npy, trajectory_id=ids)
    assert import_it(npy, made).num_trajectories == 1


def test_an_import_of_an_export_of_an_import(store: str, npy: str, made: str) -> None:
    """The older ids keep their name."""
    exported(store, npy, layout="grid")
    import_it(npy, made)
    export_npy(made, npy, layout="grid", fields=["actions", "source_trajectory_id", TRAJECTORY_ID])
    import_it(npy, made + "2")
    after = TrajectoryDataset(made + "2")
    assert after.schema.names == ("actions", "source_trajectory_id", "source_trajectory_id_2")
    helpers.assert_same(after.read("source_trajectory_id"), helpers.ids(TrajectoryDataset(store)))


def test_a_store_without_mosaics_fields(store: str, npy: str, made: str) -> None:
    before = helpers.record(store, 7, schema=helpers.ALL_DTYPES)
    export_npy(store, npy)
    import_it(npy, made)
    after = TrajectoryDataset(made)
    for name in before.schema.names:
        kind = "float32" if before.schema[name].dtype.startswith("float") else None
        helpers.assert_same(
            after.read(name), before.read(name).astype(kind or before.schema[name].dtype)
        )


def test_an_imported_store_merges_with_a_recorded_one(npy: str, store: str, made: str) -> None:
    data = files.save(npy)
    import_it(npy, made)
    recorded = stores.write(store, 5, first=50, num_envs=2, schema=stores.STUDENT)
    export_npy([made, store], npy)
    want = [data["actions"][data[VALID_MASK]], recorded["actions"].reshape(-1, 2)]
    helpers.assert_same(stores.load(npy)["actions"], np.concatenate(want)[:, None])
