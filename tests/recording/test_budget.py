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


@pytest.mark.parametrize(
    ("step_nbytes", "buffer_mb", "free_mb", "device_mb", "want"),
    [
        pytest.param(10_000, 3, None, None, (100, 3), id="three blocks share a number"),
        pytest.param(MB, 2.5, None, None, (1, 2), id="fewer slots of one step"),
        pytest.param(MB, 1.5, None, None, (1, 1), id="one slot of one step"),
        pytest.param(MB, "auto", 10_000, None, (64, 3), id="auto aims at 64 steps"),
        pytest.param(20_000, "auto", 10_000, None, (400, 3), id="auto: more steps if small"),
        pytest.param(1_000, "auto", 10_000, None, (1024, 3), id="auto: and not longer than useful"),
        pytest.param(MB, "auto", 1_000, None, (33, 3), id="auto takes a tenth of what is free"),
        pytest.param(2 * MB, "auto", 10, None, (1, 1), id="auto: or all, where that is too little"),
        pytest.param(2 * MB, "auto", 10, 4, (1, 1), id="auto: beside a device"),
        pytest.param(MB, 300, None, 200, (10, 3), id="the device bounds a block, too"),
    ],
)
def test_steps_of_a_block_and_slots(
    monkeypatch: pytest.MonkeyPatch,
    step_nbytes: int,
    buffer_mb: Any,
    free_mb: int | None,
    device_mb: int | None,
    want: tuple[int, int],
) -> None:
    if free_mb is not None:
        monkeypatch.setattr(budget, "available_memory", lambda: free_mb * MB)
    device_nbytes = None if device_mb is None else device_mb * MB
    assert plan_ring(step_nbytes, buffer_mb, device_nbytes) == want


@pytest.mark.parametrize(
    ("step_nbytes", "buffer_mb", "device_nbytes", "words"),
    [
        (2 * MB, 1, None, r"buffer_mb: expected at least 2\.0 MB.*got 1\.0 MB"),
        (MB, 300, MB, r"free GPU memory: expected at least 2\.0 MB.*got 1\.0 MB"),
    ],
)
def test_no_space_is_told_with_the_size(
    step_nbytes: int, buffer_mb: int, device_nbytes: int | None, words: str
) -> None:
    with pytest.raises(SpaceError, match=words):
        plan_ring(step_nbytes, buffer_mb, device_nbytes)


def test_memory_is_looked_at_once(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More of it a moment later would make blocks of which the ring holds but one."""
    free = iter([1_000 * MB, 2_600 * MB, 2_600 * MB, 2_600 * MB])
    monkeypatch.setattr(budget, "available_memory", lambda: next(free))
    schema = Schema.mosaic(154, 29, 770)
    with TrajectoryWriter(store, schema, 256, encode_in="threads") as writer:
        step_nbytes = 256 * schema.pair_nbytes
        assert 3 * writer.block_steps * step_nbytes <= writer.ring_nbytes <= 100 * MB


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


def v2(folder: str, limit: object, used: int, **files: object) -> dict[str, str]:
    """The files of a group of version 2."""
    told = {"max": limit, "current": used * GIB, **files}
    return {f"{V2}{folder}/memory.{name}": f"{text}\n" for name, text in told.items()}


def v1(folder: str, limit: object, used: int, **files: object) -> dict[str, str]:
    """The files of a group of version 1."""
    told = {"limit_in_bytes": limit, "usage_in_bytes": used * GIB, **files}
    return {f"{V1}{folder}/memory.{name}": f"{text}\n" for name, text in told.items()}


def stat(**gib: int) -> str:
    return "\n".join(f"{name} {number * GIB}" for name, number in gib.items())


#: The process's groups, their files, and the GiB that are left: 16 where no group says less.
GROUPS: dict[str, tuple[str | None, dict[str, str], int]] = {
    "no groups": (None, {}, 16),
    "version 2, a container's own root": ("0::/", v2("", 8 * GIB, 3), 5),
    "version 2, unlimited": ("0::/user.slice", v2("/user.slice", "max", 3, high="max"), 16),
    "version 2, a limit of the group above": (
        "0::/job_7/step_0",
        {**v2("/job_7/step_0", "max", 1), **v2("/job_7", 4 * GIB, 2)},
        2,
    ),
    "version 2, from a lower mark on it is slowed down": (
        "0::/job",
        v2("/job", "max", 1, high=4 * GIB),
        3,
    ),
    "version 2, page cache and what the kernel gives back": (
        "0::/",
        v2(
            *("", 8 * GIB, 8),
            stat=stat(anon=1, file=6, inactive_file=3, active_file=2, slab_reclaimable=1),
        ),
        6,
    ),
    "version 1": (
        "7:cpu,cpuacct:/elsewhere\n4:memory:/job/step\n1:name=a:b:/c",
        {
            **v1("", UNLIMITED_V1, 9),
            **v1(
                *("/job", 6 * GIB, 5),
                stat=stat(inactive_file=0, total_inactive_file=1, total_active_file=1),
            ),
            **v1("/job/step", UNLIMITED_V1, 1),
        },
        3,
    ),
    "version 1, a container that sees the host's path": (
        "4:memory:/docker/0123",
        v1("", 2 * GIB, 1),
        1,
    ),
    "more in use than the limit": ("0::/", v2("", GIB, 2), 0),
}


@pytest.mark.parametrize("name", GROUPS)
def test_available_memory_heeds_the_control_groups(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups, files, left = GROUPS[name]
    files = {**files, "/proc/meminfo": f"MemTotal: 1 kB\nMemAvailable: {16 * GIB // 1024} kB\n"}
    if groups is not None:
        files["/proc/self/cgroup"] = f"{groups}\n"

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
