"""From a staged block to a committed one, in two threads and a pool.

    submit ──▶ encoder thread ──shards──▶ committer thread ──▶ done, slot free
                 │     ▲                    finish, settle, root document
                 ▼     │ in order
               pool: compress + checksum, one chunk a task, no GIL

While one block is being synced the next is encoded. The first failure stops everything: it is
kept, raised to whoever waits, and nothing is written after it. Above all no sync that failed is
tried again: the system may have dropped the pages that it could not write, and say yes the second
time.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from queue import Queue, SimpleQueue

from mosaic_collect.errors import SpaceError
from mosaic_collect.recording import shard_writer
from mosaic_collect.recording.bell import Bell
from mosaic_collect.recording.encoding.process import start_encoding
from mosaic_collect.recording.encoding.threads import Encoding
from mosaic_collect.recording.job import Job
from mosaic_collect.recording.opening import OpenStore
from mosaic_collect.recording.ring.block import Block
from mosaic_collect.recording.shard_writer import ShardWriter
from mosaic_collect.recording.slots import Slots
from mosaic_collect.store.blobs import Pending
from mosaic_collect.store.workers import WorkerPool

_COMMITTER = "committer"


class Pipeline:
    """Owns the threads between the ring and the disk.

    Args:
        opened: The store, whose claim is released when nothing will be written any more.
        threads: That compress.
    """

    def __init__(self, opened: OpenStore, threads: int) -> None:
        self._opened, self._threads = opened, threads
        self._store, store, state = opened.store, opened.store, opened.state
        self._slots = Slots(opened.free, opened.slots)
        self._pool = WorkerPool(threads, "mosaic-compress")
        self._encoding: Encoding | None = None
        self._bell = Bell(state.committed_steps, store.explained)
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        # Room for one block's shards, and the job behind them, while the next block's are written.
        shards = 2 * len(state.schema.stored)
        self._to_commit: Queue[Pending | Job | None] = Queue(maxsize=shards)
        counts, hand_on = opened.partial_counts, self._to_commit.put
        self._shards = ShardWriter(store, state, counts, self._bell, hand_on)
        self.stored_nbytes = 0

    @property
    def committed_steps(self) -> int:
        """Of the store, as last committed."""
        return self._bell.committed_steps

    def start(self) -> None:
        """Start the threads; whatever becomes of that, ``close`` ends those that began.

        Raises:
            WriteError: They failed at once.
        """
        self._pool.begin()
        loops = (("mosaic_encode", self._encode_all), ("mosaic_commit", self._commit_all))
        for name, target in loops:
            self._bell.threads.append(self._start(name, target))
        if not self._slots.has_free:
            # The block at hand was loaded, so nobody asked for the next one yet.
            self._fill_next()
        # A fork of this process meanwhile would inherit what tells its start's end.
        self._bell.wait(lambda: self._encoding is not None, "the start of the encoding process")

    def free_block(self) -> Block:
        """A free slot; waits for one. It stays free until a job that releases it is submitted.

        Raises:
            WriteError: Writing failed.
        """
        # The one to be needed next: its pages are made while this one is used.
        self._fill_next()
        self._bell.wait(lambda: self._slots.has_free, "a free block of the ring")
        return self._slots.first()

    def submit(self, job: Job) -> None:
        """Queue a commit; jobs are done in order. A job that is queued already is left alone.

        After an interrupt a job may be there twice, one behind the other; that does no harm.
        """
        if job.queued:
            return
        if job.release and job.block is not None:
            self._slots.hold(job, job.block)
        self._jobs.put(job)
        job.queued = True

    def wait(self, job: Job) -> None:
        """Return when the job is committed; if an interrupt kept it from the queue, queue it first.

        Raises:
            WriteError: Writing failed; what was committed before stays.
        """
        self.submit(job)
        self._bell.wait(lambda: job.done, "a commit")

    def wait_written(self, job: Job) -> None:
        """The same, but only until nobody reads the job's block any more.

        Raises:
            WriteError: Writing failed; what was committed before stays.
        """
        self.submit(job)
        self._bell.wait(lambda: job.written, "a block to be written")

    def check(self) -> None:
        """Raise the failure, if there is one.

        Raises:
            WriteError: Chained to its cause.
        """
        self._bell.check()

    def close(self, patience: float | None = None) -> bool:
        """End the threads once they have done what they are at; what is not committed is left.

        Args:
            patience: Seconds to wait for that; None: however long it takes.

        Returns:
            Whether they ended. If not, they still will when what they wait for lets them.
        """
        self._bell.stopped = True
        self._jobs.put(None)
        if not self._bell.threads:
            self._pool.shutdown(wait=False)
        end = None if patience is None else time.monotonic() + patience
        for thread in self._bell.threads:
            left = None if end is None else max(end - time.monotonic(), 0.0)
            if not self._bell.join(thread, left):
                return False
        self._slots.forget()
        return True

    def _start(self, name: str, target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=self._guarded, args=(target,), daemon=True, name=name)
        try:
            thread.start()
        except RuntimeError as error:
            where = self._store.blobs.address
            words = f"{where}: a thread cannot be started ({error}); the limit of processes or of "
            raise SpaceError.because(words + "memory is reached", error) from error
        return thread

    def _guarded(self, target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:  # noqa: BLE001  raised again at the caller's next call
            self._bell.fail(error)

    def _fill_next(self) -> None:
        if self._slots.has_unfilled:
            # Shut down where writing failed just now: whoever waits for the block is told.
            with contextlib.suppress(RuntimeError):
                self._pool.submit(self._guarded, self._fill_one)

    def _fill_one(self) -> None:
        if not self._bell.stopped and self._slots.fill_one():
            self._bell.ring()

    def _encode_all(self) -> None:
        opened = self._opened
        try:
            self._encoding = start_encoding(opened.ring, opened.state, self._threads, self._pool)
            self._bell.ring()
            while (job := self._jobs.get()) is not None and not self._bell.stopped:
                self._shards.write(job, self._encoding)
                job.written = True
                self._bell.ring()
                self._to_commit.put(job)
                self._bell.at(shard_writer.NAME, "rest")
        finally:
            self._pool.shutdown(wait=False)
            self._to_commit.put(None)
            if self._encoding is not None:
                self._encoding.close()

    def _commit_all(self) -> None:
        with_shards = False
        try:
            while (item := self._to_commit.get()) is not None:
                try:
                    with_shards = self._commit_one(item, with_shards)
                except BaseException as error:  # noqa: BLE001  raised at the caller's next call
                    self._bell.fail(error)
                self._bell.at(_COMMITTER, "rest")
        finally:
            self._opened.claim.release()

    def _commit_one(self, item: Pending | Job, with_shards: bool) -> bool:
        """Whether shards were finished since the last commit."""
        if not isinstance(item, Job):
            if self._bell.stopped:
                item.abandon()
                return with_shards
            self._bell.at(_COMMITTER, f"the sync of {item.address}")
            try:
                self._store.require_unguarded()
            except BaseException:
                item.abandon()
                raise
            item.finish()
            self.stored_nbytes += item.nbytes
            return True
        if self._bell.stopped:
            return with_shards
        if item.done:  # it was there twice
            self._slots.release(item)
            self._bell.ring()
            return with_shards
        self._publish(item, with_shards)
        return False

    def _publish(self, job: Job, with_shards: bool) -> None:
        self._bell.at(_COMMITTER, f"the commit of step {job.state.committed_steps}")
        valid, nonfinite = job.counts.num_valid, dict(job.counts.nonfinite)
        self._store.publish(replace(job.state, num_valid=valid, nonfinite=nonfinite), with_shards)
        self._bell.committed_steps = job.state.committed_steps
        # The slot first: who waits for the job may hand the same block over once more.
        self._slots.release(job)
        job.done = True
        self._bell.ring()
