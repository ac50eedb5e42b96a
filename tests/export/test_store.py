"""Stores exported as a store: each trajectory whole, in its order, with its end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mosaic_collect import (
    Field,
    Schema,
    TrajectoryDataset,
    copy_store,
    export_npy,
    export_store,
    verify_store,
)
from mosaic_collect.errors import InputError, StoreExistsError
from mosaic_collect.npyfile.read import read_npy
from mosaic_collect.store.metadata import COMPLETE
from tests import helpers
from tests.export import stores as damaged

#: A number that names each row, a wide field, one that takes its default, and motions.
SCHEMA = Schema(
    (
        Field("number", dtype="int32"),
        Field("wide", dim=5),
        Field("same", dim=5, default="wide"),
        Field("motion_id", dtype="int16"),
    )
).with_ends()


def record(path: Any, rng: np.random.Generator, base: int, runs: int = 1, **options: Any) -> str:
    """Record random trajectories with masks; every row has a number of its own."""
    num_envs = int(rng.integers(1, 9))
    metadata = {"motions": [{"path": f"{n}.npz"} for n in rng.permutation(3).tolist()], "task": "t"}
    for run in range(runs):
        opening = {"resume": True} if run else {"metadata": metadata}
        with helpers.open_writer(str(path), num_envs, SCHEMA, 4, **opening, **options) as writer:
            num_envs = writer.num_envs
            for _ in range(int(rng.integers(1, 30))):
                number = base + writer.num_steps * num_envs + np.arange(num_envs, dtype=np.int32)
                writer.add_step(
                    number=number,
                    wide=np.repeat(number[:, None], 5, 1).astype(np.float32),
                    motion_id=rng.integers(0, 3, num_envs).astype(np.int16),
                    valid_mask=rng.random(num_envs) < 0.8,
                )
                over = rng.random(num_envs) < 0.2
                how = rng.integers(0, 4, num_envs)
                writer.end_trajectories(
                    over,
                    failed=over & (how == 0),
                    terminated=over & (how == 1),
                    truncated=over & (how == 2),
                )
    return str(path)


def trajectories(dataset: TrajectoryDataset) -> dict[int, tuple[Any, ...]]:
    """Trajectories with a valid row by the number of their first row: all that they hold."""
    names = motion_paths(dataset)
    found = {}
    for one in dataset.trajectories:
        if one.num_valid:
            number, mask = one["number"][...], one["valid_mask"][...]
            assert (one["wide"][...] == number[:, None]).all()
            assert (one["same"][...] == one["wide"][...]).all()
            motions = [names[m] for m in one["motion_id"][...].tolist()]
            end = "interrupted" if one.end == "open" else one.end
            found[int(number[0])] = number.tolist(), mask.tolist(), motions, end
    return found


def motion_paths(dataset: TrajectoryDataset) -> list[str]:
    return [entry["path"] for entry in dataset.metadata["motions"]]


@pytest.mark.parametrize("seed", range(12))
def test_random_stores_become_one_with_every_trajectory_whole(tmp_path: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    paths = [
        record(tmp_path / f"{n}", rng, 100_000 * n, runs=int(rng.integers(1, 4)))
        for n in range(1, 2 + seed % 3)
    ]
    source, target = TrajectoryDataset(paths), str(tmp_path / "target")
    report = export_store(paths, target, compressor="lz4", buffer_mb=0.01)
    copy = TrajectoryDataset(target)
    assert verify_store(target).ok
    assert copy.state.status == COMPLETE
    assert copy.state.num_valid == source.state.num_valid == report.num_pairs
    assert copy.state.num_trajectories <= source.state.num_trajectories
    assert copy.state.schema == SCHEMA
    assert copy.state.given["same"] is False
    assert copy.state.compressor.name == "lz4"
    want, got = trajectories(source), trajectories(copy)
    assert want.keys() == got.keys()
    for first, (numbers, mask, motions, end) in want.items():
        found = got[first]
        assert found[0][: len(numbers)] == numbers
        assert found[1][: len(numbers)] == mask
        assert found[2][: len(numbers)] == motions
        assert found[3] == end
        # Only a trajectory without an end may have masked rows behind it.
        assert not any(found[1][len(numbers) :])
        assert end == "interrupted" or len(found[0]) == len(numbers)


@pytest.mark.parametrize(
    "options",
    [
        {"exclude_failed": True},
        {"exclude_interrupted": True, "motions": ["0", "2"]},
        {"split": "train", "validation_fraction": 0.5},
        {"max_pairs": 40, "seed": 3},
        {"steps": "3:17"},
        {"trajectories": [0, 3, 4, 11]},
        {"fields": ["same", "number"], "exclude_failed": True},
    ],
)
def test_a_subset_holds_the_pairs_of_an_export(tmp_path: Any, npy: str, options: Any) -> None:
    rng = np.random.default_rng(5)
    paths = [record(tmp_path / f"{n}", rng, 100_000 * n, runs=2) for n in (1, 2)]
    target, again = str(tmp_path / "target"), str(tmp_path / "again.npy")
    report = export_store(paths, target, **options)
    fields = ["number", "same"]
    expected = export_npy(paths, npy, "compact", **{**options, "fields": fields})
    export_npy(target, again, "compact", fields)
    assert report.num_pairs == expected.num_pairs > 5
    assert report.left_out == expected.left_out
    want, got = read_npy(npy), read_npy(again)
    order = [np.argsort(file["number"][:, 0]) for file in (want, got)]
    for name in fields:
        helpers.assert_same(got[name][order[1]], want[name][order[0]], name)
    assert verify_store(target).ok
    copy = TrajectoryDataset(target)
    assert copy.metadata["task"] == "t"
    assert copy.metadata["copied_from"]["left_out"]["failed"] == report.left_out.failed
    assert set(copy.schema.names) == set(options.get("fields", SCHEMA.names))
    if "steps" in options:
        # What follows a row in the target followed it in a source.
        number, ids = copy.read("number"), copy.read("trajectory_id")
        mask = copy.read("valid_mask")
        both = mask[1:] & mask[:-1] & (ids[1:] == ids[:-1])
        width = {n: TrajectoryDataset(p).num_envs for n, p in enumerate(paths, 1)}
        step = np.vectorize(width.get)(number[:-1][both] // 100_000)
        assert (number[1:][both] - number[:-1][both] == step).all()


def test_without_anything_to_leave_out_every_row_keeps_its_place(tmp_path: Any) -> None:
    path, target = str(tmp_path / "store"), str(tmp_path / "copy")
    with helpers.open_writer(path, 6) as writer:
        for step in range(40):
            helpers.add(writer, step, masks=step % 2 == 0)
            writer.end_trajectories(np.arange(6) == step % 7)
    export_store(path, target)
    source, copy = TrajectoryDataset(path), TrajectoryDataset(target)
    for name in (*source.schema.names, "valid_mask", "trajectory_id"):
        helpers.assert_same(copy.read(name), source.read(name), name)


def test_damaged_chunks_are_left_out_on_demand(tmp_path: Any) -> None:
    path, target = str(tmp_path / "store"), str(tmp_path / "copy")
    recorded = damaged.write(path, 9)
    damaged.flip(f"{path}/actions/c.1.0.0", 5)
    with pytest.raises(Exception, match="skip_damaged"):
        export_store(path, target)
    report = export_store(path, target, skip_damaged=True)
    copy = TrajectoryDataset(target)
    assert report.left_out.damaged > 0
    kept = copy.read("valid_mask")
    assert kept.sum() == report.num_pairs
    helpers.assert_same(copy.read("actions")[kept], recorded["actions"][kept])
    assert not copy.read("observations")[3:6].any()


def test_a_bad_target_is_refused_before_anything_is_written(tmp_path: Any) -> None:
    rng = np.random.default_rng(0)
    path, other = record(tmp_path / "store", rng, 0), record(tmp_path / "other", rng, 0)
    for target, words in ((path, "the same store as"), (f"{path}/inside", "lies in")):
        with pytest.raises(InputError, match=words):
            export_store([path, other], target)
    target = str(tmp_path / "target")
    copy_store(other, target)
    with pytest.raises(StoreExistsError):
        export_store(path, target)
    for options, words in (
        ({"layout": "compact"}, "layout: a store has one layout"),
        ({"steps": "0:9:2"}, "steps: expected steps that follow each other"),
        ({"fields": ["valid_mask"]}, "bad schema: no fields"),
    ):
        with pytest.raises(InputError, match=words):
            export_store(path, str(tmp_path / "new"), **options)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("how", ["raise KeyError", "os.kill(os.getpid(), 9)"])
def test_an_interrupted_export_is_made_anew(tmp_path: Any, how: str) -> None:
    path, target = record(tmp_path / "store", np.random.default_rng(1), 0, 2), str(tmp_path / "new")
    code = f"""
import os
from mosaic_collect import TrajectoryDataset, export_store

def stop(nbytes):
    if TrajectoryDataset({target!r}).num_steps:
        {how}

export_store({path!r}, {target!r}, buffer_mb=0.01, progress=stop)
"""
    assert helpers.run_python(code).returncode
    assert TrajectoryDataset(target).state.status != COMPLETE
    with pytest.raises(StoreExistsError):
        export_store(path, target, exclude_failed=True)
    export_store(path, target, buffer_mb=0.01)
    assert (
        trajectories(TrajectoryDataset(target)).keys()
        == trajectories(TrajectoryDataset(path)).keys()
    )


def test_rows_that_fill_environments_are_counted(tmp_path: Any) -> None:
    path, target = str(tmp_path / "store"), str(tmp_path / "copy")
    with helpers.open_writer(path, 2) as writer:
        for step in range(10):
            helpers.add(writer, step)
            writer.end_trajectories([step == 9, step in (2, 9)])
    report = export_store(path, target, trajectories=[0, 1])
    assert "7 masked rows fill environments whose trajectories end earlier" in report.notes
    copy = TrajectoryDataset(target)
    assert (copy.num_steps, copy.state.num_valid, report.num_pairs) == (10, 13, 13)
