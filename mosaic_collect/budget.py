"""How many steps make a block, and how many blocks make the ring, within a memory bound."""

from __future__ import annotations

import os
from dataclasses import dataclass

from mosaic_collect.errors import InputError, SpaceError

MB = 1_000_000
#: One block fills, one is encoded, one is committed: none waits for another.
SLOTS = 3
_AUTO_STEPS = 64  # long enough for a history of 5 to compress by 4.7 of its bound of 5
_AUTO_BLOCK_NBYTES = 8 * MB  # below this, files and commits cost more than their bytes
_MOST_STEPS = 1024
_AUTO_SHARE = 0.1
_DEVICE_BLOCKS = 2


@dataclass(frozen=True)
class RingPlan:
    """``slots`` buffers of ``block_steps`` steps each."""

    block_steps: int
    slots: int


def plan_ring(step_nbytes: int, buffer_mb: float | str, device_nbytes: int | None) -> RingPlan:
    """Plan a new store's ring.

    Args:
        step_nbytes: Raw bytes of one vectorised step, all environments and fields.
        buffer_mb: Bound of the whole host ring in 10^6 bytes, or "auto": 64 steps a block, more
            where steps are small, inside a tenth of the memory that is free.
        device_nbytes: Bytes that staging may take on the GPU, where two blocks must fit; None on
            the CPU.

    Raises:
        InputError: ``buffer_mb`` is no positive number.
        SpaceError: Not even one block of one step fits.
    """
    budget = ring_nbytes(buffer_mb)
    steps = min(budget // (SLOTS * step_nbytes), _MOST_STEPS)
    if buffer_mb == "auto":
        steps = min(steps, max(_AUTO_STEPS, _AUTO_BLOCK_NBYTES // step_nbytes))
    if device_nbytes is not None:
        steps = min(steps, device_nbytes // (_DEVICE_BLOCKS * step_nbytes))
        if steps < 1 <= budget // step_nbytes:
            raise SpaceError(
                _too_small(
                    "GPU memory free for staging", device_nbytes, _DEVICE_BLOCKS * step_nbytes
                )
            )
    return RingPlan(max(int(steps), 1), slots_for(budget, max(int(steps), 1) * step_nbytes))


def slots_for(budget: int, block_nbytes: int) -> int:
    """How many blocks of a given size the ring can have, at most ``SLOTS``.

    Raises:
        SpaceError: None; the message says what one takes.
    """
    if block_nbytes > budget:
        raise SpaceError(_too_small("buffer_mb", budget, block_nbytes))
    return min(SLOTS, budget // block_nbytes)


def ring_nbytes(buffer_mb: float | str) -> int:
    """The bound of the host ring in bytes.

    Raises:
        InputError: Neither "auto" nor a positive number.
    """
    if buffer_mb == "auto":
        return int(available_memory() * _AUTO_SHARE)
    number = isinstance(buffer_mb, (int, float)) and not isinstance(buffer_mb, bool)
    if not number or not 0 < float(buffer_mb) < 1e9:
        raise InputError(f'buffer_mb: expected "auto" or a positive number, got {buffer_mb!r}')
    return int(float(buffer_mb) * MB)


def available_memory() -> int:
    """Bytes this process may still take: the machine's, or its control group's if that is less."""
    found = [_meminfo_available()]
    limit, used = _number("/sys/fs/cgroup/memory.max"), _number("/sys/fs/cgroup/memory.current")
    if limit is not None and used is not None:
        found.append(max(limit - used, 0))
    return min(found)


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


def _too_small(what: str, have: int, need: int) -> str:
    return (
        f"{what}: expected at least {need / MB:.1f} MB, the size of one block, "
        f"got {have / MB:.1f} MB"
    )
