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
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import check_device, thread_count, whole
from mosaic_collect.errors import BusyError, ClosedError, InputError
from mosaic_collect.recording.budget import asked_nbytes
from mosaic_collect.recording.inputs import parse_ends
from mosaic_collect.recording.opening import open_pipeline
from mosaic_collect.recording.process import EncodeIn, least_ring_nbytes
from mosaic_collect.recording.steps import Steps
from mosaic_collect.store.blobs import Blobs
from mosaic_collect.store.codec import AUTO, Compressor
from mosaic_collect.store.metadata import COMPLETE
from mosaic_collect.store.parsing import MAX_ENVS, json_copy
from mosaic_collect.store.ranks import Address, Destination, blobs_at
from mosaic_collect.store.robot import ROBOT, Robot
from mosaic_collect.store.schema import FAILED, GOES_ON, TERMINATED, TRUNCATED, Schema
from mosaic_collect.store.view import Resume

_log = logging.getLogger(__name__)
_INTERRUPTS = (KeyboardInterrupt, SystemExit)
_INTERRUPTED_SECONDS = 0.5
_BUSY_SECONDS = 10.0
#: Writers of this process that are not closed, for ``takeover``.
_open_writers: weakref.WeakSet[TrajectoryWriter] = weakref.WeakSet()
_Method = TypeVar("_Method", bound=Callable[..., Any])


@dataclass(frozen=True)
class WriterStats:
    """Figures of a writer since it was opened.

    Attributes:
        steps: Steps added.
        committed_steps: Committed steps of the store, earlier runs included.
        raw_nbytes: Bytes of the added steps, uncompressed.
        stored_nbytes: Bytes written to shards.
        stalled_seconds: Seconds that ``add_step`` waited for the disk.
        seconds: Seconds since opening.
    """

    steps: int
    committed_steps: int
    raw_nbytes: int
    stored_nbytes: int
    stalled_seconds: float
    seconds: float


def _one_caller(method: _Method) -> _Method:
    """Let one thread at a time into a writer's calls; refuse others at once.

    A thread may enter again what it has entered. An interrupt may leave it entered: then the thread
    that was interrupted, the main one, can continue and close the writer, and others are refused.
    """

    @functools.wraps(method)
    def guarded(self: Any, /, *args: Any, **options: Any) -> Any:
        self._enter()
        try:
            return method(self, *args, **options)
        finally:
            if os.getpid() == self._pid:
                self._calls.release()

    return guarded  # type: ignore[return-value]  # of the same signature


class TrajectoryWriter:
    """Records vectorised steps into a store.

    Args:
        path: The store, a folder not there yet, or empty; with ``rank`` the folder of all ranks.
        schema: The fields; on resume it may be left out.
        num_envs: Environments, N; on resume it may be left out.
        device: Device that stages steps: "cpu", or a CUDA device such as "cuda:0".
        buffer_mb: Bound of the host ring, in 10^6 bytes; "auto" aims at 64 steps a block inside a
            tenth of the free memory. On resume the store's block size stays.
        metadata: The user's own words about the data, JSON; on resume they update the store's.
        robot: Description of the robot: a ``Robot``, or a dict of its attributes.
        compressor: "auto", "lz4", "zstd" or "none"; on resume "auto" is the store's own.
        resume: Go on where the committed steps of a store end; "auto": if there is one.
        overwrite: Replace a store that is there: its steps are deleted. A store of zero steps is
            replaced in any case.
        takeover: First close the writer of this process that is at work on the store, if there is
            one, so that what was added to it is committed: one that a failed notebook cell left.
        rank: Record this one's part, ``rank-00003`` in the folder, beside the other processes.
        world_size: How many ranks there are; the store's metadata tell it.
        commit_seconds: Commit at least this often while steps come in; None: only full blocks.
        threads: Number of compressing threads; default: one per processor, at most 4.
        encode_in: "threads" of this process, or a "process" of its own, which leaves this one's
            interpreter to the simulation; "auto": a process for rings of 64 MB and more on Linux.

    Raises:
        InputError: A bad argument.
        StoreExistsError: A store with steps, or something else, is there, and neither ``resume``
            nor ``overwrite`` was requested.
        StoreNotFoundError: ``resume``, and no store there.
        StoreMismatchError: Not the store's schema, N, compressor or robot, or not the other ranks'
            fields.
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
        robot: Robot | Mapping[str, Any] | None = None,
        resume: Resume = False,
        overwrite: bool = False,
        takeover: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        device: Any = "cpu",
        buffer_mb: float | Literal["auto"] = "auto",
        compressor: str = "auto",
        commit_seconds: float | None = 60.0,
        threads: int | None = None,
        encode_in: EncodeIn = "auto",
    ) -> None:
        # All of them before anything is done: a takeover closes another writer.
        device, threads, seconds = str(device), thread_count(threads), commit_seconds
        check_device(device)
        if schema is not None and not isinstance(schema, Schema):
            raise InputError(f"schema: expected a Schema, got {type(schema).__name__}")
        if num_envs is not None:
            num_envs = whole(num_envs, "num_envs", 1, MAX_ENVS)
        added = json_copy(metadata or {})
        if robot is not None:
            added[ROBOT] = Robot.parse(robot).to_metadata()
        codec = Compressor.named(compressor)
        ring_nbytes, process_nbytes = asked_nbytes(buffer_mb), least_ring_nbytes(encode_in)
        is_number = isinstance(seconds, Real)
        if seconds is not None and not (is_number and float(seconds) >= 0):
            raise InputError(f"commit_seconds: expected a number from 0, or None, got {seconds!r}")
        where = Destination(blobs_at(path), rank, world_size)
        if takeover:
            _close_others(where.blobs)
        with ExitStack() as undo:  # what a start that fails on its way has made
            pipeline = open_pipeline(
                undo,
                where,
                schema,
                num_envs,
                metadata=added,
                resume=resume,
                overwrite=overwrite,
                device=device,
                ring_nbytes=ring_nbytes,
                compressor=None if compressor == AUTO else codec,
                process_nbytes=process_nbytes,
                threads=threads,
            )
            self._pipeline, self._state = pipeline, pipeline.state
            self._steps = Steps(pipeline, seconds)
            self._calls, self._pid = threading.RLock(), os.getpid()
            self._closed = self._shut_down = False
            self._opened_at = time.monotonic()
            undo.callback(atexit.unregister, self._close_at_exit)
            atexit.register(self._close_at_exit)
            _open_writers.add(self)
            undo.pop_all()

    def __reduce__(self) -> str:
        raise TypeError("a TrajectoryWriter cannot be copied or pickled: a store has one")

    # -- what a caller does ----------------------------------------------------------------------

    @_one_caller
    def add_step(self, /, *, valid_mask: Any = None, **rows: Any) -> None:
        """Add one vectorised step: copies everything, so the caller may overwrite it at once.

        Waits when the disk is behind by the whole ring; nothing is ever dropped.

        Args:
            valid_mask: Environments whose rows count. Shape: (num_envs,), bool. None: all.
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
        given = {name: value for name, value in rows.items() if value is not None}
        self._steps.add(given, valid_mask)

    @_one_caller
    def end_trajectories(
        self,
        env_ids: Any = None,
        failed: Any = None,
        *,
        terminated: Any = None,
        truncated: Any = None,
        dones: Any = None,
        time_outs: Any = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """End trajectories with the last step that was added.

        Give Gymnasium's flags, ``terminated=`` and ``truncated=``; or rsl_rl's, ``dones=`` and
        ``time_outs=``; or environments, ``env_ids``. Ending an environment again before its next
        step, or before any step, does nothing. Only a schema made by ``Schema.with_ends`` records
        how trajectories ended.

        Args:
            env_ids: Environments that end: whole numbers, each once, or a bool mask of shape
                ``(num_envs,)``.
            failed: Environments of these whose end the task counts as a failure, such as a fall, in
                the form of ``env_ids``.
            terminated: Flags of environments in a terminal state. Shape: ``(num_envs,)``, bool, or
                numbers that are 0 or 1. With ``env_ids``: environments of these, in their form.
            truncated: Flags of environments that were truncated, by a time-out for one, in the form
                of ``terminated``.
            dones: Flags of environments that end, in the form of ``terminated``.
            time_outs: Flags of environments that end by a time-out; the others of ``dones`` are
                recorded as terminated. None: how they ended is not recorded.
            metadata: Metadata entries to commit together with the ends, as in ``update_metadata``;
                an interrupt leaves both or neither.

        Raises:
            InputError: An argument is of another form, or two contradict each other.
            ClosedError: After ``close``.
            WriteError: Writing failed since; committed steps stay.
        """
        self._require_open()
        codes = parse_ends(
            self.schema, self.num_envs, env_ids, failed, terminated, truncated, dones, time_outs
        )
        self._steps.end(codes, metadata or {})

    @_one_caller
    def commit(self) -> None:
        """When it returns, all that was added so far survives kill and power cut.

        Raises:
            ClosedError: After ``close``.
            WriteError: Writing failed; what was committed before stays.
        """
        self._require_open()
        self._steps.commit()

    @_one_caller
    def update_metadata(self, /, **entries: Any) -> None:
        """Change the user's metadata, JSON values; committed together with the steps so far.

        Raises:
            InputError: A value that JSON cannot hold.
            ClosedError: After ``close``.
        """
        self._require_open()
        self._steps.account = self._steps.account.with_metadata(entries)

    def close(self, complete: bool = True) -> None:
        """Commit everything, end the threads, let the next writer in. A second call does nothing.

        An interrupt meanwhile is raised when everything is committed; a second one at once.

        Args:
            complete: Whether the collection is finished; if not, the store stays ``collecting``.

        Raises:
            WriteError: Writing failed; what was committed before stays.
        """
        self._close(complete)

    def __enter__(self) -> TrajectoryWriter:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is None:
            self.close()
            return
        try:
            # Who interrupts the commit that an interrupt caused wants to be gone.
            self._close(complete=False, interrupts=0 if isinstance(error, _INTERRUPTS) else 1)
        except Exception as failure:  # noqa: BLE001  the caller's goes through, this one beside it
            path = self.path
            _log.error("after %s, closing %s failed: %s", type(error).__name__, path, failure)
            if hasattr(error, "add_note"):
                error.add_note(f"mosaic_collect: closing {path} failed, too: {failure}")

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
        return self._pipeline.store.blobs.address

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
        return self._steps.count

    @property
    def block_steps(self) -> int:
        """Steps of a block, S."""
        return self._state.block_steps

    @property
    def ring_nbytes(self) -> int:
        """Bytes of the host ring."""
        return self._pipeline.ring_nbytes

    @property
    def metadata(self) -> dict[str, Any]:
        """The user's metadata as it will be committed next; a deep copy."""
        return json_copy(self._steps.account.state.metadata)

    @property
    def stats(self) -> WriterStats:
        """Figures since opening."""
        steps = self._steps.added
        return WriterStats(
            steps=steps,
            committed_steps=self._pipeline.committed_steps,
            raw_nbytes=steps * self.num_envs * self.schema.pair_nbytes,
            stored_nbytes=self._pipeline.stored_nbytes,
            stalled_seconds=self._steps.stalled_seconds,
            seconds=time.monotonic() - self._opened_at,
        )

    # -- how it ends: by its caller, an interrupt, a takeover, or the interpreter's exit ----------

    def _enter(self, seconds: float = 0.0) -> None:
        """Enter a call, waiting at most so many seconds for the thread inside."""
        # A forked child may have the lock of a thread that it has not.
        if os.getpid() == self._pid and not self._calls.acquire(timeout=seconds):
            raise BusyError(
                f"{self.path}: another thread is in a call of this writer; give each thread a "
                "writer of its own, or let them take turns"
            )

    def _require_open(self) -> None:
        """Refuse a call that comes too late, or from a fork of the process."""
        if self._closed:
            raise ClosedError(f"the writer of {self.path} is closed; resume=True opens another")
        if os.getpid() != self._pid:
            raise ClosedError(f"the writer of {self.path} belongs to process {self._pid}")

    @_one_caller
    def _close(self, complete: bool, interrupts: int = 1) -> None:
        """Close; so many interrupts wait until all is committed, the next one does not."""
        if self._shut_down or os.getpid() != self._pid:
            return
        came, patience = None, None
        # Only a commit that was begun is given up: an interrupt outside this try leaves the writer
        # open, for another close or the interpreter's exit to finish.
        while not self._closed:
            try:
                self._steps.commit(COMPLETE if complete else None)
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
        self._pipeline.check()

    def _shut(self, patience: float | None) -> None:
        """End the threads, whose last one releases the lock; called again, it does the rest."""
        self._closed = True
        atexit.unregister(self._close_at_exit)
        if not self._pipeline.close(patience):
            return
        self._steps.give_back()
        self._shut_down = True

    def _close_at_exit(self) -> None:
        if os.getpid() != self._pid:
            return
        _log.warning("%s was not closed; committing what was added", self.path)
        self._enter(_BUSY_SECONDS)  # a thread that runs on may be in a call
        self._close(complete=False)


def end_with_codes(writer: TrajectoryWriter, ends: NDArray[np.uint8]) -> None:
    """End trajectories with the last row, as in another store; again, it changes nothing.

    Args:
        writer: Writer of the store.
        ends: Values of ``trajectory_end`` of that row. Shape: (num_envs,).
    """
    if ends.any():
        codes = {"failed": FAILED, "terminated": TERMINATED, "truncated": TRUNCATED}
        recorded = codes if writer.schema.has_ends else {}
        how = {name: ends == code for name, code in recorded.items()}
        writer.end_trajectories(ends != GOES_ON, **how)


def _close_others(blobs: Blobs) -> None:
    """Close the writer of this process that is at work on the store, if there is one."""
    place = blobs.place()
    for other in [writer for writer in list(_open_writers) if not writer.closed]:
        if place is not None and other._pipeline.store.blobs.place() == place:
            _log.warning("%s: closing the writer that was at work on it", other.path)
            other._close(complete=False)
