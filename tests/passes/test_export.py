"""Exports by a cluster are those of this process, byte for byte."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mosaic_collect import DaskEngine, Field, Schema, export_npy, verify_export
from mosaic_collect.errors import (
    CorruptStoreError,
    InputError,
    SpaceError,
    WriteError,
)
from mosaic_collect.export import stream
from mosaic_collect.export.target import SharedFile, Target
from mosaic_collect.npyfile.read import scan_npy
from mosaic_collect.reading import selection
from tests import helpers
from tests.export import stores
from tests.passes.conftest import Killing

SCHEMA = stores.STUDENT.with_ends()
ENVS = 60
Bytes = Callable[..., tuple[bytes, Any]]


@pytest.fixture(autouse=True)
def small_slabs(small_chunks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several slabs a block, of which only some are whole, and several batches a field."""
    monkeypatch.setattr(selection, "CELL_NBYTES", 8 * small_chunks)
    monkeypatch.setattr(stream, "_BATCH_NBYTES", 4000)


@pytest.fixture
def made(store: str) -> str:
    stores.write(
        store, 40, num_envs=ENVS, masks=stores.some_masks(ENVS), ends={4: [0, 7], 30: [59]},
        falls={9: [1, 2], 35: [0]}, edit=stores.nan_at("actions", (3, 1), (30, 2)), schema=SCHEMA,
    )  # fmt: skip
    return store


@pytest.fixture
def exported(npy: str) -> Bytes:
    """The file's bytes, and what was reported, without the time it took."""

    def export(store: Any, engine: DaskEngine | None = None, **options: Any) -> Any:
        report = export_npy(store, npy, engine=engine, **options)
        with open(npy, "rb") as file:
            return file.read(), replace(report, seconds=0.0)

    return export


OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"layout": "grid", "allow_nonfinite": True},
    {"max_pairs": 100, "seed": 3},
    {"exclude_failed": True, "exclude_interrupted": True, "fields": ["actions", "trajectory_id"]},
)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_same_bytes(
    engine: DaskEngine, made: str, exported: Bytes, options: dict[str, Any]
) -> None:
    told: list[int] = []
    data, report = exported(made, engine, progress=told.append, **options)
    assert (data, report) == exported(made, **options)
    assert sum(told) == report.device_nbytes


def test_around_damage(engine: DaskEngine, made: str, exported: Bytes) -> None:
    stores.flip(os.path.join(made, "actions", "c.1.0.0"), 2)
    stores.flip(os.path.join(made, "valid_mask", "c.5.0"), -1)
    data, report = exported(made, engine, skip_damaged=True)
    assert report.left_out.damaged
    assert (data, report) == exported(made, skip_damaged=True)


def test_of_several_stores(engine: DaskEngine, made: str, exported: Bytes, tmp_path: Path) -> None:
    other = str(tmp_path / "other.zarr")
    stores.write(other, 20, num_envs=7, schema=SCHEMA)
    fields = ["student_observations", "trajectory_id"]
    assert exported([made, other], engine, fields=fields) == exported([made, other], fields=fields)


def test_of_float64(engine: DaskEngine, store: str, exported: Bytes) -> None:
    schema = Schema((Field(name="actions", dim=2, dtype="float64"),))
    stores.write(store, 40, schema=schema, edit=stores.nan_at("actions", (3, 1), value=1e300))
    data, report = exported(store, engine)
    assert report.left_out.nonfinite == 1
    assert (data, report) == exported(store)


def test_a_worker_killed_in_the_middle(
    mortal: DaskEngine, made: str, exported: Bytes, killing: Killing
) -> None:
    done = exported(made, mortal, progress=killing)
    assert killing.done < done[1].device_nbytes / 2
    assert done == exported(made)


def test_nothing_is_left_of_one_that_fails(engine: DaskEngine, made: str, npy: str) -> None:
    stores.flip(os.path.join(made, "action_sigma", "c.9.0.0"), 2)
    with pytest.raises(CorruptStoreError, match="action_sigma, block 9, chunk 0"):
        export_npy(made, npy, engine=engine)
    assert os.listdir(os.path.dirname(npy)) == ["expert.zarr"]


def test_a_comparison(engine: DaskEngine, made: str, npy: str) -> None:
    export_npy(made, npy, engine=engine)
    assert verify_export(made, npy, engine=engine).ok
    place = scan_npy(npy).arrays["action_mean"].offset
    for at in (1, 2000):
        stores.flip(npy, place + at, 1)
    report = verify_export(made, npy, engine=engine)
    assert len(report.problems) == 2
    assert replace(report, seconds=0.0) == replace(verify_export(made, npy), seconds=0.0)


def _put(file: SharedFile, piece: int) -> int:
    with file.opened() as fd:
        return os.pwrite(fd, bytes([piece]), piece)


def test_a_file_is_shared_until_it_is_done(engine: DaskEngine, npy: str) -> None:
    with Target(npy, 9) as target, target.shared() as file:
        assert list(engine.map(partial(_put, file), range(9))) == [1] * 9
    assert Path(npy).read_bytes() == bytes(range(9))
    with pytest.raises(FileNotFoundError):
        _put(file, 1)


@pytest.mark.parametrize("content", [b"", b"x" * 20, b"\0" * (17 << 20)])
def test_another_file_of_that_name(npy: str, content: bytes) -> None:
    """As on a machine that does not share the folder, or of an export that came later."""
    with Target(npy, 9) as target, target.shared() as file:
        pass
    Path(file.path).write_bytes(content)
    with pytest.raises(WriteError, match="expected this export's file, found another"):
        _put(file, 1)
    assert Path(file.path).read_bytes() == content


_KILLED = """
import sys, os, signal, pickle
from mosaic_collect.export.target import Target
with Target(sys.argv[1], 9) as target, target.shared() as file:
    sys.stdout.buffer.write(pickle.dumps(file))
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_of_a_killed_export_do_not_reach_the_next_ones_file(npy: str) -> None:
    dead = subprocess.run(
        [sys.executable, "-c", _KILLED, npy], cwd=helpers.REPO, capture_output=True, check=False
    )
    assert dead.returncode == -signal.SIGKILL
    file: SharedFile = pickle.loads(dead.stdout)
    with file.opened() as late, Target(npy, 9) as target:
        os.pwrite(target.fd, b"123456789", 0)
        os.pwrite(late, b"LATE", 0)
        with pytest.raises(WriteError, match="found another"), file.opened():
            pass
    assert Path(npy).read_bytes() == b"123456789"
    assert os.listdir(os.path.dirname(npy)) == ["expert.npy"]


def test_errors_before_anything_is_written(
    engine: DaskEngine, made: str, npy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"\.npy"):
        export_npy(made, npy[:-1], engine=engine)

    def no_room(fd: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with pytest.raises(SpaceError):
        export_npy(made, npy, engine=engine)
    assert os.listdir(os.path.dirname(npy)) == ["expert.zarr"]
