"""The ring within its bound: block size, slots, and too little of either memory."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_collect import budget
from mosaic_collect.budget import MB, plan_ring, ring_nbytes, slots_for
from mosaic_collect.errors import InputError, SpaceError


@given(st.integers(1, 5 * MB), st.integers(5, 2000))
def test_the_ring_stays_within_its_bound(step_nbytes: int, buffer_mb: int) -> None:
    plan = plan_ring(step_nbytes, buffer_mb, None)
    assert plan.block_steps >= 1
    assert 1 <= plan.slots <= 3
    assert plan.slots * plan.block_steps * step_nbytes <= buffer_mb * MB


def test_three_blocks_share_a_number() -> None:
    plan = plan_ring(step_nbytes=10_000, buffer_mb=3, device_nbytes=None)
    assert (plan.block_steps, plan.slots) == (100, 3)


def test_a_small_bound_gives_fewer_slots_of_one_step() -> None:
    assert plan_ring(MB, 2.5, None) == budget.RingPlan(1, 2)
    assert plan_ring(MB, 1.5, None) == budget.RingPlan(1, 1)


def test_no_space_for_one_step_is_told_with_the_size() -> None:
    with pytest.raises(SpaceError, match=r"buffer_mb: expected at least 2\.0 MB.*got 1\.0 MB"):
        plan_ring(2 * MB, 1, None)


def test_auto_aims_at_64_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "available_memory", lambda: 10_000 * MB)
    assert plan_ring(MB, "auto", None) == budget.RingPlan(64, 3)


def test_auto_takes_no_more_than_a_tenth_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "available_memory", lambda: 1_000 * MB)
    plan = plan_ring(MB, "auto", None)
    assert plan.slots * plan.block_steps * MB <= 100 * MB
    assert plan.block_steps == 33


def test_auto_makes_longer_blocks_of_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "available_memory", lambda: 10_000 * MB)
    steps = plan_ring(20_000, "auto", None).block_steps
    assert 64 < steps <= 1024


def test_the_device_bounds_a_block_too() -> None:
    assert plan_ring(MB, 300, device_nbytes=20 * MB).block_steps == 10


def test_a_device_without_room_is_told() -> None:
    with pytest.raises(SpaceError, match="GPU memory"):
        plan_ring(MB, 300, device_nbytes=MB)


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf"), True, "big", None, [1]])
def test_other_bounds_are_refused(bad: Any) -> None:
    with pytest.raises(InputError, match="buffer_mb"):
        ring_nbytes(bad)


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
