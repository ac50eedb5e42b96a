"""How trajectories ended: by the field ``trajectory_end``, or not at all.

    step             0   1   2   3   4 ...
    trajectory_id    7   7   7   9   9        an id's last row says how it ended:
    trajectory_end   0   0   2   0   0        7 failed, 9 goes on

The field of a row that is committed may still change, as long as the row is the last one: an end is
told after its step. So a shard may be ahead of the root document by the ends of the last row, after
a kill or while a writer is at work, as no other field ever is.

An environment's trajectory is truncated if it was still going on when a run of the writer stopped:

    run 0    ──── a ────┤end├── b ──✗          b: open when the run was killed
    run 1                            ├── c ──┤end├── d ──■      d: open when the run was closed

A resume gives every environment a new id, so ``b`` never goes on. How the run stopped makes no
difference: a trajectory open at a kill, at an exception, or at the close of a complete store has
no last step that ``end_trajectories`` told of. Even in a store that is being written, what is open
at the last commit has no end among the committed steps. An end that was told but not yet committed
counts as not told.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import InputError
from mosaic_collect.passes.engine import Engine, Threads
from mosaic_collect.store.metadata import StoreState
from mosaic_collect.store.schema import ENDED, FAILED, GOES_ON, TRAJECTORY_END, TRAJECTORY_ID
from mosaic_collect.store.view import StoreView

T = TypeVar("T")


def truncated_ids(view: StoreView) -> NDArray[np.int64]:
    """Ids of all truncated trajectories, ascending: one step per run is read.

    Raises:
        CorruptStoreError: A damaged chunk: which they are cannot be known.
    """
    found = [np.empty(0, np.int64)]
    for run, steps in view.state.spans():
        if steps:
            last = steps[-1:]
            ids = view.read(TRAJECTORY_ID, last, range(view.state.num_envs))[0]
            found.append(ids[open_envs(run.open_envs, view.state.num_envs)])
    return np.unique(np.concatenate(found))


def open_envs(bitmap: str, num_envs: int) -> NDArray[np.bool_]:
    """``Run.open_envs`` taken apart: bool ``(num_envs,)``."""
    bits = np.frombuffer(base64.b64decode(bitmap), np.uint8)
    return np.unpackbits(bits, count=num_envs, bitorder="little").astype(bool)


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


def failed_ids(view: StoreView, engine: Engine | None = None) -> NDArray[np.int64]:
    """Ids of all trajectories that failed, ascending: 8 bytes of memory each.

    Ids are read only where a chunk of ends holds a failure.

    Args:
        view: Of the store.
        engine: Who reads; None: this thread.

    Raises:
        InputError: The store has no field ``trajectory_end``.
        CorruptStoreError: A damaged chunk: which trajectories failed cannot be known.
        ClusterError: Of the engine.
    """
    found = _of_blocks(_failed_of_block, view, engine)
    return np.unique(np.concatenate([np.empty(0, np.int64), *found]))


def count_failed(view: StoreView, engine: Engine | None = None) -> int:
    """How many trajectories failed, from the one field; as ``failed_ids``."""
    return sum(_of_blocks(_num_failed_of_block, view, engine))


def _of_blocks(
    function: Callable[[StoreView, int], T], view: StoreView, engine: Engine | None
) -> Iterator[T]:
    _require_ends(view)
    blocks = range(view.state.num_blocks)
    return (engine or Threads(1)).map(partial(function, view), blocks, view.require_seen)


def _failed_of_block(view: StoreView, block: int) -> NDArray[np.int64]:
    found = [np.empty(0, np.int64)]
    for part in _parts_of_block(view, block):
        failed = part.ends == FAILED
        if failed.any():
            found.append(view.read(TRAJECTORY_ID, part.steps, part.envs)[failed])
    return np.concatenate(found)


def _num_failed_of_block(view: StoreView, block: int) -> int:
    return sum(int(np.count_nonzero(part.ends == FAILED)) for part in _parts_of_block(view, block))


def end_problems(view: StoreView) -> list[str]:
    """Where ends and ids contradict each other, in words, a block each.

    An end is followed by another id, and another id only comes behind an end or with a new run.
    A store without the field has no such problems; errors as ``failed_ids``'s.
    """
    if not view.state.schema.has_ends:
        return []
    check = _Check(view.state)
    for block in range(view.state.num_blocks):
        for part in _parts_of_block(view, block):
            check.look(part, view.read(TRAJECTORY_ID, part.steps, part.envs))
    return check.problems()


def _require_ends(view: StoreView) -> None:
    if not view.state.schema.has_ends:
        raise InputError(
            f"{view.address}: has no field {TRAJECTORY_END}, it was recorded without "
            "Schema.with_ends(): how its trajectories ended is not known"
        )


def _parts_of_block(view: StoreView, block: int) -> Iterator[_Part]:
    """A block's committed ends, a chunk at a time."""
    steps = view.state.steps_of(block)
    for envs in view.columns(TRAJECTORY_END):
        yield _Part(steps, envs, view.read(TRAJECTORY_END, steps, envs))


class _Check:
    """Holds ends against ids, part by part in order."""

    def __init__(self, state: StoreState) -> None:
        self._state = state
        self._starts = {run.first_step for run in state.runs}
        #: The last row of each run, and which trajectories were still open by then.
        self._stops = {
            steps[-1]: open_envs(run.open_envs, state.num_envs)
            for run, steps in state.spans()
            if steps
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
