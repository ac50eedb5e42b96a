"""What a writer has handed over to be committed, and what it must wait for before it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from mosaic_collect.recording.account import Trajectories
from mosaic_collect.recording.job import Job
from mosaic_collect.recording.pipeline import Pipeline
from mosaic_collect.recording.ring.block import Block
from mosaic_collect.recording.ring.staging import Staging
from mosaic_collect.store.metadata import StoreState


class Commits:
    """Commits of one writer, in order.

    Args:
        pipeline: Does them.
        staging: Of the blocks.
        state: As committed.
        seconds: Between two timed ones; None: there are none.

    Attributes:
        shown: The account that the current block shows; None if that is not known.
        stalled: Seconds waited.
    """

    def __init__(
        self, pipeline: Pipeline, staging: Staging, state: StoreState, seconds: float | None
    ) -> None:
        self._pipeline, self._staging, self._seconds = pipeline, staging, seconds
        self._published = state
        self._last: Job | None = None
        self._last_shards: Job | None = None  # the last one that writes a block
        self._at = time.monotonic()
        self.shown: Trajectories | None = None
        self.stalled = 0.0

    @property
    def due(self) -> bool:
        """Whether it is time for the next one."""
        return self._seconds is not None and time.monotonic() - self._at >= self._seconds

    def hand_over(self, state: StoreState, block: Block, release: bool = True) -> None:
        """Commit what is staged in the block; when released, its slot is free afterwards."""
        self._staging.seal(block)
        self.submit(Job(state, block, release))

    def commit(self, state: StoreState, block: Block | None, release: bool) -> None:
        """Commit what is new in the state, if anything is."""
        before = self._published
        if state == before:
            return
        same_rows = state.committed_steps == before.committed_steps
        same_ends = state.num_trajectories == before.num_trajectories
        if block is None or not block.count or (same_rows and same_ends):
            self.submit(Job(state))
        else:
            self.hand_over(state, block, release)

    def submit(self, job: Job) -> None:
        """Queue it."""
        self._at = time.monotonic()
        if job.block is not None:
            before = self._last_shards
            if before is not None and before.block is job.block:
                # Its shards must have their names before they are written anew.
                self.timed(self._pipeline.wait, before)
            # Known before it is queued: from then on the block must not change until it is
            # written, and then it has lost what stood behind its rows.
            self.shown = None
            self._last_shards = job
        self._last = job
        self._pipeline.submit(job)
        self._published = job.state

    def settle(self, block: Block | None) -> None:
        """Wait until the block is not being read: bytes must not change under a codec."""
        self._pipeline.check()
        job = self._last_shards
        if job is not None and job.block is block and not job.written:
            self.timed(self._pipeline.wait_written, job)

    def settle_all(self, block: Block | None) -> None:
        """Wait until all is committed."""
        self.settle(block)
        if self._last is not None:
            self._pipeline.wait(self._last)

    def timed(self, wait: Callable[..., Any], *args: Any) -> Any:
        """Wait, and count it."""
        start = time.monotonic()
        found = wait(*args)
        self.stalled += time.monotonic() - start
        return found

    def forget(self) -> None:
        """Give back the blocks that jobs hold."""
        self._last = self._last_shards = None
