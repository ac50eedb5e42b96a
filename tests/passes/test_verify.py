"""``verify`` on a cluster finds what it finds without one."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from mosaic_collect import DaskEngine, Field, verify_store
from mosaic_collect.reading.verify import VerifyReport
from tests import helpers
from tests.export import stores
from tests.passes.conftest import Killing

SCHEMA = helpers.SMALL.with_fields(Field(name="motion_id", dtype="int32"))
STEPS = 200


@pytest.fixture
def made(small_chunks: int, store: str) -> str:
    stores.write(
        store, STEPS, num_envs=60, masks=stores.some_masks(60), ends={4: [0, 7], 90: [59]},
        edit=stores.nan_at("actions", (3, 1), (77, 2)), schema=SCHEMA,
    )  # fmt: skip
    return store


def found(report: VerifyReport) -> VerifyReport:
    return replace(report, seconds=0.0)


def test_a_good_store(engine: DaskEngine, made: str) -> None:
    told: list[int] = []
    report = verify_store(made, told.append, engine)
    assert report.ok
    assert found(report) == found(verify_store(made))
    assert sum(told) == report.checked


def test_a_damaged_store(engine: DaskEngine, made: str) -> None:
    stores.flip(os.path.join(made, "actions", "c.3.0.0"), 2)
    stores.flip(os.path.join(made, "trajectory_id", "c.9.0"), -1)
    os.unlink(os.path.join(made, "motion_id", "c.60.0"))
    report = verify_store(made, engine=engine)
    assert len(report.problems) == 3
    assert found(report) == found(verify_store(made))


def test_a_worker_killed_in_the_middle(mortal: DaskEngine, made: str, killing: Killing) -> None:
    stores.flip(os.path.join(made, "action_mean", "c.50.0.0"), 2)
    report = verify_store(made, killing, mortal)
    assert len(report.problems) == 1
    assert found(report) == found(verify_store(made))
