"""From a staged block to a committed one, in two threads and a pool.

    submit ──▶ encoder thread ──shard files──▶ committer thread ──▶ done, slot free
                 │     ▲                         sync, rename, root document
                 ▼     │ in order
               pool: compress + checksum, one chunk a task, no GIL

While one block is being synced the next is encoded. The first failure stops everything: it is
kept, raised to whoever waits, and nothing is written after it. Above all no sync that failed is
tried again: the system may have dropped the pages that it could not write, and say yes the second
time.

The caller's thread may be interrupted anywhere, so what it shares with the others are C-level
queues and single assignments, never a Python lock that an interrupt could leave held.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from queue import Empty, Queue, SimpleQueue

from mosaic_collect.commit import StoreFolder
from mosaic_collect.encoder import BlockEncoder
from mosaic_collect.encoder_process import encoding_of
from mosaic_collect.errors import WriteError
from mosaic_collect.field_encoder import FieldEncoder
from mosaic_collect.grid import FieldGrid
from mosaic_collect.metadata import StoreState
from mosaic_collect.schema import TRAJECTORY_END
from mosaic_collect.shard_file import ShardFile, ShardLink
from mosaic_collect.shared_ring import SharedRing
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
        queued: Set when the encoder will see it.
        written: Set when its shards are written, though not safe yet: the block may change again.
        done: Set when committed.
    """

    state: StoreState
    block: Block | None = None
    count: int = 0
    release: bool = True
    queued: bool = False
    written: bool = False
    done: bool = False
    counts: Counts = field(default_factory=lambda: Counts(0, {}))


class Pipeline:
    """Owns the threads between the ring and the disk.

    Args:
        folder: The store's files.
        state: As committed; counts of full blocks are carried on from it.
        grids: All stored fields' cuttings.
        blocks: The ring's slots, all free; those that are not filled are when they are needed.
        threads: Of the compressing pool.
        partial: Counts of the committed rows of the last, partial block, if there is one.
        at_rest: Called when nothing will be written any more.
        ring: The memory of the slots, if another process is to encode them.
    """

    def __init__(
        self,
        folder: StoreFolder,
        state: StoreState,
        grids: Mapping[str, FieldGrid],
        blocks: list[Block],
        threads: int,
        partial: Counts,
        at_rest: Callable[[], None],
        ring: SharedRing | None = None,
    ) -> None:
        self._folder, self._grids, self._at_rest = folder, grids, at_rest
        self._encoders = {name: FieldEncoder(state.compressor) for name in grids}
        # Of all blocks but the one encoded last, which may be encoded again with more rows.
        self._before = Counts(state.num_valid, state.nonfinite) - partial
        self._newest = partial
        self._newest_index = state.committed_steps // state.block_steps
        self._encoded_steps = self.committed_steps = state.committed_steps
        self._encoded_ends = state.num_trajectories
        self._free = [block for block in blocks if block.filled]
        self._unfilled = [block for block in blocks if not block.filled]
        # Per slot, the job that will free it: of jobs queued twice, the later one.
        self._holder: dict[int, Job] = {}
        self._failure: BaseException | None = None
        self._failing = threading.Lock()
        self._begun = self._stopped = False
        self._at_work = {"encoder": "idle", "committer": "idle"}
        self.stored_nbytes = 0
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._to_commit: Queue[ShardFile | ShardLink | Job | None] = Queue(maxsize=2 * len(grids))
        self._changes: SimpleQueue[None] = SimpleQueue()
        self._pool = WorkerPool(threads, "mosaic-compress")
        self._encoding = encoding_of(ring, state, threads, self._pool)
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the threads; whatever becomes of that, ``close`` ends those that began.

        Raises:
            WriteError: They failed at once.
        """
        for target in (self._encode_all, self._commit_all):
            self._threads.append(self._start(target))
        if self._unfilled and not self._free:
            # The block at hand was loaded, so nobody asked for the next one yet.
            self._pool.start(self._fill_one, None)
        # A fork of this process meanwhile would inherit what tells its start's end.
        self._wait(lambda: self._begun, "the start of the encoding process")

    def free_block(self) -> Block:
        """A free slot; waits for one. It stays free until a job that releases it is submitted.

        Raises:
            WriteError: Writing failed.
        """
        if self._unfilled:
            # The one to be needed next: its pages are made while this one is used.
            self._pool.start(self._fill_one, None)
        self._wait(lambda: bool(self._free), "a free block of the ring")
        return self._free[-1]

    def submit(self, job: Job) -> None:
        """Queue a commit; jobs are done in order. A job that is queued already is left alone.

        After an interrupt a job may be there twice, one behind the other; that does no harm.
        """
        if job.queued:
            return
        if job.release and job.block is not None:
            self._holder[id(job.block)] = job
            if job.block in self._free:
                self._free.remove(job.block)
        self._jobs.put(job)
        job.queued = True

    def wait(self, job: Job) -> None:
        """Return when the job is committed; if an interrupt kept it from the queue, queue it first.

        Raises:
            WriteError: Writing failed; what was committed before stays.
        """
        self.submit(job)
        self._wait(lambda: job.done, "a commit")

    def wait_written(self, job: Job) -> None:
        """The same, but only until nobody reads the job's block any more.

        Raises:
            WriteError: Writing failed; what was committed before stays.
        """
        self.submit(job)
        self._wait(lambda: job.written, "a block to be written")

    def check(self) -> None:
        """Raise the failure, if there is one.

        Raises:
            WriteError: Chained to its cause.
        """
        failure = self._failure
        if failure is not None:
            message = f"writing failed: {failure}; the first {self.committed_steps} steps are safe"
            message += "; mend the cause and go on with resume=True"
            raise WriteError.because(message, failure) from failure

    def close(self, patience: float | None = None) -> bool:
        """End the threads once they have done what they are at; what is not committed is left.

        Args:
            patience: Seconds to wait for that; None: however long it takes.

        Returns:
            Whether they ended. If not, they still will when what they wait for lets them.
        """
        self._stopped = True
        self._jobs.put(None)
        if not self._threads:
            self._pool.close()
        start = time.monotonic()
        for thread in self._threads:
            while thread.is_alive():
                seconds = time.monotonic() - start
                if patience is not None and seconds >= patience:
                    return False
                thread.join(_REPORT_SECONDS if patience is None else patience - seconds)
                if patience is None and thread.is_alive():
                    self._report("the writing threads to end", start)
        for slots in (self._free, self._unfilled, self._holder):
            slots.clear()
        return True

    def _wait(self, ready: Callable[[], bool], what: str) -> None:
        start = time.monotonic()
        while not ready():
            self.check()
            try:
                self._changes.get(timeout=_REPORT_SECONDS)
            except Empty:
                self._report(what, start)
                self._require_alive()

    def _report(self, what: str, since: float) -> None:
        seconds = time.monotonic() - since
        work = ", ".join(f"{who} at {at}" for who, at in self._at_work.items())
        _log.warning("waiting for %s since %.0f s: %s", what, seconds, work)

    def _require_alive(self) -> None:
        dead = [t.name for t in self._threads if not t.is_alive()]
        if dead:
            self._fail(RuntimeError(f"the thread {dead[0]} died at {self._at_work}"))

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
        with self._failing:
            self._failure = self._failure or error
        self._stopped = True
        self._tell()

    def _fill_one(self, _: None) -> None:
        """Asked for once too often, after an interrupt, it fills one more or none."""
        try:
            block = self._unfilled.pop() if self._unfilled and not self._stopped else None
            if block is not None:
                block.fill()
                self._free.append(block)
                self._tell()
        except IndexError:
            pass  # another thread was faster
        except BaseException as error:  # noqa: BLE001  raised again at the caller's next call
            self._fail(error)

    def _tell(self) -> None:
        """Wake whoever waits; one note is enough, it is taken before the state is looked at."""
        if self._changes.empty():
            self._changes.put(None)

    # -- encoder thread --------------------------------------------------------------------------

    def _encode_all(self) -> None:
        try:
            self._encoding.begin()
            self._begun = True
            self._tell()
            while (job := self._jobs.get()) is not None and not self._stopped:
                if job.block is not None:
                    self._encode(job, job.block, self._unwritten(job.state))
                job.written = True
                self._tell()
                job.counts = self._before + self._newest
                self._to_commit.put(job)
                self._at_work["encoder"] = "idle"
        finally:
            self._pool.close()
            self._to_commit.put(None)
            self._encoding.close()

    def _unwritten(self, state: StoreState) -> list[str]:
        """Fields whose shards do not hold yet what the state says.

        None where a job is there twice, because an interrupt fell between its queueing and its
        bookkeeping. An end that was told after its row was committed changes one field.
        """
        if state.committed_steps > self._encoded_steps:
            return list(self._grids)
        more_ends = state.num_trajectories > self._encoded_ends
        return [TRAJECTORY_END] if more_ends and TRAJECTORY_END in self._grids else []

    def _encode(self, job: Job, block: Block, names: list[str]) -> None:
        if not names:
            return
        self._at_work["encoder"] = f"the copy of block {block.index} to the host"
        block.wait_ready()
        if job.count < job.state.block_steps:
            block.clear_tail(job.count)
        encoder = BlockEncoder(self._encoders, block, job.count, self._grids, names)

        def open_shard(name: str) -> ShardFile:
            self._at_work["encoder"] = f"block {block.index} of {name}"
            return self._folder.shard(job.state, name, block.index)

        for shard in self._encoding.write(encoder, encoder.written, open_shard):
            self._to_commit.put(shard)
        for name, source in encoder.twins.items():
            self._to_commit.put(self._folder.shard_link(job.state, name, source, block.index))
        if job.state.committed_steps > self._encoded_steps:
            self._count(encoder.counts(), block.index)
        self._encoded_steps = job.state.committed_steps
        self._encoded_ends = job.state.num_trajectories

    def _count(self, counts: Counts, index: int) -> None:
        if index != self._newest_index:
            self._before, self._newest_index = self._before + self._newest, index
        self._newest = counts

    # -- committer thread ------------------------------------------------------------------------

    def _commit_all(self) -> None:
        with_shards = False
        try:
            while (item := self._to_commit.get()) is not None:
                try:
                    if self._stopped:
                        _discard(item)
                    elif isinstance(item, (ShardFile, ShardLink)):
                        self._finish(item)
                        with_shards = True
                    elif item.done:  # it was there twice
                        self._release(item)
                    else:
                        self._commit(item, with_shards)
                        with_shards = False
                except BaseException as error:  # noqa: BLE001  raised at the caller's next call
                    self._fail(error)
                self._at_work["committer"] = "idle"
        finally:
            self._at_rest()

    def _finish(self, shard: ShardFile | ShardLink) -> None:
        self._at_work["committer"] = f"the sync of {shard.path}"
        shard.finish()
        self.stored_nbytes += shard.nbytes

    def _commit(self, job: Job, with_shards: bool) -> None:
        self._at_work["committer"] = f"the commit of step {job.state.committed_steps}"
        counts = job.counts
        state = replace(job.state, num_valid=counts.num_valid, nonfinite=dict(counts.nonfinite))
        self._folder.publish(state, with_shards)
        self.committed_steps = state.committed_steps
        self._release(job)
        job.done = True
        self._tell()

    def _release(self, job: Job) -> None:
        """Its slot is free, unless a later job is to free it or it is free already."""
        block = job.block
        if block is not None and self._holder.get(id(block)) is job and block not in self._free:
            self._free.append(block)
            self._tell()


def _discard(item: ShardFile | ShardLink | Job) -> None:
    if not isinstance(item, Job):
        item.abandon()
