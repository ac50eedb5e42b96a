"""How trajectories ended: the field ``trajectory_end`` read together with the trajectory ids.

    step             0   1   2   3   4 ...
    trajectory_id    7   7   7   9   9        an id's last row says how it ended:
    trajectory_end   0   0   2   0   0        7 failed, 9 goes on

The field of a row that is committed may still change, as long as the row is the last one: an end is
told after its step. So a shard may be ahead of the root document by the ends of the last row, after
a kill or while a writer is at work, as no other field ever is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import InputError
from mosaic_collect.metadata import StoreState
from mosaic_collect.reading import read_ranges
from mosaic_collect.schema import ENDED, FAILED, GOES_ON, TRAJECTORY_END, TRAJECTORY_ID
from mosaic_collect.truncation import open_envs


@dataclass(frozen=True)
class _Part:
    """Some environments of one block.

    Attributes:
        steps: Committed ones of the block.
        envs: A chunk's.
        ends: uint8 ``(len(steps), len(envs))``.
    """

    steps: range
    envs: range
    ends: NDArray[np.uint8]


def failed_ids(path: str, state: StoreState) -> NDArray[np.int64]:
    """Ids of all trajectories that failed, ascending: 8 bytes of memory each.

    Ids are read only where a chunk of ends holds a failure.

    Raises:
        InputError: The store has no field ``trajectory_end``.
        CorruptStoreError: A damaged chunk: which trajectories failed cannot be known.
    """
    found = [np.empty(0, np.int64)]
    for part in _parts(path, state):
        failed = part.ends == FAILED
        if failed.any():
            found.append(_ids(path, state, part.steps, part.envs)[failed])
    return np.unique(np.concatenate(found))


def count_failed(path: str, state: StoreState) -> int:
    """How many trajectories failed, from the one field; errors as ``failed_ids``'s."""
    return sum(int(np.count_nonzero(part.ends == FAILED)) for part in _parts(path, state))


def end_problems(path: str, state: StoreState) -> list[str]:
    """Where ends and ids contradict each other, in words, a block each.

    An end is followed by another id, and another id only comes behind an end or with a new run.
    A store without the field has no such problems; errors as ``failed_ids``'s.
    """
    if not state.schema.has_ends:
        return []
    check = _Check(state)
    for part in _parts(path, state):
        check.look(part, _ids(path, state, part.steps, part.envs))
    return check.problems()


def _parts(path: str, state: StoreState) -> Iterator[_Part]:
    """All committed ends, block by block, a chunk at a time."""
    if not state.schema.has_ends:
        raise InputError(
            f"{path}: has no field {TRAJECTORY_END}, it was recorded without Schema.with_ends(): "
            "how its trajectories ended is not known"
        )
    grid, codec = state.grid(TRAJECTORY_END), state.compressor.encoder()
    for first in range(0, state.committed_steps, grid.block_steps):
        steps = range(first, min(first + grid.block_steps, state.committed_steps))
        for start in range(0, state.num_envs, grid.chunk_envs):
            envs = range(start, min(start + grid.chunk_envs, state.num_envs))
            yield _Part(steps, envs, read_ranges(path, grid, codec, None, steps, envs))


def _ids(path: str, state: StoreState, steps: range, envs: range) -> NDArray[np.int64]:
    codec = state.compressor.encoder()
    return read_ranges(path, state.grid(TRAJECTORY_ID), codec, None, steps, envs)


class _Check:
    """Holds ends against ids, part by part in order."""

    def __init__(self, state: StoreState) -> None:
        self._state = state
        starts = [run.first_step for run in state.runs]
        stops = [*starts[1:], state.committed_steps]
        self._starts = set(starts)
        #: The last row of each run, and which trajectories were still open by then.
        self._stops = {
            stop - 1: open_envs(run.open_envs, state.num_envs)
            # A store of zero steps has no run.
            for run, stop in zip(state.runs, stops, strict=False)
            if stop > run.first_step
        }
        self._last_ids = np.zeros(state.num_envs, np.int64)
        self._last_ends = np.zeros(state.num_envs, np.uint8)
        self._ended = 0
        self._bad: dict[int, str] = {}

    def look(self, part: _Part, ids: NDArray[np.int64]) -> None:
        """Check rows against each other, and the first one against the last part's."""
        columns = slice(part.envs.start, part.envs.stop)
        if (part.ends > FAILED).any():
            self._note(part.steps.start, f"expected {GOES_ON}, {ENDED} or {FAILED}")
        before = np.concatenate([self._last_ends[None, columns], part.ends]) != GOES_ON
        changed = np.diff(np.concatenate([self._last_ids[None, columns], ids]), axis=0) != 0
        inner = np.array([step not in self._starts for step in part.steps])
        if part.steps.start == 0:
            changed[0] = before[0] = False  # before the first row there is none
        self._note_first(part, before[:-1] & ~changed, "an end, but the trajectory goes on")
        lost = changed & ~before[:-1] & inner[:, None]
        self._note_first(part, lost, "no end, but another trajectory follows")
        self._count(part)
        self._last_ids[columns], self._last_ends[columns] = ids[-1], part.ends[-1]

    def problems(self) -> list[str]:
        """All that was found, and whether the number of ends is the store's."""
        found = list(self._bad.values())
        if not found and self._ended != self._state.num_trajectories:
            told = self._state.num_trajectories
            found.append(f"{TRAJECTORY_END}: {self._ended} ends, metadata says {told}")
        return found

    def _count(self, part: _Part) -> None:
        """Ends that the root document knows of, too."""
        self._ended += int(np.count_nonzero(part.ends))
        for stop, still_open in self._stops.items():
            if stop in part.steps:
                row = part.ends[stop - part.steps.start] != GOES_ON
                ahead = row & still_open[part.envs.start : part.envs.stop]
                self._ended -= int(np.count_nonzero(ahead))

    def _note_first(self, part: _Part, wrong: NDArray[np.bool_], words: str) -> None:
        if wrong.any():
            at, env = np.argwhere(wrong)[0]
            step = part.steps[int(at)] - 1
            self._note(step, f"step {step}, env {part.envs[int(env)]}: {words}")

    def _note(self, step: int, words: str) -> None:
        block = step // self._state.block_steps
        self._bad.setdefault(block, f"{TRAJECTORY_END}, block {block}: {words}")
