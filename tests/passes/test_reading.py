"""Statistics, counts and ``verify`` by a cluster are those of this process, bit for bit."""

from __future__ import annotations

import os
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect import (
    DaskEngine,
    Field,
    StoreStatistics,
    TrajectoryDataset,
    VerifyReport,
    store_statistics,
    summarize,
    verify_store,
)
from mosaic_collect.look import measure
from mosaic_collect.passes.engine import Engine
from mosaic_collect.reading.moments import Moments
from mosaic_collect.reading.trajectories import failed_ids
from tests import helpers
from tests.export import stores
from tests.passes.conftest import Killing
from tests.recording.test_ends import FORGED, record_forged

SCHEMA = helpers.SMALL.with_fields(
    Field(name="image", dim=(2, 3), dtype="uint8"), Field(name="motion_id", dtype="int32")
).with_ends()
ENVS = 20


@pytest.fixture
def made(small_chunks: int, store: str) -> str:
    chance = np.random.default_rng(0)

    def edit(step: int, rows: Any) -> None:
        rows["observations"][:] = chance.normal(1e3, 1.0, rows["observations"].shape)
        stores.nan_at("actions", (3, 1), (30, 2))(step, rows)

    stores.write(
        store, 61, num_envs=ENVS, masks=stores.some_masks(ENVS), edit=edit, schema=SCHEMA,
        ends={4: [0, 7], 30: [9]}, falls={9: [1, 2], 35: [0]},
    )  # fmt: skip
    return store


def assert_equal(found: StoreStatistics, expected: StoreStatistics) -> None:
    assert found.fields.keys() == expected.fields.keys()
    assert found.num_read == expected.num_read
    for name, field in found.fields.items():
        for part in fields(Moments):
            one, other = (getattr(f.moments, part.name) for f in (field, expected.fields[name]))
            assert one.tobytes() == other.tobytes(), (name, part.name)
        assert field.sample.tobytes() == expected.fields[name].sample.tobytes()


@pytest.mark.parametrize("max_pairs", [None, 300])
@pytest.mark.parametrize("sample", [50, 10_000])
def test_the_same_bits(
    engine: DaskEngine, made: str, max_pairs: int, sample: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "SAMPLE_ROWS", sample)
    told: list[int] = []
    found = store_statistics(made, None, max_pairs, told.append, engine=engine)
    assert_equal(found, store_statistics(made, None, max_pairs))
    assert_equal(found, store_statistics(made, None, max_pairs, threads=1))
    assert sum(told) == measure.part_pairs(TrajectoryDataset(made), max_pairs)


def test_of_several_stores(engine: DaskEngine, made: str, tmp_path: Path) -> None:
    other = str(tmp_path / "other.zarr")
    stores.write(other, 12, num_envs=7, falls={3: [1]}, schema=SCHEMA)
    dataset = TrajectoryDataset([made, other])
    assert_equal(store_statistics(dataset, engine=engine), store_statistics(dataset))
    assert failed_ids(dataset.view, engine).tolist() == failed_ids(dataset.view).tolist()


def test_counts(engine: DaskEngine, made: str) -> None:
    found = summarize(made, engine)
    assert found == summarize(made)
    assert found.figures["num_failed"] == 3


@pytest.mark.parametrize(("change", "words"), FORGED)
def test_ends_are_held_against_ids(
    engine: DaskEngine, store: str, monkeypatch: pytest.MonkeyPatch, change: Any, words: str
) -> None:
    """Across the blocks' borders, too."""
    record_forged(store, monkeypatch, change)
    problems = verify_store(store, engine=engine).problems
    assert problems == verify_store(store, engine=Engine(1)).problems
    assert re.search(words, " ".join(problems)) if words else not problems


def verified(store: str, **options: Any) -> VerifyReport:
    return replace(verify_store(store, **options), seconds=0.0)


def test_a_verify(engine: DaskEngine, made: str) -> None:
    told: list[int] = []
    report = verified(made, progress=told.append, engine=engine)
    assert report.ok
    assert report == verified(made)
    assert sum(told) == report.checked
    stores.flip(os.path.join(made, "actions", "c.3.0.0"), 2)
    stores.flip(os.path.join(made, "trajectory_id", "c.9.0"), -1)
    os.unlink(os.path.join(made, "motion_id", "c.15.0"))
    report = verified(made, engine=engine)
    assert len(report.problems) == 3
    assert report == verified(made)


def test_a_worker_killed_in_a_verify(mortal: DaskEngine, made: str, killing: Killing) -> None:
    stores.flip(os.path.join(made, "action_mean", "c.15.0.0"), 2)
    report = verified(made, progress=killing, engine=mortal)
    assert len(report.problems) == 1
    assert report == verified(made)
