"""What a store says once it is opened: its state, new or as it was, and the entry of a new run."""

from __future__ import annotations

import contextlib
import functools
import platform
import secrets
from datetime import datetime, timezone
from importlib import metadata as packages

import numpy as np

from mosaic_collect.errors import InputError, StoreMismatchError
from mosaic_collect.recording.ring.budget import Budget, plan_ring
from mosaic_collect.store.codec import Compressor
from mosaic_collect.store.counts import float_names
from mosaic_collect.store.grid import cut_steps
from mosaic_collect.store.metadata import Run, StoreState
from mosaic_collect.store.parsing import MAX_CHUNK_NBYTES
from mosaic_collect.store.schema import Schema

_PACKAGES = ("mosaic-collect", "numpy", "numcodecs", "torch", "rsl-rl-lib", "isaaclab", "mjlab")


def new_state(
    schema: Schema | None, num_envs: int | None, compressor: str, budget: Budget
) -> StoreState:
    """Of a store that is to be made.

    Raises:
        InputError: No schema or N, or they make chunks that are too large.
        SpaceError: Not even a block of one step fits.
    """
    if schema is None or num_envs is None:
        missing = "schema" if schema is None else "num_envs"
        raise InputError(f"{missing}: expected for a new store, got None")
    plan = plan_ring(schema, num_envs, budget)
    too_large = [n for n, g in plan.grids.items() if g.chunk_nbytes > MAX_CHUNK_NBYTES]
    if too_large:
        raise InputError(f"a chunk of {', '.join(too_large)} is over 1 GiB: lower buffer_mb")
    return StoreState(
        schema=schema,
        num_envs=num_envs,
        block_steps=plan.block_steps,
        chunk_envs={n: g.chunk_envs for n, g in plan.grids.items()},
        chunk_steps=cut_steps(plan.grids),
        compressor=Compressor.named(compressor),
        nonfinite=dict.fromkeys(float_names(plan.grids), 0),
        identity=secrets.token_hex(16),
    )


def matching_state(
    state: StoreState, path: str, schema: Schema | None, num_envs: int | None, compressor: str
) -> StoreState:
    """Of a store that is there, if it is as asked for.

    Raises:
        StoreMismatchError: It is not.
    """
    problems = [] if schema is None else state.schema.differences(schema)
    if num_envs not in (None, state.num_envs):
        problems.append(f"num_envs: expected {state.num_envs}, got {num_envs}")
    if compressor not in ("auto", state.compressor.name):
        problems.append(f"compressor: expected {state.compressor.name}, got {compressor}")
    if problems:
        raise StoreMismatchError(f"{path} was made otherwise: " + "; ".join(problems))
    return state


def this_run(state: StoreState) -> Run:
    """The entry of a run that begins where the store ends."""
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    first, first_id = state.committed_steps, state.next_trajectory_id
    return Run(
        first_step=first,
        open_envs="",
        started=started,
        versions=dict(_versions()),
        key=secrets.token_hex(8) if state.identity else "",
        first_open_id=first_id + int(np.count_nonzero(~state.stopped_open)),
    )


@functools.cache
def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(packages.PackageNotFoundError):
            versions[name] = packages.version(name)
    return versions
