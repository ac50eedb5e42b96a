"""Which slots of the ring are free.

    unfilled ── fill_one ──▶ free ── hold ──▶ held by a job ── release ──▶ free

The caller's thread may be interrupted anywhere, so a step is one operation of a list, and may be
done twice.
"""

from __future__ import annotations

from mosaic_collect.recording.job import Job
from mosaic_collect.recording.ring.block import Block


class Slots:
    """The ring's slots.

    Args:
        blocks: Those that are free; those of them that are not filled are when they are needed.
        count: Of all slots of the ring.
    """

    def __init__(self, blocks: list[Block], count: int) -> None:
        self._free = [block for block in blocks if block.filled]
        self._unfilled = [block for block in blocks if not block.filled]
        # Per slot, the job that will free it: of jobs queued twice, the later one.
        self._holders: list[Job | None] = [None] * count

    @property
    def has_free(self) -> bool:
        """Whether ``first`` has one to give."""
        return bool(self._free)

    @property
    def has_unfilled(self) -> bool:
        """Whether one is to be filled yet."""
        return bool(self._unfilled)

    def first(self) -> Block:
        """A free slot, which stays so until a job holds it."""
        return self._free[-1]

    def hold(self, job: Job, block: Block) -> None:
        """The slot of the job's block is free when the job is done, and not before."""
        self._holders[block.slot] = job
        if block in self._free:
            self._free.remove(block)

    def release(self, job: Job) -> None:
        """Its slot is free, unless a later job is to free it or it is free already."""
        block = job.block
        if block is None or self._holders[block.slot] is not job or block in self._free:
            return
        self._free.append(block)

    def fill_one(self) -> bool:
        """Fill a slot, if one is left to be filled; several threads may do so.

        Returns:
            Whether one became free.
        """
        try:
            block = self._unfilled.pop()
        except IndexError:  # asked for once too often, or another thread was faster
            return False
        block.fill()
        self._free.append(block)
        return True

    def forget(self) -> None:
        """Give the memory back."""
        self._free.clear()
        self._unfilled.clear()
        self._holders = [None] * len(self._holders)
