"""How many steps make a block, and how many blocks make the ring, within a memory bound."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from numbers import Real
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from mosaic_collect.errors import InputError, SpaceError
from mosaic_collect.store.grid import FieldGrid, even_steps
from mosaic_collect.store.schema import Schema

MB = 1_000_000
#: One block fills, one is encoded, one is committed: none waits for another.
SLOTS = 3
_AUTO_STEPS = 64  # long enough for a history of 5 to compress by 4.7 of its bound of 5
_AUTO_BLOCK_NBYTES = 8 * MB  # below this, files and commits cost more than their bytes
_MOST_STEPS = 1024
_AUTO_SHARE = _DEVICE_SHARE = 0.1
_DEVICE_BLOCKS = 2


class Budget(NamedTuple):
    """Memory that a ring may take.

    Attributes:
        nbytes: Bound of the host ring, in bytes.
        free_nbytes: Free memory, if the bound was derived from it: blocks are then not longer than
            useful, and a block that fits into free memory is never refused. None: the caller chose
            the bound.
        device_nbytes: Free GPU memory, of which staging takes a tenth. None: no GPU.
    """

    nbytes: int
    free_nbytes: int | None = None
    device_nbytes: int | None = None

    @classmethod
    def of(cls, asked: int | None, device_nbytes: int | None = None) -> Budget:
        """The budget of a requested bound; None: free memory is measured now, once."""
        if asked is not None:
            return cls(asked, None, device_nbytes)
        free = available_memory()
        return cls(int(free * _AUTO_SHARE), free, device_nbytes)

    def slots(self, block_nbytes: int) -> int:
        """Return how many blocks of a given size the ring has, at most ``SLOTS``.

        Raises:
            SpaceError: Not even one block fits; the message contains its size.
        """
        if self.free_nbytes is None and block_nbytes > self.nbytes:
            raise _too_small("buffer_mb", self.nbytes, block_nbytes)
        if self.free_nbytes is not None and block_nbytes > self.free_nbytes:
            raise _too_small("free memory", self.free_nbytes, block_nbytes)
        return min(SLOTS, max(self.nbytes // block_nbytes, 1))


def asked_nbytes(buffer_mb: Any) -> int | None:
    """The bound that the caller names, in bytes; None for "auto"."""
    if isinstance(buffer_mb, str) and buffer_mb == "auto":
        return None
    number = isinstance(buffer_mb, Real) and not isinstance(buffer_mb, bool)
    if not number or not 0 < float(buffer_mb) < 1e9:
        raise InputError(f'buffer_mb: expected "auto" or a positive number, got {buffer_mb!r}')
    return int(float(buffer_mb) * MB)


def plan_ring(schema: Schema, num_envs: int, budget: Budget) -> dict[str, FieldGrid]:
    """Plan the cuttings of all fields of a new store: as long as fits, or is useful with "auto".

    Raises:
        SpaceError: Not even one block of one step fits, or two on the GPU.
    """
    step_nbytes = schema.pair_nbytes * num_envs
    most = min(budget.nbytes // (SLOTS * step_nbytes), _MOST_STEPS)
    if budget.free_nbytes is not None:
        most = min(most, max(_AUTO_STEPS, _AUTO_BLOCK_NBYTES // step_nbytes))
    if budget.device_nbytes is not None:
        need = _DEVICE_BLOCKS * step_nbytes
        if budget.device_nbytes < need:
            raise _too_small("free GPU memory", budget.device_nbytes, need)
        most = min(most, int(budget.device_nbytes * _DEVICE_SHARE) // need)
    steps = even_steps(schema.fields, max(most, 1))
    slots = budget.slots(steps * step_nbytes)
    while True:
        grids = {f.name: FieldGrid.plan(f, num_envs, steps) for f in schema.stored}
        # Padding to whole chunks may add a little to each block: take it out of the steps.
        if steps == 1 or slots * block_nbytes(grids) <= budget.nbytes:
            return grids
        steps = even_steps(schema.fields, steps - 1)


def block_nbytes(grids: Mapping[str, FieldGrid]) -> int:
    """Of one block in memory, padding included."""
    return sum(grid.shard_nbytes for grid in grids.values())


def available_memory() -> int:
    """Return the bytes that this process can still allocate.

    It is the least of the machine's available memory and what each control group of this process
    and each group above it has left. Page cache counts as available: the kernel frees it on demand.
    """
    return max(min([_meminfo_available(), *_left_in_groups()]), 0)


def _meminfo_available() -> int:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    # Systems without /proc: half of what is built in is a fair guess at what is free.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


# The files of each version of control groups: root folder, limits, memory used, reclaimable memory.
# Linux: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst. Memory above "high" is
# taken back by slowing the process down.
_Files = tuple[str, tuple[str, ...], str, tuple[str, ...]]
_V1: _Files = (
    "/sys/fs/cgroup/memory",
    ("memory.limit_in_bytes",),
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
)
_V2: _Files = (
    "/sys/fs/cgroup",
    ("memory.max", "memory.high"),
    "memory.current",
    ("inactive_file", "active_file", "slab_reclaimable"),
)


def _left_in_groups() -> Iterator[int]:
    """Yield what each limited group has left, from this process's own groups up to the root.

    In a container the path may be the host's, of which only the last group is mounted, as the root.
    """
    for line in _lines("/proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if number != "0" and "memory" not in controllers.split(","):
            continue
        root, limits, used, reclaimable = _V2 if number == "0" else _V1
        for group in (PurePosixPath(path), *PurePosixPath(path).parents):
            folder = f"{root}{group}".rstrip("/")
            in_use = _number(f"{folder}/{used}")
            known = [n for name in limits if (n := _number(f"{folder}/{name}")) is not None]
            if in_use is None or not known:
                continue
            counts = dict(line.split() for line in _lines(f"{folder}/memory.stat"))
            cache = sum(int(counts.get(name, 0)) for name in reclaimable)
            yield min(known) - max(in_use - cache, 0)


def _lines(path: str) -> list[str]:
    try:
        with open(path) as file:
            return file.read().splitlines()
    except OSError:
        return []


def _number(path: str) -> int | None:
    """Read a number; None for "max", or where there is no such file."""
    text = "".join(_lines(path))
    return int(text) if text.isdigit() else None


def _too_small(what: str, have: int, need: int) -> SpaceError:
    return SpaceError(
        f"{what}: expected at least {need / MB:.1f} MB, the size of one block, "
        f"got {have / MB:.1f} MB"
    )
