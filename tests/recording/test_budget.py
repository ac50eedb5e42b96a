"""The ring within its bound: block size, slots, and too little of either memory."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_collect import Field, Schema, TrajectoryWriter
from mosaic_collect.errors import InputError, SpaceError
from mosaic_collect.recording.ring import budget
from mosaic_collect.recording.ring.budget import MB, Budget, block_nbytes, slots_for


def plan_ring(step_nbytes: int, buffer_mb: Any, device_nbytes: int | None) -> tuple[int, int]:
    """(steps of a block, slots), of one environment's rows of that size."""
    writers = Schema((Field(name="x", dtype="uint8"),)).pair_nbytes - 1
    schema = Schema((Field(name="x", dtype="uint8", dim=step_nbytes - writers),))
    plan = budget.plan_ring(schema, 1, Budget.of(buffer_mb, device_nbytes))
    assert block_nbytes(plan.grids) == plan.block_steps * step_nbytes
    return plan.block_steps, plan.slots


@given(st.integers(10, 5 * MB), st.integers(5, 2000))
def test_the_ring_stays_within_its_bound(step_nbytes: int, buffer_mb: int) -> None:
    steps, slots = plan_ring(step_nbytes, buffer_mb, None)
    assert steps >= 1
    assert 1 <= slots <= 3
    assert slots * steps * step_nbytes <= buffer_mb * MB


def test_three_blocks_share_a_number() -> None:
    assert plan_ring(step_nbytes=10_000, buffer_mb=3, device_nbytes=None) == (100, 3)


def test_a_small_bound_gives_fewer_slots_of_one_step() -> None:
    assert plan_ring(MB, 2.5, None) == (1, 2)
    assert plan_ring(MB, 1.5, None) == (1, 1)


def test_no_space_for_one_step_is_told_with_the_size() -> None:
    with pytest.raises(SpaceError, match=r"buffer_mb: expected at least 2\.0 MB.*got 1\.0 MB"):
        plan_ring(2 * MB, 1, None)


def test_auto_aims_at_64_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "available_memory", lambda: 10_000 * MB)
    assert plan_ring(MB, "auto", None) == (64, 3)


def test_auto_takes_no_more_than_a_tenth_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "available_memory", lambda: 1_000 * MB)
    assert plan_ring(MB, "auto", None) == (33, 3)


def test_memory_is_looked_at_once(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More of it a moment later would make blocks of which the ring holds but one."""
    free = iter([1_000 * MB, 2_600 * MB, 2_600 * MB, 2_600 * MB])
    monkeypatch.setattr(budget, "available_memory", lambda: next(free))
    schema = Schema.mosaic(154, 29, 770)
    with TrajectoryWriter(store, schema, 256, encode_in="threads") as writer:
        assert len(writer._pipeline._slots._holders) == 3
        assert writer.ring_nbytes <= 100 * MB


def test_auto_makes_longer_blocks_of_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "available_memory", lambda: 10_000 * MB)
    steps, _slots = plan_ring(20_000, "auto", None)
    assert 64 < steps <= 1024


def test_the_device_bounds_a_block_too() -> None:
    assert plan_ring(MB, 300, device_nbytes=20 * MB) == (10, 3)


def test_a_device_without_room_is_told() -> None:
    with pytest.raises(SpaceError, match="GPU memory"):
        plan_ring(MB, 300, device_nbytes=MB)


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf"), True, "big", None, [1]])
def test_other_bounds_are_refused(bad: Any) -> None:
    with pytest.raises(InputError, match="buffer_mb"):
        Budget.of(bad)


def test_slots_are_at_most_three() -> None:
    assert slots_for(100, 10) == 3
    assert slots_for(29, 10) == 2
    with pytest.raises(SpaceError):
        slots_for(9, 10)


def test_available_memory_heeds_the_control_group(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"/sys/fs/cgroup/memory.max": 1000, "/sys/fs/cgroup/memory.current": 400}
    monkeypatch.setattr(budget, "_number", limits.get)
    assert budget.available_memory() == 600
    limits["/sys/fs/cgroup/memory.current"] = 2000
    assert budget.available_memory() == 0
