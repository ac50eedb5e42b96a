"""From a staged block to a committed one, in two threads and a pool.

    submit ──▶ encoder thread ──shard files──▶ committer thread ──▶ done, slot free
                 │     ▲                         sync, rename, root document
                 ▼     │ in order
               pool: compress + checksum, one chunk a task, no GIL

While one block is being synced the next is encoded. The first failure stops everything: it is
kept, raised to whoever waits, and nothing is written after it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from queue import Queue
from typing import Any

from mosaic_collect.commit import ShardFile, StoreFolder
from mosaic_collect.encoder import BlockEncoder
from mosaic_collect.errors import WriteError
from mosaic_collect.grid import FieldGrid
from mosaic_collect.metadata import StoreState
from mosaic_collect.shard import write_chunks
from mosaic_collect.staging import Block
from mosaic_collect.stats import Counts
from mosaic_collect.workers import WorkerPool

_log = logging.getLogger(__name__)
_REPORT_SECONDS = 30.0


@dataclass
class Job:
    """One commit.

    Attributes:
        state: What is true after it, but for the counts, which the encoder fills in.
        block: The block to write; None if only the state changed.
        count: Staged steps of the block.
        release: Whether the slot is free afterwards.
        done: Set when committed.
    """

    state: StoreState
    block: Block | None = None
    count: int = 0
    release: bool = True
    done: bool = False
    counts: Counts = field(default_factory=lambda: Counts(0, {}))


class Pipeline:
    """Owns the threads between the ring and the disk.

    Args:
        folder: The store's files.
        state: As committed; counts of full blocks are carried on from it.
        grids: All stored fields' cuttings.
        blocks: The ring's slots, all free.
        threads: Of the compressing pool.
        partial: Counts of the committed rows of the last, partial block, if there is one.
    """

    def __init__(
        self,
        folder: StoreFolder,
        state: StoreState,
        grids: Mapping[str, FieldGrid],
        blocks: list[Block],
        threads: int,
        partial: Counts,
    ) -> None:
        self._folder, self._grids = folder, grids
        self._codec = state.compressor.encoder()
        # Without the partial block, which will be encoded again with more rows.
        self._full = Counts(state.num_valid, state.nonfinite) - partial
        self._partial = partial
        self._encoded_steps = self.committed_steps = state.committed_steps
        self._free = list(blocks)
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._stage = "nothing"
        self.stored_nbytes = 0
        self._jobs: Queue[Job | None] = Queue()
        self._to_commit: Queue[ShardFile | Job | None] = Queue(maxsize=2 * len(grids))
        self._pool = WorkerPool(threads, "mosaic-compress")
        self._threads = [self._start(self._encode_all), self._start(self._commit_all)]

    def acquire(self) -> Block:
        """A free slot; waits for one.

        Raises:
            WriteError: Writing failed.
        """
        self._wait(lambda: bool(self._free), "a free block of the ring")
        with self._changed:
            return self._free.pop()

    def submit(self, job: Job) -> Job:
        """Queue a commit; jobs are done in order."""
        self._jobs.put(job)
        return job

    def wait(self, job: Job) -> None:
        """Return when the job is committed.

        Raises:
            WriteError: Writing failed; what was committed before stays.
        """
        self._wait(lambda: job.done, "a commit")

    def check(self) -> None:
        """Raise the failure, if there is one.

        Raises:
            WriteError: Chained to its cause.
        """
        failure = self._failure
        if failure is not None:
            message = f"writing failed: {failure}; the first {self.committed_steps} steps are safe"
            error = WriteError(f"{message}; mend the cause and go on with resume=True")
            error.errno = getattr(failure, "errno", None)
            error.filename = getattr(failure, "filename", None)
            raise error from failure

    def close(self) -> None:
        """End the threads; what was not committed by then is left."""
        self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._pool.close()

    def _wait(self, ready: Callable[[], bool], what: str) -> None:
        start = time.monotonic()
        with self._changed:
            while not ready():
                self.check()
                if not self._changed.wait(_REPORT_SECONDS):
                    seconds = time.monotonic() - start
                    _log.warning(
                        "waiting for %s since %.0f s; at work: %s", what, seconds, self._stage
                    )

    def _start(self, target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(
            target=self._guarded, args=(target,), daemon=True, name=f"mosaic{target.__name__}"
        )
        thread.start()
        return thread

    def _guarded(self, target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:  # noqa: BLE001  raised again at the caller's next call
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    # -- encoder thread --------------------------------------------------------------------------

    def _encode_all(self) -> None:
        try:
            while (job := self._jobs.get()) is not None and self._failure is None:
                # A job is there twice if an interrupt fell between its queueing and its
                # bookkeeping; its rows are written already.
                if job.block is not None and job.state.committed_steps > self._encoded_steps:
                    self._encode(job, job.block)
                job.counts = self._full + self._partial
                self._to_commit.put(job)
        finally:
            self._to_commit.put(None)

    def _encode(self, job: Job, block: Block) -> None:
        self._stage = f"the copy of block {block.index} to the host"
        block.wait_ready()
        if job.count < job.state.block_steps:
            block.clear_tail(job.count)
        encoder = BlockEncoder(self._codec, block, job.count, self._grids)
        results = self._pool.map_ahead(encoder.encode, encoder.tasks())
        for name, grid in self._grids.items():
            self._stage = f"encoding block {block.index} of {name}"
            shard = self._folder.shard(job.state, name, block.index)
            self._write(shard, encoder.collect(results, grid))
        self._encoded_steps = job.state.committed_steps
        self._count(encoder.counts(), job.release)

    def _write(self, shard: ShardFile, encoded: Iterator[tuple[Any, bytes]]) -> None:
        try:
            write_chunks(encoded, shard.write)
        except BaseException:
            shard.abandon()
            raise
        self._to_commit.put(shard)

    def _count(self, counts: Counts, final: bool) -> None:
        self._partial = Counts.zero(counts.nonfinite) if final else counts
        if final:
            self._full = self._full + counts

    # -- committer thread ------------------------------------------------------------------------

    def _commit_all(self) -> None:
        with_shards = False
        while (item := self._to_commit.get()) is not None:
            try:
                if self._failure is not None:
                    _discard(item)
                elif isinstance(item, ShardFile):
                    self._finish(item)
                    with_shards = True
                else:
                    self._commit(item, with_shards)
                    with_shards = False
            except BaseException as error:  # noqa: BLE001  raised again at the caller's next call
                self._fail(error)

    def _finish(self, shard: ShardFile) -> None:
        self._stage = f"syncing {shard.path}"
        shard.finish()
        self.stored_nbytes += shard.nbytes

    def _commit(self, job: Job, with_shards: bool) -> None:
        self._stage = f"committing step {job.state.committed_steps}"
        counts = job.counts
        state = replace(job.state, num_valid=counts.num_valid, nonfinite=dict(counts.nonfinite))
        self._folder.publish(state, with_shards)
        with self._changed:
            self.committed_steps = state.committed_steps
            self._stage = "nothing"
            job.done = True
            if job.block is not None and job.release and job.block not in self._free:
                self._free.append(job.block)
            self._changed.notify_all()


def _discard(item: ShardFile | Job) -> None:
    if isinstance(item, ShardFile):
        item.abandon()
