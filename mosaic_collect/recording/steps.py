"""All steps of a store and what was told about them, from the calls that add them to the commits.

An interrupt may fall between any two instructions of the caller's thread. So each call changes the
account by one assignment that says all of it, or the block's count by another, and whatever comes
before or after that assignment can be done again: commits may be queued twice, ids written twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.recording.account import Account
from mosaic_collect.recording.inputs import StepCheck
from mosaic_collect.recording.opening import OpenStore
from mosaic_collect.recording.pipeline import Commit, Pipeline
from mosaic_collect.recording.ring.blocks import Block
from mosaic_collect.store.metadata import COLLECTING, StoreState
from mosaic_collect.store.schema import TRAJECTORY_END, VALID_MASK
from mosaic_collect.store.view import StoreView


class Steps:
    """What one writer adds to one store.

    Args:
        opened: The store.
        pipeline: Commits what is handed over.

    Attributes:
        account: What was told, replaced as a whole.
        block: The one that fills; None between a full one and the step behind it.
    """

    def __init__(self, opened: OpenStore, pipeline: Pipeline) -> None:
        self._opened, self._pipeline = opened, pipeline
        self._staging, self._state = opened.staging, opened.state
        self._check = StepCheck(self._state.schema, self._state.num_envs)
        self.account = Account.after(self._state)
        self.block: Block | None = opened.partial
        # Steps before the current block, while there is one; all steps, while there is none.
        self._before = self._state.committed_steps
        if self.block is not None:
            self._staging.begin(self.block)

    @property
    def count(self) -> int:
        """Of the store, committed or not."""
        block = self.block
        if block is None:
            return self._before
        return block.index * self._state.block_steps + block.count

    @property
    def added(self) -> int:
        """Of them, those that this writer added."""
        return self.count - self._state.committed_steps

    def add(self, rows: Mapping[str, Any], valid_mask: Any) -> None:
        """Check one step, copy it and count it; arguments and errors as ``add_step``'s."""
        # What a step gave that an interrupt left out decides nothing.
        self._check.check(rows, valid_mask, self.account.given if self.count else {})
        self._pipeline.settle(self.block)
        self._refresh()
        block = self._block_with_room()
        mask = True if valid_mask is None else valid_mask
        self._staging.stage(block, {**self._check.with_defaults(rows), VALID_MASK: mask})
        given = self._check.given_by(rows)
        self.account = self.account.with_row(given, valid_mask is not None)
        # One assignment adds the step: an interrupt before it leaves the step out altogether.
        block.count += 1
        if self._pipeline.due:
            self.commit(wait=False)

    def end(
        self, envs: NDArray[np.int64], ends: NDArray[np.uint8], entries: Mapping[str, Any]
    ) -> None:
        """The last step was the last of these environments' trajectories, if they had one open.

        Args:
            envs: Whose.
            ends: How each ended.
            entries: Of the metadata, which are so with these ends.
        """
        self._pipeline.settle(self.block)
        self._refresh()
        ending = self.account.trajectories.open_at(self.count)[envs]
        envs, ends = envs[ending], ends[ending]
        self.account = self.account.with_ends(envs, ends, self.count, entries)
        if len(envs):
            self._show(envs)

    def commit(self, status: str | None = None, release: bool = False, wait: bool = True) -> None:
        """Queue a commit of all that was added and told, if there is anything new.

        Begun again after an interrupt, it does what is left to do.

        Args:
            status: Of the store then; None: what a commit before the end says.
            release: Whether nothing more is to be added.
            wait: Whether to return when it is done, and not before.
        """
        self._pipeline.settle(self.block)
        self._refresh()
        self._pipeline.commit(self._snapshot(status or self._status()), self.block, release)
        if wait:
            self._pipeline.settle_all(self.block)

    def give_back(self) -> None:
        """Give back all memory; what there is to count stays."""
        self._staging.close()
        self._before, self.block = self.count, None
        self._opened.forget_blocks()

    def _block_with_room(self) -> Block:
        """The current block, or the next one if it is full.

        A full block waits for the next step, so that an end after its last step is still in its
        commit.
        """
        if self.block is not None and self.block.count == self._state.block_steps:
            self._pipeline.hand_over(self._snapshot(COLLECTING), self.block)
            self._before = self.count
            self.block = None
        if self.block is None:
            block = self._pipeline.free_block()
            index = self._before // self._state.block_steps
            block.start(index, self.account.trajectories.ids)
            self._staging.begin(block)
            self.block = block
        return self.block

    def _refresh(self) -> None:
        """Put the account into the block, if it may show another.

        A commit of a part of it left the fill value behind its rows, an interrupt an old account.
        """
        if self._pipeline.shown is not self.account.trajectories:
            self._show(slice(0, self._state.num_envs))

    def _show(self, envs: Any) -> None:
        """Put these environments' next ids, and the last step's ends, where they belong."""
        account = self.account.trajectories
        if self.block is not None:
            self.block.set_ids(envs, account.ids[envs])
        ended = account.ended_at(self.count)
        if self._state.schema.has_ends and len(ended):
            if self.block is not None and self.block.count:
                self.block.set_ends(ended, account.ends[ended])
            else:
                self._amend(ended, account.ends[ended])
        self._pipeline.shown = account

    def _amend(self, envs: Any, ends: Any) -> None:
        """Give the last step ends, whose block an interrupted ``add_step`` has handed over.

        Only the ends are written anew, so the slot need hold nothing else.
        """
        self._pipeline.settle_all(self.block)
        steps, self.block = self.count, None
        block, view = self._pipeline.free_block(), StoreView(self._opened.store.blobs, self._state)
        block.start(steps // self._state.block_steps - 1, self.account.trajectories.ids)
        view.read_into(TRAJECTORY_END, block.index, block.arrays[TRAJECTORY_END])
        block.count = self._state.block_steps
        block.set_ends(envs, ends)
        self._pipeline.submit(Commit(self._snapshot(COLLECTING), block))

    def _snapshot(self, status: str) -> StoreState:
        """The state that is true once all added steps are committed, but for the counts."""
        return self.account.state(self._state, self._opened.run, self.count, status)

    def _status(self) -> str:
        """What a commit before the end says; a store to which nothing was added stays as it was."""
        return COLLECTING if self.added > 0 else self._state.status
