"""The writer's account: what its caller told, in values that are replaced as a whole."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.store.metadata import Run, StoreState
from mosaic_collect.store.parsing import check_sizes, json_copy, json_sizes
from mosaic_collect.store.schema import GOES_ON


@dataclass(frozen=True)
class TrajectoryIds:
    """Ids per environment; a new one after each end and after a resume, none used twice.

    Attributes:
        ids: int64 ``(num_envs,)``, the id that each environment's next step will have.
        begins: int64 ``(num_envs,)``, the step from which each has that id.
        ends: uint8 ``(num_envs,)``, how each environment's trajectory before that one ended;
            ``GOES_ON`` if none did since the writer was opened.
        next_id: The least id never used.
        ended: Trajectories that were ended, over the store's whole life.
    """

    ids: NDArray[np.int64]
    begins: NDArray[np.int64]
    ends: NDArray[np.uint8]
    next_id: int
    ended: int

    @classmethod
    def after(cls, state: StoreState) -> TrajectoryIds:
        """New ids for all, from the step at which the store ends.

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
        )

    def open_at(self, num_steps: int) -> NDArray[np.bool_]:
        """Which environments' trajectories have a step by then, bool ``(num_envs,)``."""
        return self.begins < num_steps

    def ended_at(self, num_steps: int) -> NDArray[np.int64]:
        """Environments whose trajectories ended with the last of so many steps."""
        return np.flatnonzero((self.begins == num_steps) & (self.ends != GOES_ON))

    def ending(
        self, envs: NDArray[np.int64], ends: NDArray[np.uint8], num_steps: int
    ) -> TrajectoryIds:
        """The account once these environments' trajectories, open by then, have so ended there."""
        ids, begins, all_ends = self.ids.copy(), self.begins.copy(), self.ends.copy()
        ids[envs] = np.arange(self.next_id, self.next_id + len(envs))
        begins[envs], all_ends[envs] = num_steps, ends
        return replace(
            self,
            ids=ids,
            begins=begins,
            ends=all_ends,
            next_id=self.next_id + len(envs),
            ended=self.ended + len(envs),
        )

    def open_bitmap(self, num_steps: int) -> str:
        """Environments within a trajectory by then, as ``Run.open_envs`` has it."""
        bits = np.packbits(self.open_at(num_steps), bitorder="little")
        return base64.b64encode(bits.tobytes()).decode()


@dataclass(frozen=True)
class Account:
    """All that a state says and blocks do not hold.

    A value, replaced by one assignment: an interrupt finds what was told before a call or what is
    told after it.

    Attributes:
        trajectories: Of the environments.
        given: For each field with a default, whether the caller gives it; empty before a step.
        has_mask: A mask was given at some step.
        metadata: The user's own, JSON.
        sizes: Of its entries: a collection of thousands of motions changes a few at each end.
    """

    trajectories: TrajectoryIds
    given: Mapping[str, bool]
    has_mask: bool
    metadata: dict[str, Any]
    sizes: Mapping[str, tuple[int, int]]

    @classmethod
    def after(cls, state: StoreState) -> Account:
        """Of a writer that goes on behind the state."""
        sizes = json_sizes(state.metadata)
        return cls(TrajectoryIds.after(state), state.given, state.has_mask, state.metadata, sizes)

    def with_row(self, given: Mapping[str, bool], has_mask: bool) -> Account:
        """What a step's row adds to it; mostly nothing."""
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
        """Once these environments' trajectories, open by then, have so ended; with metadata of it.

        Raises:
            InputError: As ``with_metadata``.
        """
        account = self.with_metadata(entries) if entries else self
        if not len(envs):
            return account
        return replace(account, trajectories=account.trajectories.ending(envs, ends, steps))

    def with_metadata(self, entries: Mapping[str, Any]) -> Account:
        """With more, or other, metadata.

        Raises:
            InputError: JSON cannot hold a value, or they are too many.
        """
        added = json_copy(entries)
        sizes = {**self.sizes, **json_sizes(added)}
        check_sizes(sizes.values())
        return replace(self, metadata={**self.metadata, **added}, sizes=sizes)

    def state(self, opened: StoreState, run: Run, steps: int, status: str) -> StoreState:
        """What is to be committed once the store has so many steps.

        Args:
            opened: As the store was when it was opened.
            run: This one's entry, which begins where the store ended.
            steps: Of the store.
            status: Of the store.
        """
        runs = opened.runs
        if steps > run.first_step or not runs:
            # From the run's first step on, its ids say what the bitmap of the run before does.
            before = [replace(last, open_envs="") for last in runs[-1:]]
            own = replace(run, open_envs=self.trajectories.open_bitmap(steps))
            runs = (*runs[:-1], *before, own)
        return replace(
            opened,
            committed_steps=steps,
            status=status,
            given=dict(self.given),
            has_mask=self.has_mask,
            runs=runs,
            metadata=self.metadata,
            num_trajectories=self.trajectories.ended,
            next_trajectory_id=self.trajectories.next_id,
        )
