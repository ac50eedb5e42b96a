"""The replay check on a cluster says what it says without one."""

from __future__ import annotations

import threading
from dataclasses import asdict
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from mosaic_collect import DaskEngine, replay_check  # noqa: E402
from mosaic_collect.errors import ClusterError  # noqa: E402
from mosaic_collect.replay.report import ReplayReport  # noqa: E402
from tests.collection import toys  # noqa: E402
from tests.replay.test_check import Counting  # noqa: E402

EPISODES = ((25, 32, 14), (33, 3, 20), (60,))


class Policy(toys.ToyPolicy):
    is_recurrent = False


def record(store: str, policy: Any) -> str:
    toys.collected(store, toys.ToySimulation(EPISODES), policy, **toys.in_blocks(3))
    return store


def found(report: ReplayReport) -> dict[str, Any]:
    return {**asdict(report), "steps": report.steps.tobytes()}


def test_the_same_report(engine: DaskEngine, store: str) -> None:
    """Of the policy that acted, and of another one."""
    record(store, Policy())
    for seed in (0, 1):
        told, policy = list[int](), Policy(seed=seed)
        report = replay_check(store, policy, toys.GROUPS, progress=told.append, engine=engine)
        assert report.ok == (not report.rows_off) == (seed == 0)
        assert found(report) == found(replay_check(store, policy, toys.GROUPS))
        assert told == [1] * len(report.steps)


def test_a_memory_stays_in_one_place(
    engine: DaskEngine, store: str, caplog: pytest.LogCaptureFixture
) -> None:
    record(store, Counting(3))
    assert replay_check(store, Counting(3), toys.GROUPS, engine=engine).ok
    assert "it is replayed here, step by step" in caplog.text


def test_a_policy_that_cannot_be_sent(engine: DaskEngine, store: str) -> None:
    policy = Policy()
    record(store, policy)
    policy.lock = threading.Lock()
    with pytest.raises(ClusterError, match="cannot be sent to other processes"):
        replay_check(store, policy, toys.GROUPS, engine=engine)
