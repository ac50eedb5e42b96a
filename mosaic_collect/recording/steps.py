"""The steps of a store and the writer's state, from the calls that add them to the commits.

An interrupt may fall between any two instructions of the caller's thread. So each call changes the
state by one assignment that says all of it, or the block's count by another, and whatever comes
before or after that assignment can be done again: commits may be queued twice, ids written twice.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.recording.blocks import Block
from mosaic_collect.recording.inputs import StepCheck
from mosaic_collect.recording.pipeline import Commit, Pipeline
from mosaic_collect.store.metadata import COLLECTING, StoreState
from mosaic_collect.store.parsing import check_sizes, json_copy, json_sizes
from mosaic_collect.store.schema import GOES_ON, TRAJECTORY_END, VALID_MASK
from mosaic_collect.store.view import StoreView


@dataclass(frozen=True)
class Account:
    """What the next commit is to say, and what blocks do not hold.

    A value, replaced by one assignment: an interrupt finds the value before a call or the one after
    it. Each environment has a new trajectory id after each end and after a resume; none is used
    twice.

    Attributes:
        state: State of the store, but for its steps, runs and counts.
        ids: int64 ``(num_envs,)``, the id that each environment's next step will have. Replaced by
            each end, and never changed.
        begins: int64 ``(num_envs,)``, the step from which each has that id.
        ends: uint8 ``(num_envs,)``, how each environment's trajectory before that one ended;
            ``GOES_ON`` if none did since the writer was opened.
        sizes: Sizes of the metadata's entries: a collection of thousands of motions changes few at
            each end.
    """

    state: StoreState
    ids: NDArray[np.int64]
    begins: NDArray[np.int64]
    ends: NDArray[np.uint8]
    sizes: Mapping[str, tuple[int, int]]

    @classmethod
    def after(cls, state: StoreState) -> Account:
        """The account of a writer that goes on behind the state, with new ids for all.

        Environments that were within a trajectory get the greatest: see ``Run.first_open_id``.
        """
        first, num_envs = state.next_trajectory_id, state.num_envs
        ids = np.empty(num_envs, np.int64)
        ids[np.argsort(state.stopped_open, kind="stable")] = np.arange(first, first + num_envs)
        return cls(
            state=replace(state, next_trajectory_id=first + num_envs),
            ids=ids,
            begins=np.full(num_envs, state.committed_steps, dtype=np.int64),
            ends=np.full(num_envs, GOES_ON, dtype=np.uint8),
            sizes=json_sizes(state.metadata),
        )

    def with_row(self, given: dict[str, bool], has_mask: bool) -> Account:
        """The account after a step; mostly the same."""
        has_mask = has_mask or self.state.has_mask
        if given == self.state.given and has_mask == self.state.has_mask:
            return self
        return replace(self, state=replace(self.state, given=given, has_mask=has_mask))

    def with_ends(self, envs: NDArray[np.int64], ends: NDArray[np.uint8], steps: int) -> Account:
        """The account after these environments' open trajectories ended at ``steps`` steps."""
        if not len(envs):
            return self
        ids, begins, all_ends = self.ids.copy(), self.begins.copy(), self.ends.copy()
        first, ended = self.state.next_trajectory_id, self.state.num_trajectories + len(envs)
        next_id = first + len(envs)
        ids[envs] = np.arange(first, next_id)
        begins[envs], all_ends[envs] = steps, ends
        state = replace(self.state, next_trajectory_id=next_id, num_trajectories=ended)
        return replace(self, state=state, ids=ids, begins=begins, ends=all_ends)

    def with_metadata(self, entries: Mapping[str, Any]) -> Account:
        """The account with more, or other, metadata; refuses what JSON cannot hold."""
        added = json_copy(entries)
        sizes = {**self.sizes, **json_sizes(added)}
        check_sizes(sizes.values())
        state = replace(self.state, metadata={**self.state.metadata, **added})
        return replace(self, state=state, sizes=sizes)


class Steps:
    """What one writer adds to one store; used by the caller's thread alone.

    Attributes:
        account: The writer's state, replaced as a whole.
        block: The one that fills; None between a full one and the step behind it.
        stalled_seconds: Seconds that steps and ends waited for the disk.
    """

    def __init__(self, pipeline: Pipeline, commit_seconds: float | None) -> None:
        self._pipeline, self._seconds = pipeline, commit_seconds
        self._staging, self._state = pipeline.staging, pipeline.state
        self._check = StepCheck(self._state.schema, self._state.num_envs)
        self.account = Account.after(self._state)
        self.block: Block | None = pipeline.partial
        # Steps before the current block, while there is one; all steps, while there is none.
        self._before = self._state.committed_steps
        # Ids that the current block holds; None if they must be written anew.
        self._shown: NDArray[np.int64] | None = None
        self._submitted_at = time.monotonic()
        # The last commit, and the last one that writes a block: before the first, what is there.
        self._last = self._last_shards = Commit(self._state, queued=True, written=True, done=True)
        self.stalled_seconds = 0.0
        if self.block is not None:
            self._staging.begin(self.block)

    @property
    def count(self) -> int:
        """Steps of the store, committed or not."""
        block = self.block
        if block is None:
            return self._before
        return block.index * self._state.block_steps + block.count

    @property
    def added(self) -> int:
        """Steps that this writer added."""
        return self.count - self._state.committed_steps

    def add(self, rows: Mapping[str, Any], valid_mask: Any) -> None:
        """Check one step, copy it and count it; arguments and errors as ``add_step``'s."""
        # What a step gave that an interrupt left out decides nothing.
        before = self.account.state.given if self.count else {}
        given = self._check.check(rows, valid_mask, before)
        self._settle()
        block = self._block_with_room()
        mask = True if valid_mask is None else valid_mask
        self._staging.stage(block, {**self._check.with_defaults(rows), VALID_MASK: mask})
        self.account = self.account.with_row(given, valid_mask is not None)
        # One assignment adds the step: an interrupt before it leaves the step out altogether.
        block.count += 1
        if self._seconds is not None and time.monotonic() - self._submitted_at >= self._seconds:
            self.commit(wait=False)

    def end(self, codes: NDArray[np.uint8], entries: Mapping[str, Any]) -> None:
        """End open trajectories as ``parse_ends`` says, and add metadata in the same commit."""
        self._settle()
        (envs,) = codes.nonzero()  # the others go on
        envs = envs[self.account.begins[envs] < self.count]
        account = self.account.with_metadata(entries) if entries else self.account
        self.account = account.with_ends(envs, codes[envs], self.count)
        if len(envs):
            self._show(envs)

    def commit(self, status: str | None = None, wait: bool = True) -> None:
        """Queue a commit of all that was added and told, if there is anything new.

        Begun again after an interrupt, it does what is left to do.

        Args:
            status: Status of the store after it; None: unfinished, or as it was if nothing was
                added.
            wait: Whether to return when it is done, and not before.
        """
        self._settle()
        status = status or (COLLECTING if self.added > 0 else self._state.status)
        state, before = self._snapshot(status), self._last.state
        if state != before:
            same_rows = state.committed_steps == before.committed_steps
            same_ends = state.num_trajectories == before.num_trajectories
            if self.block is None or not self.block.count or (same_rows and same_ends):
                self._submit(Commit(state))
            else:
                self._hand_over(state, self.block, release=False)
        if wait:
            self.settle_all()

    def settle_all(self) -> None:
        """Wait until everything that was submitted is committed."""
        self._wait_until_written()
        last = self._last
        self._pipeline.queue(last)
        self._pipeline.wait(lambda: last.done, "a commit")

    def give_back(self) -> None:
        """Give back all memory; what there is to count stays."""
        self._staging.close()
        self._before, self.block = self.count, None
        self._last.block = self._last_shards.block = None

    def _settle(self) -> None:
        """Let the current block be changed, and put the account into it if it may show another.

        A commit of a part of it left the fill value behind its rows, an interrupt an old account.
        """
        self._wait_until_written()
        if self._shown is not self.account.ids:
            self._show(slice(0, self._state.num_envs))

    def _wait_until_written(self) -> None:
        """Wait until the current block is not being read: bytes must not change under a codec."""
        self._pipeline.check()
        last = self._last_shards
        if last.block is self.block and not last.written:
            self._stall(lambda: last.written, last, "a block to be written")

    def _stall(self, ready: Callable[[], bool], commit: Commit | None, what: str) -> None:
        """Wait, and count it; queue the commit first, if an interrupt kept it from the queue."""
        start = time.monotonic()
        if commit is not None:
            self._pipeline.queue(commit)
        self._pipeline.wait(ready, what)
        self.stalled_seconds += time.monotonic() - start

    def _block_with_room(self) -> Block:
        """The current block, or the next one if it is full.

        A full block waits for the next step, so that an end after its last step is still in its
        commit.
        """
        if self.block is not None and self.block.count == self._state.block_steps:
            self._hand_over(self._snapshot(COLLECTING), self.block, release=True)
            self._before = self.count
            self.block = None
        if self.block is None:
            block = self._free_block()
            block.start(self._before // self._state.block_steps, self.account.ids)
            self._staging.begin(block)
            self.block = block
        return self.block

    def _free_block(self) -> Block:
        """Wait for a free slot. It stays free until a commit that releases it."""
        # The one to be needed next: its pages are made while this one is used.
        self._pipeline.fill_next()
        self._stall(lambda: bool(self._pipeline.free), None, "a free block of the ring")
        return self._pipeline.free[-1]

    def _hand_over(self, state: StoreState, block: Block, release: bool) -> None:
        self._staging.seal(block)
        self._submit(Commit(state, block, release))

    def _submit(self, commit: Commit) -> None:
        self._submitted_at = time.monotonic()
        if commit.block is not None:
            before = self._last_shards
            if before.block is commit.block:
                # Its shards must have their names before they are written anew.
                self._stall(lambda: before.done, before, "a commit")
            # Known before it is queued: from then on the block must not change until it is
            # written, and then it has lost what stood behind its rows.
            self._shown = None
            self._last_shards = commit
        self._last = commit
        self._pipeline.queue(commit)

    def _show(self, envs: Any) -> None:
        """Put these environments' next ids, and the last step's ends, where they belong."""
        account = self.account
        if self.block is not None:
            self.block.set_ids(envs, account.ids[envs])
        ended = np.flatnonzero((account.begins == self.count) & (account.ends != GOES_ON))
        if self._state.schema.has_ends and len(ended):
            if self.block is not None and self.block.count:
                self.block.set_ends(ended, account.ends[ended])
            else:
                self._amend(ended, account.ends[ended])
        self._shown = account.ids

    def _amend(self, envs: Any, ends: Any) -> None:
        """Give the last step ends, whose block an interrupted ``add_step`` has handed over.

        Only the ends are written anew, so the slot need hold nothing else.
        """
        self.settle_all()
        steps, self.block = self.count, None
        block, view = self._free_block(), StoreView(self._pipeline.store.blobs, self._state)
        block.start(steps // self._state.block_steps - 1, self.account.ids)
        view.read_into(TRAJECTORY_END, block.index, block.arrays[TRAJECTORY_END])
        block.count = self._state.block_steps
        block.set_ends(envs, ends)
        self._submit(Commit(self._snapshot(COLLECTING), block))

    def _snapshot(self, status: str) -> StoreState:
        """The state that is true once all added steps are committed, but for the counts."""
        account, steps, run = self.account, self.count, self._pipeline.run
        runs = account.state.runs
        if steps > run.first_step or not runs:
            # From the run's first step on, its ids say what the bitmap of the run before does.
            before = [replace(last, open_envs="") for last in runs[-1:]]
            bits = np.packbits(account.begins < steps, bitorder="little")
            own = replace(run, open_envs=base64.b64encode(bits.tobytes()).decode())
            runs = (*runs[:-1], *before, own)
        return replace(account.state, committed_steps=steps, status=status, runs=runs)
