"""What a commit asks of the disk: counted, so that it stays what it is."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from mosaic_collect import Field, Schema, TrajectoryDataset, TrajectoryWriter, verify_store
from mosaic_collect.store.view import STATE_COPY
from tests.helpers import run_python

#: Eight arrays: six of these and the writer's two.
SCHEMA = Schema(tuple(Field(name=f"f{number}", dim=3) for number in range(6)))


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Calls of the system's functions, in all threads."""
    calls: Counter[str] = Counter()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("fsync", "stat", "lstat", "replace", "open"):
            real = getattr(os, name)

            def call(*args: Any, real: Any = real, name: str = name, **options: Any) -> Any:
                calls[name] += 1
                return real(*args, **options)

            patch.setattr(os, name, call)
        yield calls


def add(writer: TrajectoryWriter, seed: int) -> None:
    rng = np.random.default_rng(seed)
    writer.add_step(**{name: rng.random((2, 3), np.float32) for name in SCHEMA.names})


def test_a_commit_of_eight_fields(store: str) -> None:
    """A sync per shard and per folder that gained a name, and two for the root document."""
    with TrajectoryWriter(store, SCHEMA, 2, commit_seconds=None, encode_in="threads") as writer:
        for step in range(3):
            add(writer, step)
            with counted() as calls:
                writer.commit()
            assert calls["fsync"] <= 18
            assert calls["stat"] + calls["lstat"] <= 8
            assert calls["replace"] <= 10
    assert TrajectoryDataset(store).num_steps == 3
    report = verify_store(store)
    assert report.ok
    assert report.notes == ()
    assert not [name for name in os.listdir(store) if name.startswith(".")]


KILLED = """
import os, sys
from tests.durability.test_commit_cost import SCHEMA, add
from mosaic_collect import TrajectoryWriter
writer = TrajectoryWriter(sys.argv[1], SCHEMA, 2, commit_seconds=None)
for step in range(4):
    add(writer, step)
    writer.commit()
os._exit(1)
"""


def drop_attributes(store: str) -> None:
    """As tools do that write a group's attributes anew."""
    path = os.path.join(store, "zarr.json")
    with open(path) as file:
        root = json.load(file)
    root["attributes"] = {}
    with open(path, "w") as file:
        json.dump(root, file)


def test_a_killed_writers_arrays_lag_and_its_state_is_there_twice(store: str) -> None:
    run_python(KILLED, store)
    assert TrajectoryDataset(store).num_steps == 4
    report = verify_store(store)
    assert report.ok
    assert any("zarr.json lags at step 0" in note for note in report.notes)
    drop_attributes(store)
    assert TrajectoryDataset(store).num_steps == 4
    with TrajectoryWriter(store, resume=True) as writer:
        add(writer, 4)
    assert TrajectoryDataset(store).num_steps == 5
    report = verify_store(store)
    assert (report.ok, report.notes) == (True, ())
    assert not [name for name in os.listdir(store) if name.startswith(".")]


@pytest.mark.parametrize("content", [b"", b"\0" * 500, b'{"zarr_format": 3'])
def test_a_copy_torn_by_a_power_cut_is_passed_over(store: str, content: bytes) -> None:
    run_python(KILLED, store)
    with open(os.path.join(store, STATE_COPY), "wb") as file:
        file.write(content)
    assert TrajectoryDataset(store).num_steps == 4
    drop_attributes(store)
    assert TrajectoryDataset(store).num_steps == 0  # what the array's own document still says


def test_another_stores_copy_is_passed_over(store: str) -> None:
    run_python(KILLED, store)
    with TrajectoryWriter(f"{store}.other", SCHEMA, 2) as writer:
        for step in range(9):
            add(writer, step)
    os.replace(f"{store}.other/trajectory_id/zarr.json", os.path.join(store, STATE_COPY))
    drop_attributes(store)
    assert TrajectoryDataset(store).num_steps == 0
