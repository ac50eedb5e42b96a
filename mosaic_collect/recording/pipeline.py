"""From a staged block to a committed one, in two threads and a pool.

    submit ──▶ encoder thread ──shards──▶ committer thread ──▶ done, slot free
                 │     ▲                    finish, settle, root document
                 ▼     │ in order
               pool: compress + checksum, one chunk per task, no GIL

    slots of the ring: unfilled ──▶ free ──▶ held by a commit ──▶ free

While one block is synced the next is encoded. The first failure stops everything: it is stored,
raised to whoever waits, and nothing is written after it. Above all no failed sync is repeated: the
system may have dropped the pages that it could not write, and report success the second time.

The caller's thread may be interrupted anywhere. So what it shares with the other threads are
C-level queues, single operations of a list, and single assignments, never a Python lock that an
interrupt could leave held; and each of its steps may be done twice.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from queue import Empty, Queue, SimpleQueue

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import SpaceError, StoreLostError, WriteError
from mosaic_collect.recording.encoding.encoder import BlockEncoder, Encoding, FieldEncoder
from mosaic_collect.recording.encoding.process import start_encoding
from mosaic_collect.recording.opening import OpenStore
from mosaic_collect.recording.ring.blocks import Block
from mosaic_collect.store.blobs import Upload
from mosaic_collect.store.counts import Counts
from mosaic_collect.store.metadata import StoreState
from mosaic_collect.store.schema import TRAJECTORY_END
from mosaic_collect.store.workers import WorkerPool
from mosaic_collect.text import reason

_log = logging.getLogger(__name__)
REPORT_SECONDS = 30.0
_ENCODER, _COMMITTER = "encoder", "committer"


@dataclass(eq=False)
class Commit:
    """One commit on its way from the caller to the disk.

    Attributes:
        state: State of the store after it, but for the counts.
        block: Block to write; None if only the state changed.
        release: Whether the block's slot is free afterwards.
        queued: Set when the encoder will receive it.
        written: Set when its shards are written, though not durable yet: the block may change.
        done: Set when committed.
        counts: Counts of all rows after it; set by the encoder.
    """

    state: StoreState
    block: Block | None = None
    release: bool = True
    queued: bool = False
    written: bool = False
    done: bool = False
    counts: Counts = field(default_factory=lambda: Counts.zero(()))


class Condition:
    """How threads wait for each other, and how a failure of any of them reaches the caller.

    Args:
        explain: Returns the cause behind a failure, if more is known by the time it is raised.

    Attributes:
        committed_steps: Committed steps of the store.
        stopped: Nothing more is to be written: it failed, or is being closed.
        threads: Threads that must live while somebody waits.
    """

    def __init__(
        self, committed_steps: int, explain: Callable[[BaseException], BaseException]
    ) -> None:
        self.committed_steps, self.stopped, self._explain = committed_steps, False, explain
        self.threads: list[threading.Thread] = []
        self._failure: BaseException | None = None
        self._failing = threading.Lock()
        self._at_work: dict[str, str] = {}
        self._changes: SimpleQueue[None] = SimpleQueue()

    def notify(self) -> None:
        """Wake whoever waits; one note is enough, it is taken before the state is read."""
        if self._changes.empty():
            self._changes.put(None)

    @property
    def has_failed(self) -> bool:
        """Whether something failed, raised to the caller or not yet."""
        return self._failure is not None

    def fail(self, error: BaseException) -> None:
        """Stop everything; the first failure is the one that is raised."""
        with self._failing:
            self._failure = self._failure or error
        self.stopped = True
        self.notify()

    def check(self) -> None:
        """Raise the failure, if there is one.

        Raises:
            StoreLostError: Another store, or none, lies where this one was.
            WriteError: Any other failure, chained to its cause.
        """
        failure = self._failure and self._explain(self._failure)
        if isinstance(failure, StoreLostError):
            raise StoreLostError(
                f"{failure}; nothing that lies there was touched. Of this writer's steps the first "
                f"{self.committed_steps} of the store were committed to what it opened"
            ) from failure
        if failure is not None:
            words = reason(failure) if isinstance(failure, MemoryError) else str(failure)
            message = f"writing failed: {words}; the first {self.committed_steps} steps are safe"
            message += "; mend the cause and go on with resume=True"
            raise WriteError.because(message, failure) from failure

    def wait(self, ready: Callable[[], bool], what: str) -> None:
        """Return when ``ready`` holds; a long wait is logged every ``REPORT_SECONDS``.

        Raises:
            WriteError: Something failed.
        """
        start = time.monotonic()
        while not ready():
            self.check()
            try:
                self._changes.get(timeout=REPORT_SECONDS)
            except Empty:
                self._report(what, start)
                self._require_alive()

    def join(self, thread: threading.Thread, patience: float | None) -> bool:
        """Return whether the thread ended within so many seconds; None: wait until it does."""
        start = time.monotonic()
        while patience is None and thread.is_alive():
            thread.join(REPORT_SECONDS)
            if thread.is_alive():
                self._report("the writing threads to end", start)
        thread.join(patience)
        return not thread.is_alive()

    def at(self, who: str, what: str) -> None:
        """Note what a thread is doing, for whoever waits for it."""
        self._at_work[who] = what

    def _report(self, what: str, since: float) -> None:
        seconds = time.monotonic() - since
        work = ", ".join(f"{who} at {at}" for who, at in self._at_work.items())
        _log.warning("waiting for %s since %.0f s: %s", what, seconds, work)

    def _require_alive(self) -> None:
        dead = [t.name for t in self.threads if not t.is_alive()]
        if dead:
            self.fail(RuntimeError(f"the thread {dead[0]} died at {self._at_work}"))


class Pipeline:
    """Commits of one writer, in order: owns the ring's slots and the threads behind them.

    Args:
        opened: The store, which is released when nothing will be written any more.
        threads: Number of compressing threads.
        commit_seconds: Seconds between two timed commits; None: there are none.

    Attributes:
        stored_nbytes: Bytes written to shards.
        stalled_seconds: Seconds that the caller waited for the disk; not for ``settle_all``.
        shown: Trajectory ids that the current block holds; None if they must be written anew.
    """

    def __init__(
        self, opened: OpenStore, threads: int, commit_seconds: float | None = None
    ) -> None:
        self._opened, self._threads, self._seconds = opened, threads, commit_seconds
        self._store, state = opened.store, opened.state
        self._condition = Condition(state.committed_steps, opened.store.explained)
        self._pool = WorkerPool(threads, "mosaic-compress")
        self.stored_nbytes, self.stalled_seconds = 0, 0.0
        self.shown: NDArray[np.int64] | None = None
        # The caller's: what was submitted last.
        self._submitted = state
        self._last: Commit | None = None
        self._last_shards: Commit | None = None  # the last one that writes a block
        self._submitted_at = time.monotonic()
        # Slots; per slot, the commit that will free it: of two for one block, the later one.
        self._free = [block for block in opened.free if block.filled]
        self._unfilled = [block for block in opened.free if not block.filled]
        self._holders: list[Commit | None] = [None] * opened.slots
        # The encoder's.
        self._commits: SimpleQueue[Commit | None] = SimpleQueue()
        self._encoding: Encoding | None = None
        self._grids, self._encoded = state.grids(), state
        self._encoders = {name: FieldEncoder(state.compressor) for name in self._grids}
        # Counts of the newest block, which may be counted again with more rows, and of all before.
        self._newest, self._counted = opened.partial_counts, state.num_blocks - 1
        self._before = Counts(state.num_valid, state.nonfinite) - self._newest
        # Room for one block's shards, and the commit behind them, while the next are written.
        shards = 2 * len(state.schema.stored)
        self._to_commit: Queue[Upload | Commit | None] = Queue(maxsize=shards)

    @property
    def committed_steps(self) -> int:
        """Committed steps of the store."""
        return self._condition.committed_steps

    @property
    def due(self) -> bool:
        """Whether it is time for a timed commit."""
        waited = time.monotonic() - self._submitted_at
        return self._seconds is not None and waited >= self._seconds

    def start(self) -> None:
        """Start the threads; whatever becomes of that, ``close`` ends those that began.

        Raises:
            SpaceError: The system starts no more threads.
            WriteError: The threads failed at once.
        """
        self._pool.begin()
        for name, target in (
            ("mosaic_encode", self._encode_all),
            ("mosaic_commit", self._commit_all),
        ):
            self._condition.threads.append(self._start(name, target))
        if not self._free:
            # The block at hand was loaded, so nobody requested the next one yet.
            self._fill_next()
        # A fork of this process meanwhile would inherit what tells its start's end.
        started = "the start of the encoding process"
        self._condition.wait(lambda: self._encoding is not None, started)

    def close(self, patience: float | None = None) -> bool:
        """End the threads once they have done what they are at; what is not committed is left.

        Args:
            patience: Seconds to wait for that; None: however long it takes.

        Returns:
            Whether they ended. If not, they still will when what they wait for lets them.
        """
        condition = self._condition
        condition.stopped = True
        self._commits.put(None)
        if not condition.threads:
            self._pool.shutdown(wait=False)
        end = None if patience is None else time.monotonic() + patience
        for thread in condition.threads:
            left = None if end is None else max(end - time.monotonic(), 0.0)
            if not condition.join(thread, left):
                return False
        self._free.clear()
        self._unfilled.clear()
        self._holders = [None] * len(self._holders)
        self._last = self._last_shards = None
        return True

    def check(self) -> None:
        """Raise the first failure of the threads, if there is one.

        Raises:
            StoreLostError: Another store is at the path than the one that was opened.
            WriteError: Anything else, chained to its cause.
        """
        self._condition.check()

    # -- the caller's thread ---------------------------------------------------------------------

    def free_block(self) -> Block:
        """Return a free slot, waiting for one. It stays free until a commit that releases it.

        Raises:
            WriteError: Writing failed.
        """
        # The one to be needed next: its pages are made while this one is used.
        self._fill_next()
        self._stall(lambda: bool(self._free), None, "a free block of the ring")
        return self._free[-1]

    def commit(self, state: StoreState, block: Block | None, release: bool) -> None:
        """Queue a commit of what is new in the state, if anything is."""
        before = self._submitted
        if state == before:
            return
        same_rows = state.committed_steps == before.committed_steps
        same_ends = state.num_trajectories == before.num_trajectories
        if block is None or not block.count or (same_rows and same_ends):
            self.submit(Commit(state))
        else:
            self.hand_over(state, block, release)

    def hand_over(self, state: StoreState, block: Block, release: bool = True) -> None:
        """Queue a commit of what is staged in the block."""
        self._opened.staging.seal(block)
        self.submit(Commit(state, block, release))

    def submit(self, commit: Commit) -> None:
        """Queue a commit; they are done in order."""
        self._submitted_at = time.monotonic()
        if commit.block is not None:
            before = self._last_shards
            if before is not None and before.block is commit.block:
                # Its shards must have their names before they are written anew.
                self._stall(lambda: before.done, before, "a commit")
            # Known before it is queued: from then on the block must not change until it is
            # written, and then it has lost what stood behind its rows.
            self.shown = None
            self._last_shards = commit
        self._last = commit
        self._queue(commit)
        self._submitted = commit.state

    def settle(self, block: Block | None) -> None:
        """Wait until the block is not being read: bytes must not change under a codec.

        Raises:
            WriteError: Writing failed; what was committed before stays.
        """
        self._condition.check()
        last = self._last_shards
        if last is not None and last.block is block and not last.written:
            self._stall(lambda: last.written, last, "a block to be written")

    def settle_all(self, block: Block | None) -> None:
        """Wait until everything is committed.

        Raises:
            WriteError: Writing failed; what was committed before stays.
        """
        self.settle(block)
        last = self._last
        if last is not None:
            self._queue(last)
            self._condition.wait(lambda: last.done, "a commit")

    def _stall(self, ready: Callable[[], bool], commit: Commit | None, what: str) -> None:
        """Wait, and count it; queue the commit first, if an interrupt kept it from the queue."""
        start = time.monotonic()
        if commit is not None:
            self._queue(commit)
        self._condition.wait(ready, what)
        self.stalled_seconds += time.monotonic() - start

    def _queue(self, commit: Commit) -> None:
        """Give the encoder a commit that it has not yet.

        After an interrupt it may be there twice, one behind the other; that does no harm.
        """
        if commit.queued:
            return
        if commit.release and commit.block is not None:
            self._holders[commit.block.slot] = commit
            if commit.block in self._free:
                self._free.remove(commit.block)
        self._commits.put(commit)
        commit.queued = True

    def _fill_next(self) -> None:
        if self._unfilled:
            # Shut down where writing failed just now: whoever waits for the block is told.
            with contextlib.suppress(RuntimeError):
                self._pool.submit(self._guarded, self._fill_one)

    # -- threads ---------------------------------------------------------------------------------

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
            self._condition.fail(error)

    def _fill_one(self) -> None:
        if self._condition.stopped:
            return
        try:
            block = self._unfilled.pop()
        except IndexError:  # requested once too often, or another thread was faster
            return
        block.fill()
        self._free.append(block)
        self._condition.notify()

    # -- the encoder thread ----------------------------------------------------------------------

    def _encode_all(self) -> None:
        opened, condition = self._opened, self._condition
        try:
            self._encoding = start_encoding(opened.ring, opened.state, self._threads, self._pool)
            condition.notify()
            while (commit := self._commits.get()) is not None and not condition.stopped:
                self._encode(commit, self._encoding)
                commit.written = True
                condition.notify()
                self._to_commit.put(commit)
                condition.at(_ENCODER, "rest")
        finally:
            self._pool.shutdown(wait=False)
            self._to_commit.put(None)
            if self._encoding is not None:
                self._encoding.close()

    def _encode(self, commit: Commit, encoding: Encoding) -> None:
        """Write a commit's shards that are not written yet, and set its counts.

        An end that was recorded after its row was committed changes one field. Nothing is left to
        do where a commit is there twice, because an interrupt fell between its queueing and its
        bookkeeping.
        """
        state, block = commit.state, commit.block
        more_ends = state.num_trajectories > self._encoded.num_trajectories
        more_ends = more_ends and TRAJECTORY_END in self._grids
        if block is not None and state.committed_steps > self._encoded.committed_steps:
            encoder = self._write(state, block, list(self._grids), encoding)
            if block.index != self._counted:
                self._before += self._newest
            self._newest, self._counted = encoder.counts(), block.index
        elif block is not None and more_ends:
            self._write(state, block, [TRAJECTORY_END], encoding)
        commit.counts = self._before + self._newest

    def _write(
        self, state: StoreState, block: Block, names: list[str], encoding: Encoding
    ) -> BlockEncoder:
        self._condition.at(_ENCODER, f"the copy of block {block.index} to the host")
        block.wait_ready()
        count = len(state.steps_of(block.index))
        if count < state.block_steps:
            block.clear_tail(count)
        links = self._store.blobs.links
        encoder = BlockEncoder(self._encoders, block, count, self._grids, names, links)

        def open_shard(name: str) -> Upload:
            self._condition.at(_ENCODER, f"block {block.index} of {name}")
            twins = [twin for twin, source in encoder.twins.items() if source == name]
            return self._store.shard(state, name, block.index, twins)

        for shard in encoding.write(encoder, encoder.written, open_shard):
            self._to_commit.put(shard)
        self._encoded = state
        return encoder

    # -- the committer thread --------------------------------------------------------------------

    def _commit_all(self) -> None:
        with_shards = False
        try:
            while (item := self._to_commit.get()) is not None:
                try:
                    with_shards = self._commit_one(item, with_shards)
                except BaseException as error:  # noqa: BLE001  raised at the caller's next call
                    self._condition.fail(error)
                self._condition.at(_COMMITTER, "rest")
            if not self._condition.has_failed:
                self._guarded(self._store.finish)
        finally:
            self._opened.release()

    def _commit_one(self, item: Upload | Commit, with_shards: bool) -> bool:
        """Return whether shards were finished since the last commit."""
        if isinstance(item, Commit):
            if self._condition.stopped:
                return with_shards
            if not item.done:  # else it was there twice
                self._publish(item, with_shards)
                with_shards = False
            # The slot first: who waits for the commit may hand the same block over once more.
            self._release(item)
            item.done = True
            self._condition.notify()
            return with_shards
        if self._condition.stopped:
            item.abandon()
            return with_shards
        self._condition.at(_COMMITTER, f"the sync of {item.address}")
        try:
            self._store.require_unguarded()
        except BaseException:
            item.abandon()
            raise
        item.finish()
        self.stored_nbytes += item.nbytes
        return True

    def _publish(self, commit: Commit, with_shards: bool) -> None:
        state = commit.state
        self._condition.at(_COMMITTER, f"the commit of step {state.committed_steps}")
        valid, nonfinite = commit.counts.num_valid, dict(commit.counts.nonfinite)
        self._store.publish(replace(state, num_valid=valid, nonfinite=nonfinite), with_shards)
        self._condition.committed_steps = state.committed_steps

    def _release(self, commit: Commit) -> None:
        """Free a commit's slot, unless a later commit is to free it or it is free already."""
        block = commit.block
        if block is None or self._holders[block.slot] is not commit or block in self._free:
            return
        self._free.append(block)
