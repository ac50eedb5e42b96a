"""Which trajectories were cut off, not ended.

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
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.metadata import StoreState


def truncated_ids(
    state: StoreState, read_ids: Callable[[int], NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Ids of all truncated trajectories, reading one step per run.

    Args:
        state: What the store says.
        read_ids: The trajectory ids of a committed step, int64 ``(num_envs,)``.

    Returns:
        Ascending, each once.
    """
    starts = [run.first_step for run in state.runs]
    found = [np.empty(0, np.int64)]
    for run, stop in zip(state.runs, [*starts[1:], state.committed_steps], strict=True):
        if stop > run.first_step:
            found.append(read_ids(stop - 1)[open_envs(run.open_envs, state.num_envs)])
    return np.unique(np.concatenate(found))


def open_envs(bitmap: str, num_envs: int) -> NDArray[np.bool_]:
    """``Run.open_envs`` taken apart: bool ``(num_envs,)``."""
    bits = np.frombuffer(base64.b64decode(bitmap), np.uint8)
    return np.unpackbits(bits, count=num_envs, bitorder="little").astype(bool)
