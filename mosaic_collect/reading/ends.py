"""How trajectories ended: by the field ``trajectory_end``, or not at all.

    step             0   1   2   3   4 ...
    trajectory_id    7   7   7   9   9        an id's last row says how it ended:
    trajectory_end   0   0   2   0   0        7 failed, 9 goes on

The field of a row that is committed may still change, as long as the row is the last one: an end is
told after its step. So a shard may be ahead of the root document by the ends of the last row, after
a kill or while a writer is at work, as no other field ever is.

A trajectory is interrupted if it was still going on when a run of the writer stopped:

    run 0    ──── a ────┤end├── b ──✗          b: open when the run was killed
    run 1                            ├── c ──┤end├── d ──■      d: open when the run was closed

A resume gives every environment a new id, so ``b`` never goes on. How the run stopped makes no
difference: a trajectory open at a kill, at an exception, or at the close of a complete store has
no last step that ``end_trajectories`` told of. Even in a store that is being written, what is open
at the last commit has no end among the committed steps. ``StoreView.read`` removes ends that were
recorded but not committed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import InputError
from mosaic_collect.passes.engine import Engine
from mosaic_collect.store.schema import FAILED, GOES_ON, TRAJECTORY_END, TRAJECTORY_ID, TRUNCATED
from mosaic_collect.store.view import StoreView

T = TypeVar("T")


def interrupted_ids(view: StoreView) -> NDArray[np.int64]:
    """Ids of all interrupted trajectories, ascending: two steps per run are read.

    Raises:
        CorruptStoreError: A damaged chunk: which they are cannot be known.
    """
    found = [np.empty(0, np.int64)]
    for number, (_, steps) in enumerate(view.state.spans()):
        if steps:
            last = steps[-1:]
            ids = view.read(TRAJECTORY_ID, last, range(view.state.num_envs))[0]
            found.append(ids[view.open_envs(number)])
    return np.unique(np.concatenate(found))


def failed_ids(view: StoreView, engine: Engine | None = None) -> NDArray[np.int64]:
    """Ids of all trajectories that failed, ascending: 8 bytes of memory each.

    Ids are read only where a chunk of ends holds a failure.

    Args:
        view: View of the store.
        engine: Who reads; None: this thread.

    Raises:
        InputError: The store has no field ``trajectory_end``.
        CorruptStoreError: A damaged chunk: which trajectories failed cannot be known.
        ClusterError: The cluster cannot do the work.
    """
    found = _of_blocks(_failed_of_block, view, engine)
    return np.unique(np.concatenate([np.empty(0, np.int64), *found]))


def count_failed(view: StoreView, engine: Engine | None = None) -> int:
    """How many trajectories failed, from the one field; as ``failed_ids``."""
    return sum(_of_blocks(failed_in, view, engine))


def _of_blocks(
    function: Callable[[StoreView, int], T], view: StoreView, engine: Engine | None
) -> Iterator[T]:
    _require_ends(view)
    blocks = range(view.state.num_blocks)
    return (engine or Engine(1)).map(partial(function, view), blocks, view.require_seen)


def _failed_of_block(view: StoreView, block: int) -> NDArray[np.int64]:
    found, steps = [np.empty(0, np.int64)], view.state.steps_of(block)
    for envs, ends in _ends_of_block(view, block):
        failed = ends == FAILED
        if failed.any():
            found.append(view.read(TRAJECTORY_ID, steps, envs)[failed])
    return np.concatenate(found)


def failed_in(view: StoreView, block: int) -> int:
    """How many trajectories failed in a block."""
    return sum(int(np.count_nonzero(ends == FAILED)) for _, ends in _ends_of_block(view, block))


def _ends_of_block(view: StoreView, block: int) -> Iterator[tuple[range, NDArray[np.uint8]]]:
    """Yield the environments of each chunk, and their committed ends, ``(steps, envs)``."""
    for envs in view.columns(TRAJECTORY_END):
        yield envs, view.read(TRAJECTORY_END, view.state.steps_of(block), envs)


def end_problems(view: StoreView, engine: Engine | None = None) -> list[str]:
    """Where ends and ids contradict each other, in words, a block each.

    An end is followed by another id, and another id only comes behind an end or with a new run.
    A store without the field has no such problems; arguments and errors as ``failed_ids``'s.
    """
    if not view.state.schema.has_ends:
        return []
    ended, bad = 0, dict[int, str]()
    for count, problems in _of_blocks(_check_block, view, engine):
        ended += count
        for step, words in problems:
            block = view.state.block_of(step)
            bad.setdefault(block, f"{TRAJECTORY_END}, block {block}: {words}")
    told = view.state.num_trajectories
    if not bad and ended != told:
        return [f"{TRAJECTORY_END}: {ended} ends, metadata says {told}"]
    return list(bad.values())


def _require_ends(view: StoreView) -> None:
    if not view.state.schema.has_ends:
        raise InputError(
            f"{view.address}: has no field {TRAJECTORY_END}, it was recorded without "
            "Schema.with_ends(): how its trajectories ended is not known"
        )


def _check_block(view: StoreView, block: int) -> tuple[int, list[tuple[int, str]]]:
    """Count the ends of a block; compare ends with ids from the last row before it on."""
    own = view.state.steps_of(block)
    steps = range(max(0, own.start - 1), own.stop)
    starts = {run.first_step for run in view.state.runs}
    inner = np.array([step not in starts for step in steps[1:]], np.bool_)
    ended, problems = 0, list[tuple[int, str]]()
    for envs in view.columns(TRAJECTORY_END):
        ends, ids = (view.read(name, steps, envs) for name in (TRAJECTORY_END, TRAJECTORY_ID))
        committed = ends[own.start - steps.start :]
        ended += int(np.count_nonzero(committed))
        if (committed > TRUNCATED).any():
            problems.append((own.start, f"expected {GOES_ON}..{TRUNCATED}"))
        before, changed = ends[:-1] != GOES_ON, np.diff(ids, axis=0) != 0
        kinds = {
            "an end, but the trajectory goes on": before & ~changed,
            "no end, but another trajectory follows": changed & ~before & inner[:, None],
        }
        for words, wrong in kinds.items():
            if wrong.any():
                at, env = np.argwhere(wrong)[0].tolist()
                problems.append((steps[at], f"step {steps[at]}, env {envs[env]}: {words}"))
    return ended, problems
