"""How many steps make a block, and how many blocks make the ring, within a memory bound."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
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
_AUTO_SHARE = 0.1
_DEVICE_BLOCKS = 2


class Budget(NamedTuple):
    """What a ring may take.

    Attributes:
        nbytes: Of the whole host ring.
        automatic: Whether nobody asked for that much: blocks need not be longer than is useful.
        device_nbytes: That staging may take on the GPU, where two blocks must fit; None on the CPU.
    """

    nbytes: int
    automatic: bool = False
    device_nbytes: int | None = None

    @classmethod
    def of(cls, buffer_mb: Any, device_nbytes: int | None = None) -> Budget:
        """What the caller asks for; free memory is looked at here, once.

        Args:
            buffer_mb: In 10^6 bytes, or "auto": a tenth of the memory that is free.
            device_nbytes: As the attribute.

        Raises:
            InputError: Neither "auto" nor a positive number.
        """
        asked = asked_nbytes(buffer_mb)
        nbytes = int(available_memory() * _AUTO_SHARE) if asked is None else asked
        return cls(nbytes, asked is None, device_nbytes)


def asked_nbytes(buffer_mb: Any) -> int | None:
    """The bound that the caller names, in bytes; None for "auto".

    Raises:
        InputError: Neither "auto" nor a positive number.
    """
    if isinstance(buffer_mb, str) and buffer_mb == "auto":
        return None
    number = isinstance(buffer_mb, Real) and not isinstance(buffer_mb, bool)
    if not number or not 0 < float(buffer_mb) < 1e9:
        raise InputError(f'buffer_mb: expected "auto" or a positive number, got {buffer_mb!r}')
    return int(float(buffer_mb) * MB)


@dataclass(frozen=True)
class RingPlan:
    """``slots`` buffers of ``block_steps`` steps each, cut by ``grids``."""

    block_steps: int
    slots: int
    grids: Mapping[str, FieldGrid]


def plan_ring(schema: Schema, num_envs: int, budget: Budget) -> RingPlan:
    """Plan a new store's ring.

    Raises:
        SpaceError: Not even one block of one step fits.
    """
    steps = even_steps(schema.fields, plan_steps(schema.pair_nbytes * num_envs, budget))
    grids = _grids(schema, num_envs, steps)
    slots = slots_for(budget.nbytes, steps * schema.pair_nbytes * num_envs)
    # Padding to whole chunks may add a little to each block: take it out of the steps.
    while steps > 1 and slots * block_nbytes(grids) > budget.nbytes:
        steps = even_steps(schema.fields, steps - 1)
        grids = _grids(schema, num_envs, steps)
    return RingPlan(steps, slots_for(budget.nbytes, block_nbytes(grids)), grids)


def plan_steps(step_nbytes: int, budget: Budget) -> int:
    """Steps of a block: the most that fit, or a useful number where nobody asked for more.

    Args:
        step_nbytes: Raw bytes of one vectorised step, all environments and fields.
        budget: Of the ring.

    Raises:
        SpaceError: Not even one step fits on the GPU.
    """
    steps = min(budget.nbytes // (SLOTS * step_nbytes), _MOST_STEPS)
    if budget.automatic:
        steps = min(steps, max(_AUTO_STEPS, _AUTO_BLOCK_NBYTES // step_nbytes))
    if budget.device_nbytes is not None:
        steps = min(steps, budget.device_nbytes // (_DEVICE_BLOCKS * step_nbytes))
        if steps < 1 <= budget.nbytes // step_nbytes:
            need = _DEVICE_BLOCKS * step_nbytes
            raise _too_small("GPU memory free for staging", budget.device_nbytes, need)
    return max(int(steps), 1)


def slots_for(budget: int, nbytes: int) -> int:
    """How many blocks of a given size the ring can have, at most ``SLOTS``.

    Raises:
        SpaceError: None; the message says what one takes.
    """
    if nbytes > budget:
        raise _too_small("buffer_mb", budget, nbytes)
    return min(SLOTS, budget // nbytes)


def block_nbytes(grids: Mapping[str, FieldGrid]) -> int:
    """Of one block in memory, padding included."""
    return sum(grid.shard_nbytes for grid in grids.values())


def available_memory() -> int:
    """Bytes this process may still take: the machine's, or its control group's if that is less."""
    found = [_meminfo_available()]
    limit, used = _number("/sys/fs/cgroup/memory.max"), _number("/sys/fs/cgroup/memory.current")
    if limit is not None and used is not None:
        found.append(max(limit - used, 0))
    return min(found)


def _grids(schema: Schema, num_envs: int, steps: int) -> dict[str, FieldGrid]:
    return {f.name: FieldGrid.plan(f, num_envs, steps) for f in schema.stored}


def _meminfo_available() -> int:
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    # Systems without /proc: half of what is built in is a fair guess at what is free.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _number(path: str) -> int | None:
    try:
        with open(path) as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def _too_small(what: str, have: int, need: int) -> SpaceError:
    return SpaceError(
        f"{what}: expected at least {need / MB:.1f} MB, the size of one block, "
        f"got {have / MB:.1f} MB"
    )
