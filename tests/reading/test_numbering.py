"""Ids of several stores mean one thing, wherever they are read: dataset, export, loader."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect import (
    Field,
    Schema,
    TrajectoryDataset,
    TrajectoryWriter,
    export_npy,
)
from mosaic_collect.errors import StoreMismatchError
from mosaic_collect.npyfile.read import read_npy
from mosaic_collect.reading.numbering import ended_motions
from tests import helpers

STEPS, ENVS = 5, 3


def record(path: Path, store: int, motions: Any, ids: list[int], dtype: str = "int32") -> str:
    """Record a store whose observations hold its number, and these motion ids in each step."""
    schema = Schema.mosaic(3, 2, extra=(Field(name="motion_id", dtype=dtype),))
    metadata = {} if motions is None else {"motions": motions}
    with TrajectoryWriter(str(path), schema, ENVS, buffer_mb=1, metadata=metadata) as writer:
        for step in range(STEPS):
            rows = helpers.rows(step, ENVS, schema)
            rows["observations"][:] = store
            writer.add_step(**{**rows, "motion_id": np.array(ids, dtype)})
    return str(path)


def read(stores: list[str]) -> list[tuple[int, int]]:
    """Pairs of store and motion id, once it is sure that all who read the stores find the same."""
    fields = ["observations", "motion_id"]

    def pairs(which: Any, motion: Any) -> list[tuple[int, int]]:
        each = zip(np.ravel(which), np.ravel(motion), strict=True)
        return sorted({(int(store), int(number)) for store, number in each})

    dataset = TrajectoryDataset(stores)
    found = pairs(dataset["observations"][..., 0], dataset["motion_id"][...])
    for layout in ("grid", "compact"):
        path = f"{stores[0]}.{layout}.npy"
        export_npy(stores, path, layout=layout, fields=fields)
        file = read_npy(path)
        assert pairs(file["observations"][..., 0], file["motion_id"]) == found
    if find_spec("torch") is not None:
        from mosaic_collect import BatchLoader

        drawn = list(BatchLoader(stores, 4, fields))
        which, motion = (np.concatenate([batch[name] for batch in drawn]) for name in fields)
        assert pairs(which[:, 0], motion) == found
    traced = {int(number) for number in dataset.trajectories.columns["motion"]}
    assert traced == {number for _store, number in found}
    return found


def hashed(*names: str, folder: str = "/somewhere") -> list[dict[str, str]]:
    return [{"path": f"{folder}/{name}.npz", "sha256": name} for name in names]


def paths(*names: str, frames: int = 9) -> list[dict[str, Any]]:
    return [{"path": f"{name}.npz", "frames": frames} for name in names]


@pytest.mark.parametrize(
    ("motions", "ids", "expected"),
    [
        (
            (hashed("walk", "run"), hashed("run", "jump", folder="/elsewhere")),
            ([0, 1, 1], [0, 1, -1]),
            [(0, 0), (0, 1), (1, -1), (1, 1), (1, 2)],
        ),
        (
            (paths("walk", "run"), paths("jump", "run", frames=7)),
            ([0, 1, 1], [0, 1, 1]),
            [(0, 0), (0, 1), (1, 1), (1, 2)],
        ),
        (
            ([{"frames": 9}, {"frames": 9}], ["walk", {"frames": 9}]),
            ([0, 1, 1], [0, 1, 1]),
            [(0, 0), (0, 1), (1, 0), (1, 2)],
        ),
        (
            (None, hashed("walk", "run")),
            ([0, 1, -1], [0, 1, 2]),
            [(0, -1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2)],
        ),
    ],
    ids=["by hash", "by path", "by entry, once in a store", "unnamed ones behind the others"],
)
def test_what_one_motion_is(
    tmp_path: Path, motions: tuple[Any, Any], ids: tuple[Any, Any], expected: list[tuple[int, int]]
) -> None:
    each = enumerate(zip(motions, ids, strict=True))
    assert read([record(tmp_path / f"{i}.zarr", i, *one) for i, one in each]) == expected


def test_motions_are_found_by_name(tmp_path: Path) -> None:
    """Of all stores together, in the order in which they are named first."""
    motions = (paths("walk", "run"), paths("jump", "run"), None)
    each = [record(tmp_path / f"{i}.zarr", i, m, [0, 1, 1]) for i, m in enumerate(motions)]
    dataset = TrajectoryDataset(each)
    names = [m["path"] for m in dataset.metadata["motions"]]
    assert names == ["walk.npz", "run.npz", "jump.npz"]
    assert [len(dataset.where(motion=name)) for name in ("walk", "run")] == [1, 4]


def test_an_export_notes_what_became_of_motion_ids(tmp_path: Path, npy: str) -> None:
    stores = [
        record(tmp_path / "a.zarr", 0, hashed("walk", "run"), [0, 1, 1]),
        record(tmp_path / "b.zarr", 1, hashed("run"), [0, 0, 0]),
        record(tmp_path / "c.zarr", 2, None, [0, 0, 0]),
    ]
    report = export_npy(stores, npy, fields=["actions", "motion_id"])
    notes = "\n".join(report.notes)
    assert "motion_id: numbered through 2 motions of all stores" in notes
    assert f"the metadata of {stores[2]} name no motions" in notes
    told = read_npy(npy)["metadata"]["mosaic_collect"]["stores"]
    assert [store["motion_ids"] for store in told] == [[0, 1], [1], []]
    assert "motion_id" not in "\n".join(export_npy(stores, npy, fields=["actions"]).notes)
    assert "motion_id" not in "\n".join(export_npy(stores[0], npy, fields=["motion_id"]).notes)


def test_a_motion_id_that_does_not_fit_its_dtype_is_an_error(tmp_path: Path, npy: str) -> None:
    names = [f"motion{number}" for number in range(100)]
    first = record(tmp_path / "a.zarr", 0, hashed(*names), [0, 1, 99], "int8")
    second = record(tmp_path / "b.zarr", 1, hashed(*(n * 2 for n in names)), [0, 27, 28], "int8")
    dataset = TrajectoryDataset([first, second])
    assert dataset["motion_id"][-1, :2].tolist() == [100, 127], "the greatest one fits"
    with pytest.raises(StoreMismatchError, match=r"motion 128 .* does not fit int8"):
        dataset["motion_id"][...]
    with pytest.raises(StoreMismatchError, match=r"motion 128 .* does not fit int8"):
        export_npy([first, second], npy, fields=["motion_id"])
    assert not Path(npy).exists()
    export_npy([first, second], npy, fields=["actions"])


@pytest.mark.parametrize("counts", [5, {"walk": 1}, {"ended": "many"}])
def test_counts_of_another_form_end_no_motion(counts: Any) -> None:
    entries = {"motions": hashed("walk", "run")}
    assert [*ended_motions({**entries, "motion_counts": {"ended": [0, 2]}})] == ["run"]
    assert [*ended_motions({**entries, "motion_counts": counts})] == []
