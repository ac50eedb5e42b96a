"""From a staged block to a committed one, in two threads and a pool.

    queue ──▶ encoder thread ──shards──▶ committer thread ──▶ done, slot free
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
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from queue import Empty, Queue, SimpleQueue

from mosaic_collect.errors import SpaceError, StoreLostError, WriteError
from mosaic_collect.recording.blocks import Block, HostStaging
from mosaic_collect.recording.budget import block_nbytes
from mosaic_collect.recording.encoder import BlockEncoder, FieldEncoder, count_pairs
from mosaic_collect.recording.process import EncoderProcess, start_process
from mosaic_collect.store.blobs import Upload
from mosaic_collect.store.commit import Store
from mosaic_collect.store.metadata import Run, StoreState
from mosaic_collect.store.schema import TRAJECTORY_END, VALID_MASK
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
        counts: Valid pairs by ``valid_mask``, and pairs that hold NaN or infinity by their fields,
            of all rows after it; set by the encoder.
    """

    state: StoreState
    block: Block | None = None
    release: bool = True
    queued: bool = False
    written: bool = False
    done: bool = False
    counts: Counter[str] = field(default_factory=Counter)


class Pipeline:
    """The threads behind one writer, the ring's slots, and how the caller waits for both.

    Args:
        store: The store, claimed.
        release: Lets the next writer in; called when nothing will be written any more.
        state: State as committed, with the metadata of this opening.
        run: This run's entry.
        staging: Copies steps into the ring.
        ring: All slots, the first one filled; with the last block, loaded, if it is not full.
        threads: Number of compressing threads.

    Attributes:
        partial: The last block, if it is not full.
        ring_nbytes: Bytes of the ring's slots.
        committed_steps: Committed steps of the store.
        stored_nbytes: Bytes written to shards.
        free: Slots that the next block may take; each stays here until a commit that releases it.
    """

    def __init__(
        self,
        store: Store,
        release: Callable[[], None],
        state: StoreState,
        run: Run,
        staging: HostStaging,
        ring: list[Block],
        threads: int,
    ) -> None:
        self.store, self.state, self.run, self.staging = store, state, run, staging
        self._release, self._threads = release, threads
        self._pool = WorkerPool(threads, "mosaic-compress")
        self._running: list[threading.Thread] = []
        self.committed_steps, self.stored_nbytes = state.committed_steps, 0
        self._grids, self._encoded = state.grids(), state
        self.ring_nbytes = len(ring) * block_nbytes(self._grids)
        # Nothing more is to be written: something failed, or the writer is being closed.
        self._stopped = False
        self._failure: BaseException | None = None
        self._failing = threading.Lock()
        self._at_work: dict[str, str] = {}
        self._changes: SimpleQueue[None] = SimpleQueue()
        # Slots; per slot, the commit that will free it: of two for one block, the later one.
        self.partial = ring[0] if ring[0].count else None
        self.free, self._unfilled = ring[:1] if self.partial is None else [], ring[1:]
        self._holders: dict[int, Commit] = {}
        # The encoder's.
        self._commits: SimpleQueue[Commit | None] = SimpleQueue()
        self._process: EncoderProcess | None = None
        self._encodes = False
        self._encoders = {name: FieldEncoder(state.compressor) for name in self._grids}
        # Counts of the newest block, which may be counted again with more rows, and of all before.
        self._newest = count_pairs(ring[0], self._grids) if self.partial else Counter()
        self._before = Counter({VALID_MASK: state.num_valid, **state.nonfinite}) - self._newest
        # The committer's. Room for one block's shards, and the commit behind them, while the next
        # are written.
        shards = 2 * len(state.schema.stored)
        self._to_commit: Queue[Upload | Commit | None] = Queue(maxsize=shards)
        self._are_shards_new = False  # since the last commit

    # -- the caller's thread ---------------------------------------------------------------------

    def start(self) -> None:
        """Start the threads; whatever becomes of that, ``close`` ends those that began."""
        self._pool.begin()
        for name, target in (
            ("mosaic_encode", self._encode_all),
            ("mosaic_commit", self._commit_all),
        ):
            self._running.append(self._start(name, target))
        if not self.free:
            # The block at hand was loaded, so nobody requested the next one yet.
            self.fill_next()
        # A fork of this process meanwhile would inherit what tells its start's end.
        self.wait(lambda: self._encodes, "the start of the encoding process")

    def close(self, patience: float | None = None) -> bool:
        """End the threads once they have done what they are at; what is not committed is left.

        Returns False if they did not end within ``patience`` seconds; they still will.
        """
        self._stopped = True
        self._commits.put(None)
        if not self._running:
            self._pool.shutdown(wait=False)
        start = time.monotonic()
        for thread in self._running:
            while thread.is_alive():
                left = None if patience is None else max(start + patience - time.monotonic(), 0.0)
                thread.join(REPORT_SECONDS if left is None else left)
                if thread.is_alive() and left is not None:
                    return False
                if thread.is_alive():
                    self._report("the writing threads to end", start)
        self.free.clear()
        self._unfilled.clear()
        self.partial = None
        self._holders.clear()
        return True

    def check(self) -> None:
        """Raise the first failure of the threads, if there is one.

        Raises:
            StoreLostError: Another store is at the path than the one that was opened.
            WriteError: Anything else, chained to its cause.
        """
        failure = self._failure and self.store.explained(self._failure)
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
                dead = [t.name for t in self._running if not t.is_alive()]
                if dead:
                    self._fail(RuntimeError(f"the thread {dead[0]} died at {self._at_work}"))

    def queue(self, commit: Commit) -> None:
        """Give the encoder a commit that it has not yet; they are done in order.

        After an interrupt it may be there twice, one behind the other; that does no harm.
        """
        if commit.queued:
            return
        if commit.release and commit.block is not None:
            self._holders[commit.block.slot] = commit
            if commit.block in self.free:
                self.free.remove(commit.block)
        self._commits.put(commit)
        commit.queued = True

    def fill_next(self) -> None:
        """Make the pages of another slot, if one is left, while the one at hand is used."""
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
            where = self.store.blobs.address
            words = f"{where}: a thread cannot be started ({error}); the limit of processes or of "
            raise SpaceError.because(words + "memory is reached", error) from error
        return thread

    def _guarded(self, target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:  # noqa: BLE001  raised again at the caller's next call
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Stop everything; the first failure is the one that is raised."""
        with self._failing:
            self._failure = self._failure or error
        self._stopped = True
        self._notify()

    def _notify(self) -> None:
        """Wake whoever waits; one note is enough, it is taken before the state is read."""
        if self._changes.empty():
            self._changes.put(None)

    def _report(self, what: str, since: float) -> None:
        seconds = time.monotonic() - since
        work = ", ".join(f"{who} at {at}" for who, at in self._at_work.items())
        _log.warning("waiting for %s since %.0f s: %s", what, seconds, work)

    def _fill_one(self) -> None:
        if self._stopped:
            return
        try:
            block = self._unfilled.pop()
        except IndexError:  # requested once too often, or another thread was faster
            return
        block.fill()
        self.free.append(block)
        self._notify()

    # -- the encoder thread ----------------------------------------------------------------------

    def _encode_all(self) -> None:
        try:
            self._process = start_process(self.staging.ring, self.state, self._threads)
            self._encodes = True
            self._notify()
            while (commit := self._commits.get()) is not None and not self._stopped:
                self._encode(commit)
                commit.written = True
                self._notify()
                self._to_commit.put(commit)
                self._at_work[_ENCODER] = "rest"
        finally:
            self._pool.shutdown(wait=False)
            self._to_commit.put(None)
            if self._process is not None:
                self._process.close()

    def _encode(self, commit: Commit) -> None:
        """Write a commit's shards that are not written yet, and set its counts.

        An end that was recorded after its row was committed changes one field. Nothing is left to
        do where a commit is there twice, because an interrupt fell between its queueing and its
        bookkeeping.
        """
        state, block = commit.state, commit.block
        more_ends = state.num_trajectories > self._encoded.num_trajectories
        more_ends = more_ends and TRAJECTORY_END in self._grids
        if block is not None and state.committed_steps > self._encoded.committed_steps:
            if block.index >= self._encoded.num_blocks:
                self._before = self._before + self._newest
            self._newest = self._write(state, block, list(self._grids)).counts()
        elif block is not None and more_ends:
            self._write(state, block, [TRAJECTORY_END])
        commit.counts = self._before + self._newest

    def _write(self, state: StoreState, block: Block, names: list[str]) -> BlockEncoder:
        self._at_work[_ENCODER] = f"the copy of block {block.index} to the host"
        block.wait_ready()
        count = len(state.steps_of(block.index))
        whole, links = count == state.block_steps, self.store.blobs.links
        if not whole:
            block.clear_tail(count)
        encoder = BlockEncoder(self._encoders, block, whole, self._grids, names, links)

        def open_shard(name: str) -> Upload:
            self._at_work[_ENCODER] = f"block {block.index} of {name}"
            twins = [twin for twin, source in encoder.twins.items() if source == name]
            return self.store.shard(state, name, block.index, twins)

        if self._process is None:
            shards = encoder.write(encoder.written, open_shard, self._pool)
        else:
            shards = self._process.write(encoder, open_shard, self._pool)
        for shard in shards:
            self._to_commit.put(shard)
        self._encoded = state
        return encoder

    # -- the committer thread --------------------------------------------------------------------

    def _commit_all(self) -> None:
        try:
            while (item := self._to_commit.get()) is not None:
                try:
                    if isinstance(item, Commit):
                        self._publish(item)
                    else:
                        self._finish(item)
                except BaseException as error:  # noqa: BLE001  raised at the caller's next call
                    self._fail(error)
                self._at_work[_COMMITTER] = "rest"
            if self._failure is None:
                self._guarded(self.store.finish)
        finally:
            self._release()

    def _finish(self, shard: Upload) -> None:
        if self._stopped:
            shard.abandon()
            return
        self._at_work[_COMMITTER] = f"the sync of {shard.address}"
        try:
            self.store.require_unguarded()
        except BaseException:
            shard.abandon()
            raise
        shard.finish()
        self.stored_nbytes += shard.nbytes
        self._are_shards_new = True

    def _publish(self, commit: Commit) -> None:
        if self._stopped:
            return
        if not commit.done:  # else it was there twice
            state, counts = commit.state, commit.counts
            self._at_work[_COMMITTER] = f"the commit of step {state.committed_steps}"
            nonfinite = {name: counts[name] for name in state.nonfinite}
            state = replace(state, num_valid=counts[VALID_MASK], nonfinite=nonfinite)
            self.store.publish(state, self._are_shards_new)
            self._are_shards_new = False
            self.committed_steps = state.committed_steps
        # The slot first: who waits for the commit may hand the same block over once more.
        block = commit.block
        if block is not None and self._holders.get(block.slot) is commit and block not in self.free:
            self.free.append(block)
        commit.done = True
        self._notify()
