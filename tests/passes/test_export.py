"""Exports by a cluster are those of this process, byte for byte."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mosaic_collect import DaskEngine, Field, Schema, export_npy, verify_export
from mosaic_collect.errors import CorruptStoreError
from mosaic_collect.export import npy as npy_format
from mosaic_collect.export.target import opened_elsewhere, opened_target
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
    monkeypatch.setattr(npy_format, "_BATCH_NBYTES", 4000)


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


def _put(path: str, piece: int) -> int:
    with opened_elsewhere(path) as fd:
        return os.pwrite(fd, bytes([piece]), piece)


def test_a_file_is_shared_until_it_is_done(engine: DaskEngine, npy: str) -> None:
    """Workers of an export that has ended do not reach the next one's file."""
    with opened_target(npy, 9) as target:
        assert list(engine.map(partial(_put, target.temp_path), range(9))) == [1] * 9
    assert Path(npy).read_bytes() == bytes(range(9))
    with opened_target(npy, 9), pytest.raises(FileNotFoundError):
        _put(target.temp_path, 1)


_KILLED = """
import os, sys
from mosaic_collect.export.target import opened_target
with opened_target(sys.argv[1], 9) as target:
    print(target.temp_path, flush=True)
    os.kill(os.getpid(), 9)
"""


def test_workers_of_a_killed_export_do_not_reach_the_next_ones_file(npy: str) -> None:
    """Neither by its name nor by a descriptor that they have open."""
    dead = helpers.run_python(_KILLED, npy)
    assert dead.returncode == -9
    path = dead.stdout.strip()
    with opened_elsewhere(path) as late, opened_target(npy, 9) as target:
        os.pwrite(target.fd, b"123456789", 0)
        os.pwrite(late, b"LATE", 0)
        with pytest.raises(FileNotFoundError):
            _put(path, 1)
    assert Path(npy).read_bytes() == b"123456789"
    assert os.listdir(os.path.dirname(npy)) == ["expert.npy"]
