"""The table of bad inputs: each call gives its documented exception and changes nothing on disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mosaic_collect import Field, Schema, TrajectoryDataset, TrajectoryWriter
from mosaic_collect.errors import (
    ClosedError,
    InputError,
    MissingDependencyError,
    MosaicCollectError,
    SpaceError,
    StoreExistsError,
    StoreMismatchError,
    StoreNotFoundError,
    WriteError,
)
from mosaic_collect.store.lock import LOCK_NAME
from tests.durability.figures import count
from tests.durability.rig import NUM_ENVS, TINY, add_tiny, check, open_tiny
from tests.helpers import rows

STEPS = 3
NESTED: Any = []
for _ in range(200):
    NESTED = [NESTED]
CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


def contents(folder: str) -> dict[str, bytes | None]:
    """Every path under the folder and its bytes; a lock's words do not count."""
    found: dict[str, bytes | None] = {}
    for here, folders, names in os.walk(folder):
        found.update({os.path.join(here, f): None for f in folders})
        for name in names:
            with open(os.path.join(here, name), "rb") as file:
                found[os.path.join(here, name)] = b"" if name == LOCK_NAME else file.read()
    return found


@pytest.fixture
def folder(ram_store: str) -> str:
    """A folder with a store of three steps, a file, a folder that is no store, and an empty one."""
    count("bad inputs tried")
    folder = os.path.dirname(ram_store)
    with open_tiny(os.path.join(folder, "store")) as writer:
        add_tiny(writer, STEPS)
    os.makedirs(os.path.join(folder, "photos", "2024"))
    os.mkdir(os.path.join(folder, "empty"))
    with open(os.path.join(folder, "file"), "w") as file:
        file.write("text")
    with open(os.path.join(folder, "broken"), "w"):
        pass
    return folder


OPENINGS: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("store", {}, StoreExistsError, "resume=True continues"),
    ("file", {}, StoreExistsError, "exists"),
    ("photos", {}, StoreExistsError, "exists"),
    ("new", {"resume": True}, StoreNotFoundError, "no such folder"),
    ("file", {"resume": True}, StoreNotFoundError, "it is a file"),
    ("photos", {"resume": True}, StoreNotFoundError, "no zarr.json"),
    ("photos", {"resume": "auto"}, StoreNotFoundError, "no zarr.json"),
    ("photos", {"overwrite": True}, StoreExistsError, "no store that can be read"),
    ("store", {"overwrite": True, "resume": True}, InputError, "overwrite: expected it without"),
    ("new", {"resume": "yes"}, InputError, "resume: expected True, False or \"auto\", got 'yes'"),
    ("file/under", {}, WriteError, "cannot be opened for writing"),
    ("new", {"schema": None}, InputError, "schema: expected for a new store"),
    ("new", {"num_envs": None}, InputError, "num_envs: expected for a new store"),
    ("new", {"schema": "mosaic"}, InputError, "schema: expected a Schema, got str"),
    ("new", {"num_envs": 0}, InputError, "num_envs: expected a whole number of 1..16777216, got 0"),
    ("new", {"num_envs": -1}, InputError, "num_envs"),
    ("new", {"num_envs": (1 << 24) + 1}, InputError, "1..16777216, got 16777217"),
    ("new", {"num_envs": 2.0}, InputError, "num_envs"),
    ("new", {"num_envs": True}, InputError, "num_envs"),
    ("new", {"num_envs": "2"}, InputError, "num_envs"),
    ("new", {"buffer_mb": 0}, InputError, "buffer_mb"),
    ("new", {"buffer_mb": -5}, InputError, "buffer_mb"),
    ("new", {"buffer_mb": float("nan")}, InputError, "buffer_mb"),
    ("new", {"buffer_mb": float("inf")}, InputError, "buffer_mb"),
    ("new", {"buffer_mb": "much"}, InputError, "buffer_mb"),
    ("new", {"buffer_mb": True}, InputError, "buffer_mb"),
    ("new", {"buffer_mb": None}, InputError, "buffer_mb"),
    ("new", {"buffer_mb": [1]}, InputError, "buffer_mb"),
    ("new", {"buffer_mb": 1e-6}, SpaceError, "buffer_mb"),
    ("new", {"compressor": "lzma"}, InputError, "one of auto, .*, none, got 'lzma'"),
    ("new", {"compressor": None}, InputError, "compressor"),
    ("new", {"encode_in": "threads "}, InputError, "expected auto, process, threads, got 'thr"),
    ("new", {"encode_in": None}, InputError, "encode_in: expected auto, process, threads"),
    ("new", {"encode_in": ["process"]}, InputError, "encode_in: expected auto, process, threads"),
    ("new", {"threads": 0}, InputError, "threads"),
    ("new", {"threads": -1}, InputError, "threads"),
    ("new", {"threads": 1.5}, InputError, "threads"),
    ("new", {"commit_seconds": -1}, InputError, "commit_seconds"),
    ("new", {"commit_seconds": float("nan")}, InputError, "commit_seconds"),
    ("new", {"commit_seconds": "soon"}, InputError, "commit_seconds"),
    ("new", {"device": "gpu"}, MosaicCollectError, "device"),
    ("new", {"device": "cuda:99"}, MosaicCollectError, "device"),
    ("new", {"metadata": "G1"}, InputError, "metadata: expected a mapping, got str"),
    ("new", {"metadata": {"a": object()}}, InputError, "metadata"),
    ("new", {"metadata": {"a": float("nan")}}, InputError, "metadata"),
    ("new", {"metadata": {"a": CIRCLE}}, InputError, "metadata"),
    ("new", {"metadata": {"a": NESTED}}, InputError, "levels"),
    ("new", {"metadata": {"a": "x" * (17 << 20)}}, InputError, "at most"),
    ("new", {"metadata": {"a": [0] * 300_000}}, InputError, "at most"),
    ("new", {"metadata": {(1, 2): 3}}, InputError, "metadata"),
    ("store", {"resume": True, "num_envs": 3}, StoreMismatchError, "num_envs: expected 2, got 3"),
    ("store", {"resume": True, "compressor": "lz4"}, StoreMismatchError, "compressor"),
    (
        *("store", {"resume": True, "schema": Schema((Field(name="y", dim=2),))}),
        *(StoreMismatchError, "y: not in the store"),
    ),
    (
        *("store", {"resume": True, "schema": Schema((Field(name="x", dim=3),))}),
        *(StoreMismatchError, "x: expected"),
    ),
    ("store", {"resume": True, "buffer_mb": 1e-6}, SpaceError, "buffer_mb"),
    ("store", {"resume": True, "metadata": {"a": object()}}, InputError, "metadata"),
]


@pytest.mark.parametrize(("name", "options", "error", "words"), OPENINGS)
def test_opening_a_writer(
    folder: str, name: str, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    before = contents(folder)
    settings = {"schema": TINY, "num_envs": NUM_ENVS, "buffer_mb": 0.001, **options}
    with pytest.raises(error, match=words):
        TrajectoryWriter(os.path.join(folder, name), **settings)
    assert contents(folder) == before
    assert check(os.path.join(folder, "store")) == STEPS


@pytest.mark.parametrize("path", ["", "a\0b", None, 5, b"bytes", ["list"]])
@pytest.mark.parametrize("resume", [True, False])
def test_a_path_that_is_none(folder: str, path: Any, resume: bool) -> None:
    with pytest.raises((InputError, TypeError), match=r"path|str"):
        TrajectoryWriter(path, TINY, NUM_ENVS, resume=resume)


GOOD = rows(STEPS, NUM_ENVS, TINY)["x"]
MASK = np.ones(NUM_ENVS, bool)
Call = Callable[[TrajectoryWriter], Any]
CALLS: list[tuple[str, Call, type[Exception], str]] = [
    ("positional", lambda w: w.add_step(GOOD), TypeError, "positional"),
    ("end high", lambda w: w.end_trajectories([2]), InputError, r"expected 0\.\.1"),
    ("end low", lambda w: w.end_trajectories([-1]), InputError, r"expected 0\.\.1"),
    ("end floats", lambda w: w.end_trajectories([0.0]), InputError, "whole numbers"),
    ("end mask", lambda w: w.end_trajectories([True]), InputError, "mask of shape"),
    ("end flags", lambda w: w.end_trajectories(np.ones((2, 1), bool)), InputError, r"\(2, 1\)"),
    ("end None", lambda w: w.end_trajectories(None), InputError, "whole numbers"),
    ("end words", lambda w: w.end_trajectories(["0"]), InputError, "whole numbers"),
    ("end huge", lambda w: w.end_trajectories([2**70]), InputError, "env_ids"),
    ("end ragged", lambda w: w.end_trajectories([[0], [0, 1]]), InputError, "env_ids"),
    ("metadata", lambda w: w.update_metadata(a=object()), InputError, "metadata"),
    ("metadata nan", lambda w: w.update_metadata(a=float("inf")), InputError, "metadata"),
    ("metadata deep", lambda w: w.update_metadata(a=NESTED), InputError, "levels"),
    ("metadata large", lambda w: w.update_metadata(a="x" * (17 << 20)), InputError, "at most"),
]


@pytest.mark.parametrize(
    ("call", "error", "words"), [c[1:] for c in CALLS], ids=[c[0] for c in CALLS]
)
def test_calls_of_a_writer(folder: str, call: Call, error: type[Exception], words: str) -> None:
    store = os.path.join(folder, "store")
    with open_tiny(store, resume=True) as writer:
        add_tiny(writer)
        writer.commit()
        before, metadata = contents(folder), writer.metadata
        with pytest.raises(error, match=words):
            call(writer)
        writer.commit()
        assert contents(folder) == before
        assert writer.metadata == metadata
        assert writer.num_steps == STEPS + 1
        add_tiny(writer, 2)
    assert check(store) == STEPS + 3


@pytest.mark.parametrize(
    "call",
    [
        add_tiny,
        lambda w: w.end_trajectories([0]),
        lambda w: w.commit(),
        lambda w: w.update_metadata(a=1),
    ],
)
def test_calls_of_a_closed_writer(folder: str, call: Call) -> None:
    with open_tiny(os.path.join(folder, "store"), resume=True) as writer:
        pass
    before = contents(folder)
    with pytest.raises(ClosedError, match="closed; resume=True"):
        call(writer)
    writer.close()
    assert contents(folder) == before


Read = Callable[[TrajectoryDataset], Any]
READS: list[tuple[str, Read, type[Exception], str]] = [
    ("field", lambda d: d.read("y"), InputError, "the fields are: x, valid_mask"),
    ("field type", lambda d: d.read(5), InputError, "no field 5"),
    ("below", lambda d: d.read("x", -1), InputError, "expected within 0..3"),
    ("above", lambda d: d.read("x", 0, 4), InputError, "expected within 0..3"),
    ("turned", lambda d: d.read("x", 2, 1), InputError, "expected within 0..3"),
    ("start float", lambda d: d.read("x", 0.5), InputError, "steps"),
    ("start word", lambda d: d.read("x", "0"), InputError, "steps"),
    ("stop float", lambda d: d.read("x", 0, 2.0), InputError, "steps"),
    ("envs back", lambda d: d.read("x", 0, 1, slice(None, None, -1)), InputError, "positive step"),
    ("envs number", lambda d: d.read("x", 0, 1, 0), InputError, "envs"),
    ("envs list", lambda d: d.read("x", 0, 1, [0, 1]), InputError, "envs"),
    ("item field", lambda d: d["y"], InputError, "no field"),
    ("item list", lambda d: d["x"][[0, 1]], InputError, "index"),
    ("item mask", lambda d: d["x"][np.ones(3, bool)], InputError, "index"),
    ("item float", lambda d: d["x"][1.0], InputError, "index"),
    ("item above", lambda d: d["x"][3], IndexError, "out of range"),
    ("item below", lambda d: d["x"][:, -3], IndexError, "out of range"),
    ("item many", lambda d: d["x"][0, 0, 0, 0], InputError, "at most 3 parts"),
    ("item dots", lambda d: d["x"][..., ...], InputError, "at most 3 parts"),
]


@pytest.mark.parametrize(
    ("read", "error", "words"), [r[1:] for r in READS], ids=[r[0] for r in READS]
)
def test_reads_of_a_dataset(folder: str, read: Read, error: type[Exception], words: str) -> None:
    dataset = TrajectoryDataset(os.path.join(folder, "store"), threads=1)
    before = contents(folder)
    with pytest.raises(error, match=words):
        read(dataset)
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["new", "photos", "file", "file/under"])
def test_opening_what_is_no_store(folder: str, name: str) -> None:
    before = contents(folder)
    with pytest.raises(StoreNotFoundError, match="no store at"):
        TrajectoryDataset(os.path.join(folder, name))
    assert contents(folder) == before


def test_an_empty_folder_is_a_store_of_zero_steps(folder: str) -> None:
    """As a kill right after its making leaves it."""
    dataset = TrajectoryDataset(os.path.join(folder, "empty"))
    assert dataset.num_steps == 0
    with pytest.raises(StoreNotFoundError, match="before its first commit"):
        dataset.read("x")


def test_missing_packages_are_named(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "zarr", None)
    monkeypatch.setitem(__import__("sys").modules, "xarray", None)
    dataset = TrajectoryDataset(os.path.join(folder, "store"))
    for call in (dataset.to_zarr, dataset.to_xarray):
        with pytest.raises(MissingDependencyError, match="pip install"):
            call()
