"""The writer: steps in, a committed store out.

    with TrajectoryWriter("expert.zarr", schema, num_envs=1000) as writer:
        writer.add_step(observations=..., actions=...)
        writer.end_trajectories(env_ids, failed=fallen)

What holds when a call has returned, after a kill, and after a power cut:

| call | returned | killed or power cut later |
| --- | --- | --- |
| ``add_step`` | the rows are copied | lost, if not committed by then |
| ``commit`` | all added steps are committed | they stay |
| ``close``, leaving ``with`` | the same, and the store is complete | they stay |

An interrupt may fall between any two instructions of the caller's thread. So each call changes the
writer's account by one assignment that says all of it, and whatever comes before or after that
assignment can be done again: jobs may be queued twice, ids written twice.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
import warnings
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from mosaic_collect.errors import ClosedError
from mosaic_collect.recording.account import Account
from mosaic_collect.recording.alone import Alone, one_caller
from mosaic_collect.recording.commits import Commits
from mosaic_collect.recording.encoding.pool import WorkerPool
from mosaic_collect.recording.encoding.process import start_encoding
from mosaic_collect.recording.inputs import StepCheck, end_codes, ends_of_flags, env_indices
from mosaic_collect.recording.job import Job
from mosaic_collect.recording.opening import OpenStore, open_store
from mosaic_collect.recording.options import RecordingOptions
from mosaic_collect.recording.pipeline import Pipeline
from mosaic_collect.recording.ring.block import Block
from mosaic_collect.recording.ring.budget import block_nbytes
from mosaic_collect.recording.slots import Slots
from mosaic_collect.store.address import Address, blobs_at
from mosaic_collect.store.blobs import Blobs
from mosaic_collect.store.member import Member
from mosaic_collect.store.metadata import COLLECTING, COMPLETE, StoreState
from mosaic_collect.store.schema import TRAJECTORY_END, VALID_MASK, Schema
from mosaic_collect.store.view import StoreView

_log = logging.getLogger(__name__)
_INTERRUPTS = (KeyboardInterrupt, SystemExit)
_INTERRUPTED_SECONDS = 0.5
_BUSY_SECONDS = 10.0
#: Of this process.
_open_writers: weakref.WeakSet[TrajectoryWriter] = weakref.WeakSet()


@dataclass(frozen=True)
class WriterStats:
    """What a writer did since it was opened.

    Attributes:
        steps: Added.
        committed_steps: Of the store, in all.
        raw_nbytes: Of the added steps, uncompressed.
        stored_nbytes: Written to shards.
        stalled_seconds: That ``add_step`` waited for the disk.
        seconds: Since opening.
    """

    steps: int
    committed_steps: int
    raw_nbytes: int
    stored_nbytes: int
    stalled_seconds: float
    seconds: float


class TrajectoryWriter:
    """Records vectorised steps into a store.

    Args:
        path: The store, a folder not there yet, or empty; with ``rank`` the folder of all ranks.
        schema: The fields; on resume it may be left out.
        num_envs: Environments, N; on resume it may be left out.
        device: Where steps are staged: "cpu", or a CUDA device such as "cuda:0".
        buffer_mb: Bound of the host ring, in 10^6 bytes; "auto" aims at 64 steps a block inside a
            tenth of the free memory. On resume the store's block size stays.
        metadata: The user's own words about the data, JSON; on resume they update the store's.
        compressor: "auto", "lz4", "zstd" or "none"; on resume "auto" is the store's own.
        resume: Go on where the committed steps of a store end; "auto": if there is one.
        takeover: First close the writer of this process that is at work on the store, if there is
            one, so that what was added to it is committed: one that a failed notebook cell left.
        rank: Record this one's part, ``rank-00003`` in the folder, beside the other processes.
        world_size: How many ranks there are; the store's metadata tell it.
        commit_seconds: Commit at least this often while steps come in; None: only full blocks.
        threads: That compress; default: the processors, at most 4.
        encode_in: "threads" of this process, or a "process" of its own, which leaves this one's
            interpreter to the simulation; "auto": a process for rings of 64 MB and more on Linux.

    Raises:
        InputError: A bad argument.
        StoreExistsError: The path is taken, and ``resume`` was not asked for.
        StoreNotFoundError: ``resume``, and no store there.
        StoreMismatchError: Not the store's schema, N or compressor, or not the other ranks' fields.
        StoreLockedError: Another writer is at work on it.
        BusyError: ``takeover`` of a writer that another thread is using just now.
        CorruptStoreError, NewerFormatError: The store cannot be gone on with.
        SpaceError: Not even one block fits into memory or on the disk.
    """

    def __init__(
        self,
        path: Address,
        schema: Schema | None = None,
        num_envs: int | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        resume: bool | str = False,
        takeover: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        device: Any = "cpu",
        buffer_mb: float | str = "auto",
        compressor: str = "auto",
        commit_seconds: float | None = 60.0,
        threads: int | None = None,
        encode_in: str = "auto",
        **renamed: Any,
    ) -> None:
        if renamed:
            commit_seconds = _renamed(**renamed)
        options = RecordingOptions(
            device=device,
            buffer_mb=buffer_mb,
            compressor=compressor,
            commit_seconds=commit_seconds,
            threads=threads,
            encode_in=encode_in,
        )
        where = Member.of(blobs_at(path), rank, world_size)
        if takeover:
            _close_others(where.blobs)
        with ExitStack() as undo:  # what a start that fails on its way has made
            opened = open_store(
                where, schema, num_envs, metadata=metadata, resume=resume, options=options
            )
            undo.callback(opened.abandon)
            pool = WorkerPool(options.num_threads, "mosaic-compress")
            pipeline = Pipeline(
                opened.store,
                opened.state,
                Slots(opened.free, opened.slots),
                pool,
                opened.partial_counts,
                at_rest=opened.claim.release,
            )
            undo.callback(pipeline.close)
            self._start(opened, pipeline, options)
            encoding = partial(start_encoding, opened.ring, opened.state, options.num_threads, pool)
            pipeline.start(encoding)
            if self._block is not None:
                opened.staging.begin(self._block)
            undo.callback(atexit.unregister, self._at_exit)
            atexit.register(self._at_exit)
            _open_writers.add(self)
            undo.pop_all()

    def _start(self, opened: OpenStore, pipeline: Pipeline, options: RecordingOptions) -> None:
        self._opened, self._staging, self._pipeline = opened, opened.staging, pipeline
        self._state = opened.state
        self._check = StepCheck(self._state.schema, self._state.num_envs)
        self._account = Account.after(self._state)
        self._commits = Commits(pipeline, self._staging, self._state, options.commit_seconds)
        self._pid, self._closed, self._shut_down = os.getpid(), False, False
        self._alone = Alone(self.path)
        self._block: Block | None = opened.partial
        # Steps before the current block, while there is one; all steps, while there is none.
        self._steps_before = self._first_step
        self._ring_nbytes = opened.slots * block_nbytes(self._state.grids())
        self._opened_at = time.monotonic()

    def __reduce__(self) -> str:
        raise TypeError("a TrajectoryWriter cannot be copied or pickled: a store has one")

    # -- what a caller does ----------------------------------------------------------------------

    @one_caller
    def add_step(self, *, valid_mask: Any = None, **rows: Any) -> None:
        """Add one vectorised step: copies everything, so the caller may overwrite it at once.

        Waits when the disk is behind by the whole ring; nothing is ever dropped.

        Args:
            valid_mask: Which environments' rows count, bool of shape ``(num_envs,)``; None: all.
            **rows: Per field an array or tensor of shape ``(num_envs, dim)``, on any device. None
                is as if left out, which only a field with a default may be, and then always.

        Raises:
            InputError: A wrong shape, dtype or type, an unknown, missing or newly given field;
                nothing was added.
            ClosedError: After ``close``.
            BusyError: Another thread is in a call of this writer; nothing was added.
            WriteError: Writing failed since; committed steps stay.
            StoreLostError: The store is not there any more, or another's by now.
        """
        self._require_open()
        rows = {name: value for name, value in rows.items() if value is not None}
        # What a step gave that an interrupt left out decides nothing.
        self._check.check(rows, valid_mask, self._account.given if self.num_steps else {})
        self._commits.settle(self._block)
        self._refresh()
        block = self._block_with_room()
        mask = True if valid_mask is None else valid_mask
        self._staging.stage(block, {**self._with_defaults(rows), VALID_MASK: mask})
        given = self._check.given_by(rows)
        self._account = self._account.with_row(given, valid_mask is not None)
        # One assignment adds the step: an interrupt before it leaves the step out altogether.
        block.count += 1
        if self._commits.due:
            self._commit_partial(wait=False)

    @one_caller
    def end_trajectories(
        self,
        env_ids: Any = None,
        failed: Any = None,
        *,
        dones: Any = None,
        time_outs: Any = None,
    ) -> None:
        """The last added step was the last of these environments' trajectories.

        Ending the same environment again before another step, or before any step, does nothing.

        Args:
            env_ids: Whole numbers, each once, or a bool mask of shape ``(num_envs,)``.
            failed: Which of them failed, by a fall for one, named in the same way; None: none did.
                Only for a schema made by ``Schema.with_ends``.
            dones: Instead of ``env_ids``, flags as simulators give them: shape ``(num_envs,)``,
                bool, or numbers that are 0 or 1.
            time_outs: Beside ``dones``, likewise: which of them ended by time, so that the others
                failed; None: none failed.

        Raises:
            InputError: Not so.
            ClosedError: After ``close``.
            WriteError: Writing failed since; committed steps stay.
        """
        self._require_open()
        if dones is not None or time_outs is not None:
            env_ids, failed = ends_of_flags(dones, time_outs, self.num_envs, env_ids, failed)
        envs = env_indices(env_ids, self.num_envs)
        ends = end_codes(envs, failed, self.schema, self.num_envs)
        self._commits.settle(self._block)
        self._refresh()
        steps, trajectories = self.num_steps, self._account.trajectories
        ending = trajectories.open_at(steps)[envs]
        if ending.any():
            envs, ends = envs[ending], ends[ending]
            ended = trajectories.ending(envs, ends, steps)
            self._account = replace(self._account, trajectories=ended)
            self._show(envs)

    @one_caller
    def commit(self) -> None:
        """When it returns, all that was added so far survives kill and power cut.

        Raises:
            ClosedError: After ``close``.
            WriteError: Writing failed; what was committed before stays.
        """
        self._require_open()
        self._commit_partial(wait=True)

    def checkpoint(self) -> None:
        """What ``commit`` was called in 0.1.0."""
        warnings.warn("TrajectoryWriter.checkpoint is commit now", DeprecationWarning, 2)
        self.commit()

    @one_caller
    def update_metadata(self, **entries: Any) -> None:
        """Change the user's metadata, JSON values; committed together with the steps so far.

        Raises:
            InputError: A value that JSON cannot hold.
            ClosedError: After ``close``.
        """
        self._require_open()
        self._account = self._account.with_metadata(entries)

    def close(self, complete: bool = True) -> None:
        """Commit everything, end the threads, let the next writer in. A second call does nothing.

        An interrupt meanwhile is raised when everything is committed; a second one at once.

        Args:
            complete: Whether the collection is finished; if not, the store stays ``collecting``.

        Raises:
            WriteError: Writing failed; what was committed before stays.
        """
        self._close(complete, interrupts=1)

    def __enter__(self) -> TrajectoryWriter:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self.close()
            return
        # Who interrupts the commit that an interrupt caused wants to be gone.
        interrupts = 0 if issubclass(kind, _INTERRUPTS) else 1
        try:
            self._close(complete=False, interrupts=interrupts)
        except Exception as failure:  # noqa: BLE001  the caller's goes through, this one beside it
            _log.error("after %s, closing %s failed: %s", kind.__name__, self.path, failure)
            if hasattr(error, "add_note"):
                error.add_note(f"mosaic_collect: closing {self.path} failed, too: {failure}")

    # -- what a caller may ask -------------------------------------------------------------------

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<TrajectoryWriter {self.path}: {self.num_steps} steps x {self.num_envs}, {state}>"

    @property
    def closed(self) -> bool:
        """Whether nothing can be added any more."""
        return self._closed

    @property
    def path(self) -> str:
        """The store."""
        return self._opened.store.blobs.address

    @property
    def schema(self) -> Schema:
        """The store's fields."""
        return self._state.schema

    @property
    def num_envs(self) -> int:
        """Environments, N."""
        return self._state.num_envs

    @property
    def num_steps(self) -> int:
        """Steps of the store, committed or not."""
        block = self._block
        if block is None:
            return self._steps_before
        return block.index * self._state.block_steps + block.count

    @property
    def block_steps(self) -> int:
        """Steps of a block, S."""
        return self._state.block_steps

    @property
    def ring_nbytes(self) -> int:
        """Bytes of the host ring."""
        return self._ring_nbytes

    @property
    def metadata(self) -> dict[str, Any]:
        """The user's metadata as it will be committed next; a copy."""
        return dict(self._account.metadata)

    @property
    def stats(self) -> WriterStats:
        """Figures since opening."""
        steps = self.num_steps - self._first_step
        return WriterStats(
            steps=steps,
            committed_steps=self._pipeline.committed_steps,
            raw_nbytes=steps * self.num_envs * self.schema.pair_nbytes,
            stored_nbytes=self._pipeline.stored_nbytes,
            stalled_seconds=self._commits.stalled,
            seconds=time.monotonic() - self._opened_at,
        )

    # -- blocks ----------------------------------------------------------------------------------

    def _block_with_room(self) -> Block:
        """The current block, or the next one if it is full.

        A full block waits for the next step, so that an end after its last step is still in its
        commit.
        """
        if self._block is not None and self._block.count == self._state.block_steps:
            self._commits.hand_over(self._snapshot(COLLECTING), self._block)
            self._steps_before = self.num_steps
            self._block = None
        if self._block is None:
            block = self._commits.timed(self._pipeline.free_block)
            index = self._steps_before // self._state.block_steps
            block.start(index, self._account.trajectories.ids)
            self._staging.begin(block)
            self._block = block
        return self._block

    def _refresh(self) -> None:
        """Put the account into the block, if it may show another.

        A commit of a part of it left the fill value behind its rows, an interrupt an old account.
        """
        if self._commits.shown is not self._account.trajectories:
            self._show(slice(0, self.num_envs))

    def _show(self, envs: Any) -> None:
        """Put these environments' next ids, and the last step's ends, where they belong."""
        account = self._account.trajectories
        if self._block is not None:
            self._block.set_ids(envs, account.ids[envs])
        ended = account.ended_at(self.num_steps)
        if self.schema.has_ends and len(ended):
            if self._block is not None and self._block.count:
                self._block.set_ends(ended, account.ends[ended])
            else:
                self._amend(ended, account.ends[ended])
        self._commits.shown = account

    def _amend(self, envs: Any, ends: Any) -> None:
        """Give the last step ends, whose block an interrupted ``add_step`` has handed over.

        Only the ends are written anew, so the slot need hold nothing else.
        """
        self._commits.settle_all(self._block)
        steps, self._block = self.num_steps, None
        block, view = self._pipeline.free_block(), StoreView(self._opened.store.blobs, self._state)
        block.start(steps // self._state.block_steps - 1, self._account.trajectories.ids)
        view.read_into(TRAJECTORY_END, block.index, block.arrays[TRAJECTORY_END])
        block.count = self._state.block_steps
        block.set_ends(envs, ends)
        self._commits.submit(Job(self._snapshot(COLLECTING), block))

    def _commit_partial(self, wait: bool) -> None:
        """Queue a commit of all added steps; the current block goes on filling afterwards."""
        self._commits.settle(self._block)
        self._queue_commit(self._status(), release=False)
        if wait:
            self._commits.settle_all(self._block)

    def _queue_commit(self, status: str, release: bool) -> None:
        """Queue a commit of all that was added and told, if there is anything new."""
        self._refresh()
        self._commits.commit(self._snapshot(status), self._block, release)

    def _status(self) -> str:
        """What a commit before the end says; a store to which nothing was added stays as it was."""
        return COLLECTING if self.num_steps > self._first_step else self._state.status

    def _snapshot(self, status: str) -> StoreState:
        """The state that is true once all added steps are committed, but for the counts."""
        return self._account.state(self._state, self._opened.run, self.num_steps, status)

    @property
    def _first_step(self) -> int:
        return self._state.committed_steps

    def _with_defaults(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        filled = dict(rows)
        for field in self.schema.fields:
            if field.name not in rows and field.name != TRAJECTORY_END:
                default = field.default
                filled[field.name] = rows[default] if isinstance(default, str) else default
        return filled

    # -- the end ---------------------------------------------------------------------------------

    @one_caller
    def _close(self, complete: bool, interrupts: int) -> None:
        if self._shut_down or os.getpid() != self._pid:
            return
        came, patience = None, None
        # Only a commit that was begun is given up: an interrupt outside this try leaves the writer
        # open, for another close or the interpreter's exit to finish.
        while not self._closed:
            try:
                self._finish(COMPLETE if complete else self._status())
                self._closed = True
            except _INTERRUPTS as interrupt:
                came = interrupt
                if not interrupts:
                    patience, self._closed = _INTERRUPTED_SECONDS, True
                else:
                    interrupts -= 1
                    _log.warning("%s: committing first; interrupt again to leave", self.path)
            except BaseException:
                self._shut(None)
                raise
        self._shut(patience)
        if came is not None:
            raise came

    def _finish(self, status: str) -> None:
        """Commit everything. Begun again after an interrupt, it does what is left to do."""
        self._commits.settle(self._block)
        self._queue_commit(status, release=True)
        self._commits.settle_all(self._block)

    def _shut(self, patience: float | None) -> None:
        """End the threads, whose last one releases the lock; called again, it does the rest.

        Args:
            patience: Seconds to wait for what the threads are at; None: until it is over.
        """
        self._closed = True
        atexit.unregister(self._at_exit)
        if not self._pipeline.close(patience):
            return
        self._staging.close()
        self._steps_before, self._block = self.num_steps, None
        self._commits.forget()
        self._opened.forget_blocks()
        self._shut_down = True

    def _at_exit(self) -> None:
        if os.getpid() != self._pid:
            return
        _log.warning("%s was not closed; committing what was added", self.path)
        self._alone.enter(_BUSY_SECONDS)  # a thread that runs on may be in a call
        self.close(complete=False)

    def _require_open(self) -> None:
        if self._closed:
            raise ClosedError(f"the writer of {self.path} is closed; resume=True opens another")
        if os.getpid() != self._pid:
            raise ClosedError(f"the writer of {self.path} belongs to process {self._pid}")


def _close_others(blobs: Blobs) -> None:
    """Close the writer of this process that is at work on the store, if there is one."""
    place = blobs.place()
    for writer in list(_open_writers):
        if not writer.closed and place is not None and writer._opened.store.blobs.place() == place:
            _log.warning("%s: closing the writer that was at work on it", writer.path)
            writer.close(complete=False)


def _renamed(*, checkpoint_seconds: float | None) -> float | None:
    """``commit_seconds`` by the name that it had in 0.1.0; what is neither is a TypeError."""
    warnings.warn("checkpoint_seconds is commit_seconds now", DeprecationWarning, 3)
    return checkpoint_seconds
