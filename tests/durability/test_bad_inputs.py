"""The table of bad inputs: each call gives its documented exception and changes nothing on disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mosaic_collect import TrajectoryDataset, TrajectoryWriter
from mosaic_collect.errors import (
    ClosedError,
    InputError,
    SpaceError,
    StoreExistsError,
    StoreNotFoundError,
    WriteError,
)
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
    """Every path under the folder; of files, their bytes."""
    return {str(p): p.read_bytes() if p.is_file() else None for p in Path(folder).rglob("*")}


@pytest.fixture
def folder(ram_store: str) -> str:
    """A folder with a store of three steps, a file, a folder that is no store, and an empty one."""
    count("bad inputs tried")
    folder = os.path.dirname(ram_store)
    with open_tiny(os.path.join(folder, "store")) as writer:
        add_tiny(writer, STEPS)
    os.makedirs(os.path.join(folder, "photos", "2024"))
    os.mkdir(os.path.join(folder, "empty"))
    Path(folder, "file").write_text("text")
    return folder


OPENINGS: list[tuple[str, dict[str, Any], type[Exception], str]] = [
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
    ("new", {"num_envs": (1 << 24) + 1}, InputError, "1..16777216, got 16777217"),
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
    ("new", {"commit_seconds": -1}, InputError, "commit_seconds"),
    ("new", {"commit_seconds": float("nan")}, InputError, "commit_seconds"),
    ("new", {"commit_seconds": "soon"}, InputError, "commit_seconds"),
    ("new", {"metadata": "G1"}, InputError, "metadata: expected a mapping, got str"),
    ("new", {"metadata": {"a": object()}}, InputError, "metadata"),
    ("new", {"metadata": {"a": CIRCLE}}, InputError, "metadata"),
    ("new", {"metadata": {"a": NESTED}}, InputError, "levels"),
    ("new", {"metadata": {"a": "x" * (17 << 20)}}, InputError, "at most"),
    ("new", {"metadata": {"a": [0] * 300_000}}, InputError, "at most"),
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
Call = Callable[[TrajectoryWriter], Any]
CALLS: list[tuple[str, Call, type[Exception], str]] = [
    ("positional", lambda w: w.add_step(GOOD), TypeError, "positional"),
    ("metadata", lambda w: w.update_metadata(task=2, a=object()), InputError, "metadata"),
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


@pytest.mark.parametrize("name", ["new", "photos", "file", "file/under"])
def test_opening_what_is_no_store(folder: str, name: str) -> None:
    before = contents(folder)
    with pytest.raises(StoreNotFoundError, match="no store at"):
        TrajectoryDataset(os.path.join(folder, name))
    assert contents(folder) == before
