"""The ring within its bound: block size, slots, and too little of either memory."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from mosaic_collect import Field, Schema, TrajectoryWriter
from mosaic_collect.errors import SpaceError
from mosaic_collect.recording import budget
from mosaic_collect.recording.budget import MB, Budget, block_nbytes
from tests.helpers import SMALL, record, run_python


def plan_ring(step_nbytes: int, buffer_mb: Any, device_nbytes: int | None) -> tuple[int, int]:
    """(steps of a block, slots), of one environment's rows of that size."""
    writers = Schema((Field(name="x", dtype="uint8"),)).pair_nbytes - 1
    schema = Schema((Field(name="x", dtype="uint8", dim=step_nbytes - writers),))
    bound = Budget.of(budget.asked_nbytes(buffer_mb), device_nbytes)
    grids = budget.plan_ring(schema, 1, bound)
    assert block_nbytes(grids) == grids["x"].block_steps * step_nbytes
    return grids["x"].block_steps, bound.slots(block_nbytes(grids))


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
        step_nbytes = 256 * schema.pair_nbytes
        assert 3 * writer.block_steps * step_nbytes <= writer.ring_nbytes <= 100 * MB


def test_auto_makes_longer_blocks_of_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "available_memory", lambda: 10_000 * MB)
    steps, _slots = plan_ring(20_000, "auto", None)
    assert 64 < steps <= 1024


def test_the_device_bounds_a_block_too() -> None:
    assert plan_ring(MB, 300, device_nbytes=200 * MB) == (10, 3)


def test_a_device_without_room_is_told() -> None:
    with pytest.raises(SpaceError, match="GPU memory"):
        plan_ring(MB, 300, device_nbytes=MB)


def test_auto_takes_what_is_free_where_a_tenth_is_not_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(budget, "available_memory", lambda: 10 * MB)
    assert plan_ring(2 * MB, "auto", None) == (1, 1)
    assert plan_ring(2 * MB, "auto", 4 * MB) == (1, 1)


def test_auto_blames_no_argument_that_nobody_gave(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(store, 3)
    monkeypatch.setattr(budget, "available_memory", lambda: 10)
    for path, options in ((store, {"resume": True}), (store + ".2", {})):
        with pytest.raises(SpaceError, match=r"^free memory: expected at least") as error:
            TrajectoryWriter(path, SMALL, 4, **options)
        assert "buffer_mb" not in str(error.value)


GIB = 1 << 30
UNLIMITED_V1 = 9223372036854771712
V2, V1 = "/sys/fs/cgroup", "/sys/fs/cgroup/memory"
#: What the system's files say, and the GiB that are left: of 16 free ones where no group says less.
GROUPS: dict[str, tuple[dict[str, str], int]] = {
    "no groups": ({}, 16),
    "version 2, a container's own root": (
        {
            "/proc/self/cgroup": "0::/\n",
            f"{V2}/memory.max": f"{8 * GIB}\n",
            f"{V2}/memory.current": f"{3 * GIB}\n",
        },
        5,
    ),
    "version 2, unlimited": (
        {
            "/proc/self/cgroup": "0::/user.slice\n",
            f"{V2}/user.slice/memory.max": "max\n",
            f"{V2}/user.slice/memory.high": "max\n",
            f"{V2}/user.slice/memory.current": f"{3 * GIB}\n",
        },
        16,
    ),
    "version 2, a limit of the group above": (
        {
            "/proc/self/cgroup": "0::/job_7/step_0\n",
            f"{V2}/job_7/step_0/memory.max": "max\n",
            f"{V2}/job_7/step_0/memory.current": f"{GIB}\n",
            f"{V2}/job_7/memory.max": f"{4 * GIB}\n",
            f"{V2}/job_7/memory.current": f"{2 * GIB}\n",
        },
        2,
    ),
    "version 2, from a lower mark on it is slowed down": (
        {
            "/proc/self/cgroup": "0::/job\n",
            f"{V2}/job/memory.max": "max\n",
            f"{V2}/job/memory.high": f"{4 * GIB}\n",
            f"{V2}/job/memory.current": f"{GIB}\n",
        },
        3,
    ),
    "version 2, page cache and what the kernel gives back": (
        {
            "/proc/self/cgroup": "0::/\n",
            f"{V2}/memory.max": f"{8 * GIB}\n",
            f"{V2}/memory.current": f"{8 * GIB}\n",
            f"{V2}/memory.stat": f"anon {GIB}\nfile {6 * GIB}\ninactive_file {3 * GIB}\n"
            f"active_file {2 * GIB}\nslab_reclaimable {GIB}\n",
        },
        6,
    ),
    "version 1": (
        {
            "/proc/self/cgroup": "7:cpu,cpuacct:/elsewhere\n4:memory:/job/step\n1:name=a:b:/c\n",
            f"{V1}/memory.limit_in_bytes": f"{UNLIMITED_V1}\n",
            f"{V1}/memory.usage_in_bytes": f"{9 * GIB}\n",
            f"{V1}/job/memory.limit_in_bytes": f"{6 * GIB}\n",
            f"{V1}/job/memory.usage_in_bytes": f"{5 * GIB}\n",
            f"{V1}/job/memory.stat": f"inactive_file 0\ntotal_inactive_file {GIB}\n"
            f"total_active_file {GIB}\n",
            f"{V1}/job/step/memory.limit_in_bytes": f"{UNLIMITED_V1}\n",
            f"{V1}/job/step/memory.usage_in_bytes": f"{GIB}\n",
        },
        3,
    ),
    "version 1, a container that sees the host's path": (
        {
            "/proc/self/cgroup": "4:memory:/docker/0123\n",
            f"{V1}/memory.limit_in_bytes": f"{2 * GIB}\n",
            f"{V1}/memory.usage_in_bytes": f"{GIB}\n",
        },
        1,
    ),
    "more in use than the limit": (
        {
            "/proc/self/cgroup": "0::/\n",
            f"{V2}/memory.max": f"{GIB}\n",
            f"{V2}/memory.current": f"{2 * GIB}\n",
        },
        0,
    ),
}


@pytest.mark.parametrize("name", GROUPS)
def test_available_memory_heeds_the_control_groups(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, left = GROUPS[name]
    files = {**files, "/proc/meminfo": f"MemTotal: 1 kB\nMemAvailable: {16 * GIB // 1024} kB\n"}

    def stand_in(path: str) -> io.StringIO:
        if path not in files:
            raise FileNotFoundError(path)
        return io.StringIO(files[path])

    monkeypatch.setattr(budget, "open", stand_in, raising=False)
    assert budget.available_memory() == left * GIB


IN_GROUP = """
import os, sys
from mosaic_collect.recording.budget import available_memory
group, path = sys.argv[1:]
with open(f"{group}/cgroup.procs", "w") as file:
    file.write(str(os.getpid()))
before = available_memory()
with open(path, "wb") as file:
    for _ in range(20):
        file.write(bytes(10**7))
    os.fsync(file.fileno())
print(before, available_memory())
"""


@pytest.fixture
def group() -> Iterator[str]:
    """A group without a limit below a new one of 300 MB; where this process may make them."""
    roots = (("/sys/fs/cgroup/memory", "limit_in_bytes"), ("/sys/fs/cgroup", "max"))
    root, limit = next((r for r in roots if os.path.exists(f"{r[0]}/cgroup.procs")), roots[1])
    outer = f"{root}/mosaic_collect_{os.getpid()}"
    try:
        os.mkdir(outer)
        if limit == "max":
            with open(f"{outer}/cgroup.subtree_control", "w") as file:
                file.write("+memory")
        with open(f"{outer}/memory.{limit}", "w") as file:
            file.write(str(300 * MB))
        os.mkdir(f"{outer}/inner")
    except OSError as error:
        pytest.skip(f"no control group of memory can be made: {error}")
    yield f"{outer}/inner"
    os.rmdir(f"{outer}/inner")
    os.rmdir(outer)


def test_a_control_group_of_this_machine(group: str, tmp_path: Path) -> None:
    """Page cache of 200 MB, which a recording fills, is not taken for used."""
    done = run_python(IN_GROUP, group, str(tmp_path / "file"))
    assert done.returncode == 0, done.stderr
    before, after = (int(n) for n in done.stdout.split())
    assert 200 * MB < before < 300 * MB
    assert abs(after - before) < 40 * MB
