"""The steps of a store and the writer's state, from the calls that add them to the commits.

An interrupt may fall between any two instructions of the caller's thread. So each call changes the
state by one assignment that says all of it, or the block's count by another, and whatever comes
before or after that assignment can be done again: commits may be queued twice, ids written twice.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.recording.inputs import StepCheck
from mosaic_collect.recording.opening import OpenStore
from mosaic_collect.recording.pipeline import Commit, Pipeline
from mosaic_collect.recording.ring.blocks import Block
from mosaic_collect.store.metadata import COLLECTING, Run, StoreState
from mosaic_collect.store.parsing import check_sizes, json_copy, json_sizes
from mosaic_collect.store.schema import GOES_ON, TRAJECTORY_END, VALID_MASK
from mosaic_collect.store.view import StoreView


@dataclass(frozen=True)
class Account:
    """All that a state says and blocks do not hold.

    A value, replaced by one assignment: an interrupt finds the value before a call or the one after
    it. Each environment has a new trajectory id after each end and after a resume; none is used
    twice.

    Attributes:
        ids: int64 ``(num_envs,)``, the id that each environment's next step will have. Replaced by
            each end, and never changed.
        begins: int64 ``(num_envs,)``, the step from which each has that id.
        ends: uint8 ``(num_envs,)``, how each environment's trajectory before that one ended;
            ``GOES_ON`` if none did since the writer was opened.
        next_id: The least id never used.
        ended: Trajectories that were ended, over the store's whole life.
        given: For each field with a default, whether the caller gives it; empty before a step.
        has_mask: A mask was given at some step.
        metadata: The user's own, JSON.
        sizes: Sizes of the metadata's entries: a collection of thousands of motions changes few at
            each end.
    """

    ids: NDArray[np.int64]
    begins: NDArray[np.int64]
    ends: NDArray[np.uint8]
    next_id: int
    ended: int
    given: Mapping[str, bool]
    has_mask: bool
    metadata: dict[str, Any]
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
            ids=ids,
            begins=np.full(num_envs, state.committed_steps, dtype=np.int64),
            ends=np.full(num_envs, GOES_ON, dtype=np.uint8),
            next_id=first + num_envs,
            ended=state.num_trajectories,
            given=state.given,
            has_mask=state.has_mask,
            metadata=state.metadata,
            sizes=json_sizes(state.metadata),
        )

    def with_row(self, given: Mapping[str, bool], has_mask: bool) -> Account:
        """The account after a step; mostly the same."""
        has_mask = has_mask or self.has_mask
        if given == self.given and has_mask == self.has_mask:
            return self
        return replace(self, given=given, has_mask=has_mask)

    def with_ends(
        self,
        envs: NDArray[np.int64],
        ends: NDArray[np.uint8],
        steps: int,
        entries: Mapping[str, Any],
    ) -> Account:
        """The account after the ends of these environments' trajectories, with metadata entries.

        Args:
            envs: Environments whose trajectories were open by then.
            ends: How each ended.
            steps: Steps of the store, the last of which was the last of the trajectories.
            entries: Metadata entries that belong to the ends.

        Raises:
            InputError: JSON cannot hold a value of the metadata.
        """
        account = self.with_metadata(entries) if entries else self
        if not len(envs):
            return account
        ids, begins, all_ends = self.ids.copy(), self.begins.copy(), self.ends.copy()
        ids[envs] = np.arange(self.next_id, self.next_id + len(envs))
        begins[envs], all_ends[envs] = steps, ends
        next_id, ended = self.next_id + len(envs), self.ended + len(envs)
        return replace(account, ids=ids, begins=begins, ends=all_ends, next_id=next_id, ended=ended)

    def with_metadata(self, entries: Mapping[str, Any]) -> Account:
        """The account with more, or other, metadata.

        Raises:
            InputError: JSON cannot hold a value, or they are too many.
        """
        added = json_copy(entries)
        sizes = {**self.sizes, **json_sizes(added)}
        check_sizes(sizes.values())
        return replace(self, metadata={**self.metadata, **added}, sizes=sizes)

    def state(self, opened: StoreState, run: Run, steps: int, status: str) -> StoreState:
        """The state to be committed once the store has so many steps.

        Args:
            opened: State of the store when it was opened.
            run: This one's entry, which begins where the store ended.
            steps: Steps of the store.
            status: Status of the store.
        """
        runs = opened.runs
        if steps > run.first_step or not runs:
            # From the run's first step on, its ids say what the bitmap of the run before does.
            before = [replace(last, open_envs="") for last in runs[-1:]]
            bits = np.packbits(self.begins < steps, bitorder="little")
            own = replace(run, open_envs=base64.b64encode(bits.tobytes()).decode())
            runs = (*runs[:-1], *before, own)
        return replace(
            opened,
            committed_steps=steps,
            status=status,
            given=dict(self.given),
            has_mask=self.has_mask,
            runs=runs,
            metadata=self.metadata,
            num_trajectories=self.ended,
            next_trajectory_id=self.next_id,
        )


class Steps:
    """What one writer adds to one store.

    Args:
        opened: The store.
        pipeline: Commits what is handed over.

    Attributes:
        account: The writer's state, replaced as a whole.
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
            envs: Environments whose trajectory ends.
            ends: How each ended.
            entries: Metadata entries to commit together with these ends.
        """
        self._pipeline.settle(self.block)
        self._refresh()
        ending = (self.account.begins < self.count)[envs]
        envs, ends = envs[ending], ends[ending]
        self.account = self.account.with_ends(envs, ends, self.count, entries)
        if len(envs):
            self._show(envs)

    def commit(self, status: str | None = None, release: bool = False, wait: bool = True) -> None:
        """Queue a commit of all that was added and told, if there is anything new.

        Begun again after an interrupt, it does what is left to do.

        Args:
            status: Status of the store after it; None: unfinished, or as it was if nothing was
                added.
            release: Whether nothing more is to be added.
            wait: Whether to return when it is done, and not before.
        """
        self._pipeline.settle(self.block)
        self._refresh()
        self._pipeline.commit(
            self._snapshot(status or (COLLECTING if self.added > 0 else self._state.status)),
            self.block,
            release,
        )
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
            block.start(index, self.account.ids)
            self._staging.begin(block)
            self.block = block
        return self.block

    def _refresh(self) -> None:
        """Put the account into the block, if it may show another.

        A commit of a part of it left the fill value behind its rows, an interrupt an old account.
        """
        if self._pipeline.shown is not self.account.ids:
            self._show(slice(0, self._state.num_envs))

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
        self._pipeline.shown = account.ids

    def _amend(self, envs: Any, ends: Any) -> None:
        """Give the last step ends, whose block an interrupted ``add_step`` has handed over.

        Only the ends are written anew, so the slot need hold nothing else.
        """
        self._pipeline.settle_all(self.block)
        steps, self.block = self.count, None
        block, view = self._pipeline.free_block(), StoreView(self._opened.store.blobs, self._state)
        block.start(steps // self._state.block_steps - 1, self.account.ids)
        view.read_into(TRAJECTORY_END, block.index, block.arrays[TRAJECTORY_END])
        block.count = self._state.block_steps
        block.set_ends(envs, ends)
        self._pipeline.submit(Commit(self._snapshot(COLLECTING), block))

    def _snapshot(self, status: str) -> StoreState:
        """The state that is true once all added steps are committed, but for the counts."""
        return self.account.state(self._state, self._opened.run, self.count, status)
