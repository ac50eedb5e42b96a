"""Opening a store for writing: everything that may be refused is refused here, before a write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mosaic_collect.checks import whole
from mosaic_collect.errors import (
    InputError,
    MosaicCollectError,
    SpaceError,
    StoreExistsError,
    StoreNotFoundError,
    WriteError,
)
from mosaic_collect.recording.encoding.process import is_wanted
from mosaic_collect.recording.options import RecordingOptions
from mosaic_collect.recording.ring.block import Block
from mosaic_collect.recording.ring.budget import Budget, block_nbytes
from mosaic_collect.recording.ring.devices import staging_of
from mosaic_collect.recording.ring.shared import SharedRing
from mosaic_collect.recording.ring.staging import Staging
from mosaic_collect.recording.wanted import matching_state, new_state, this_run
from mosaic_collect.store.blobs import Blobs, Claim
from mosaic_collect.store.commit import Store
from mosaic_collect.store.counts import Counts, float_names, nonfinite_pairs
from mosaic_collect.store.metadata import Run, StoreState
from mosaic_collect.store.parsing import MAX_ENVS, json_copy
from mosaic_collect.store.ranks import Member
from mosaic_collect.store.schema import VALID_MASK, Schema
from mosaic_collect.store.view import AUTO, StoreView, existing_state
from mosaic_collect.text import reason


@dataclass
class OpenStore:
    """A store that a writer may go on with.

    Attributes:
        store: To write to.
        claim: Held.
        existing: State of the store that is continued; None: a new one.
        state: As committed, with the metadata as it was told.
        run: This run's entry.
        staging: Copies steps into blocks.
        free: The ring's free slots; at most one of them is filled yet.
        partial: The last block, loaded, if it is not full.
        partial_counts: Of its committed rows.
        ring: The slots' memory, if another process is to see it.
    """

    store: Store
    claim: Claim
    existing: StoreState | None
    state: StoreState
    run: Run
    staging: Staging
    free: list[Block]
    partial: Block | None
    partial_counts: Counts
    ring: SharedRing | None

    @property
    def slots(self) -> int:
        """Slots of the ring."""
        return len(self.free) + (self.partial is not None)

    def begin(self) -> None:
        """Write to the store for the first time: all that can be refused was refused before.

        Raises:
            StoreError: A store that is continued is damaged, or another one by now.
            WriteError: Writing failed.
        """
        try:
            if self.existing is None:
                self.store.begin(self.state, self.run.key)
            else:
                self.store.recover(self.existing, self.run.key)
        except OSError as error:
            raise _failure(self.store.blobs, self.store.explained(error)) from error

    def forget_blocks(self) -> None:
        """Give the ring back, as far as it is held here."""
        self.free, self.partial, self.ring = [], None, None

    def abandon(self) -> None:
        """Give back all, where no writer came of it."""
        self.forget_blocks()
        try:
            self.staging.close()
        finally:
            self.claim.release()


def open_store(
    member: Member,
    schema: Schema | None,
    num_envs: int | None,
    *,
    metadata: Mapping[str, Any] | None,
    resume: bool | str,
    overwrite: bool,
    options: RecordingOptions,
) -> OpenStore:
    """Create a store or open one to go on with; arguments and errors as ``TrajectoryWriter``'s."""
    if schema is not None and not isinstance(schema, Schema):
        raise InputError(f"schema: expected a Schema, got {type(schema).__name__}")
    if num_envs is not None:
        num_envs = whole(num_envs, "num_envs", 1, MAX_ENVS)
    blobs = member.blobs
    added, budget = json_copy(metadata or {}), options.budget()
    try:
        existing = _existing(member, resume, overwrite)
        is_complete = schema is not None and num_envs is not None
        if existing is not None and not existing.committed_steps and resume == AUTO and is_complete:
            existing = None  # of a run that failed before its first commit, with other fields maybe
        wanted = schema, num_envs, options.compressor
        if existing is None:
            state = new_state(*wanted, budget)
        else:
            state = matching_state(existing, blobs.address, *wanted)
        state = replace(state, metadata=json_copy({**state.metadata, **added}))
        _check_room(blobs, state)
        if member.rank is not None:
            member.check(existing)
            member.check_others(state)
        state = replace(state, metadata={**state.metadata, **member.join()})
        return _open(blobs, existing, state, budget, overwrite, options)
    except MosaicCollectError:
        raise
    except MemoryError as error:
        words = f"{blobs.address}: no room for the ring, {reason(error)}"
        raise SpaceError.because(words, error) from error
    except OSError as error:
        raise _failure(blobs, error) from error


def _failure(blobs: Blobs, error: BaseException) -> Exception:
    """Return an error of this package for one of the system's."""
    if isinstance(error, MosaicCollectError):
        return error
    words = f"{blobs.address} cannot be opened for writing: {reason(error)}"
    return WriteError.because(words, error)


def _existing(member: Member, resume: bool | str, overwrite: bool) -> StoreState | None:
    try:
        return existing_state(member.blobs, resume, overwrite)
    except (StoreExistsError, StoreNotFoundError):
        member.check(None)  # which may say more
        raise


def _open(
    blobs: Blobs,
    existing: StoreState | None,
    state: StoreState,
    budget: Budget,
    overwrite: bool,
    options: RecordingOptions,
) -> OpenStore:
    blobs.make()
    store = Store(blobs)
    claim = blobs.claim(store.require_ours)
    try:
        # Another writer may have been at work until the claim was ours.
        found = store.look()
        is_replaced = found is not None and (overwrite or not found.committed_steps)
        if found != existing and not (existing is None and is_replaced):
            raise StoreExistsError(
                f"{blobs.address} changed while it was being opened; open it again"
            )
        try:
            return _prepare(store, claim, existing, state, budget, options)
        except OSError as error:
            raise _failure(blobs, store.explained(error)) from error
    except BaseException:
        claim.release()
        raise


def _prepare(
    store: Store,
    claim: Claim,
    existing: StoreState | None,
    state: StoreState,
    budget: Budget,
    options: RecordingOptions,
) -> OpenStore:
    nbytes = block_nbytes(state.grids())
    slots = budget.slots(nbytes)
    shared = is_wanted(options.encode_in, slots * nbytes)
    staging, ring = staging_of(state, options.device, slots, shared)
    try:
        free = [staging.new_block(slot) for slot in range(slots)]
        partial, counts = None, Counts.zero(float_names(state.grids()))
        if state.committed_steps % state.block_steps:
            partial = free.pop()
            counts = _load_partial(StoreView(store.blobs, state), partial)
        else:
            free[-1].fill()  # the others are filled while steps come in
    except BaseException:
        staging.close()
        raise
    run = this_run(state)
    return OpenStore(store, claim, existing, state, run, staging, free, partial, counts, ring)


def _load_partial(view: StoreView, block: Block) -> Counts:
    """Read the last block's committed rows back into a slot, and count them."""
    state = view.state
    index, count = divmod(state.committed_steps, state.block_steps)
    for name in view.grids:
        view.read_into(name, index, block.arrays[name])
    block.index, block.count = index, count
    block.clear_tail(count)
    mask = block.arrays[VALID_MASK][: state.num_envs, :count]
    nonfinite = {n: nonfinite_pairs(block.arrays[n]) for n in float_names(view.grids)}
    return Counts(int(np.count_nonzero(mask)), nonfinite)


def _check_room(blobs: Blobs, state: StoreState) -> None:
    free, nbytes = blobs.free_nbytes(), block_nbytes(state.grids())
    if free is not None and free < nbytes:
        raise SpaceError(f"{blobs.address}: {free} bytes free, one block may take {nbytes}")
