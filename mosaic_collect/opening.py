"""Opening a store for writing: everything that may be refused is refused here, before a write."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib import metadata as packages
from typing import Any

import numpy as np

from mosaic_collect.budget import plan_ring, ring_nbytes, slots_for
from mosaic_collect.codec import Compressor
from mosaic_collect.commit import StoreFolder, is_taken, is_unborn, read_state
from mosaic_collect.devices import check_device, staging_nbytes, staging_of
from mosaic_collect.encoder_process import is_wanted
from mosaic_collect.errors import (
    InputError,
    MosaicCollectError,
    SpaceError,
    StoreExistsError,
    StoreMismatchError,
    WriteError,
)
from mosaic_collect.grid import FieldGrid
from mosaic_collect.jsonvalues import json_copy
from mosaic_collect.lock import StoreLock
from mosaic_collect.metadata import Run, StoreState
from mosaic_collect.parsing import MAX_CHUNK_NBYTES, MAX_ENVS
from mosaic_collect.reading import load_block
from mosaic_collect.schema import VALID_MASK, Schema
from mosaic_collect.shared_ring import SharedRing
from mosaic_collect.staging import Block
from mosaic_collect.stats import Counts, float_names, nonfinite_pairs

_PACKAGES = ("mosaic-collect", "numpy", "numcodecs", "torch", "rsl-rl-lib", "isaaclab", "mjlab")


@dataclass
class OpenStore:
    """A store that a writer may go on with.

    Attributes:
        folder: Its files.
        lock: Held.
        state: As committed, without this run.
        run: This run's entry.
        staging: Copies steps into blocks.
        free: The ring's free slots; at most one of them is filled yet.
        partial: The last block, loaded, if it is not full.
        partial_counts: Of its committed rows.
        ring_nbytes: Bytes of the ring.
        ring: Its memory, if another process is to see it.
    """

    folder: StoreFolder
    lock: StoreLock
    state: StoreState
    run: Run
    staging: Any
    free: list[Block]
    partial: Block | None
    partial_counts: Counts
    ring_nbytes: int
    ring: SharedRing | None

    def forget_blocks(self) -> None:
        """Give the ring back, as far as it is held here."""
        self.free.clear()
        self.ring = None

    def abandon(self) -> None:
        """Give back all, where no writer came of it."""
        self.forget_blocks()
        try:
            self.staging.close()
        finally:
            self.lock.release()

    def runs_with(self, open_envs: str) -> tuple[Run, ...]:
        """The runs so far and this one."""
        return (*self.state.runs, replace(self.run, open_envs=open_envs))

    @staticmethod
    def merged_metadata(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
        """``old`` updated with ``new``, both of JSON values.

        Raises:
            InputError: JSON cannot hold a value, or they are too many.
        """
        return json_copy({**old, **json_copy(new)})


def open_store(
    path: str,
    schema: Schema | None,
    num_envs: int | None,
    *,
    device: str,
    buffer_mb: float | str,
    metadata: Mapping[str, Any] | None,
    compressor: str,
    resume: bool,
    encode_in: str = "threads",
) -> OpenStore:
    """Create a store or open one to go on with; arguments and errors as ``TrajectoryWriter``'s."""
    _check_arguments(path, schema, num_envs, device)
    budget = ring_nbytes(buffer_mb)
    Compressor.named(compressor)
    added = json_copy(metadata or {})
    try:
        existing = existing_state(path, resume)
        if existing is None:
            state = _new_state(schema, num_envs, device, buffer_mb, compressor)
        else:
            state = _matching(existing, path, schema, num_envs, compressor)
        state = replace(state, metadata=OpenStore.merged_metadata(state.metadata, added))
        block_nbytes = _block_nbytes(state.grids())
        slots = slots_for(budget, block_nbytes)
        shared = is_wanted(encode_in, slots * block_nbytes)
        _check_disk(path, block_nbytes)
        return _open(StoreFolder(path), existing, state, device, slots, shared)
    except MosaicCollectError:
        raise
    except OSError as error:
        raise WriteError.because(f"{path} cannot be opened for writing: {error}", error) from error


def _open(
    folder: StoreFolder,
    existing: StoreState | None,
    state: StoreState,
    device: str,
    slots: int,
    shared: bool,
) -> OpenStore:
    folder.make()
    lock = StoreLock(folder.path)
    try:
        # Another writer may have been at work until the lock was ours.
        if read_state(folder.path) != existing:
            raise StoreExistsError(
                f"{folder.path} changed while it was being opened; open it again"
            )
        return _prepare(folder, lock, existing, state, device, slots, shared)
    except BaseException:
        lock.release()
        raise


def _prepare(
    folder: StoreFolder,
    lock: StoreLock,
    existing: StoreState | None,
    state: StoreState,
    device: str,
    slots: int,
    shared: bool,
) -> OpenStore:
    grids = state.grids()
    staging, ring = staging_of(state, device, slots, shared)
    try:
        free = [staging.new_block(slot) for slot in range(slots)]
        partial, counts = None, Counts.zero(float_names(grids))
        if state.committed_steps % state.block_steps:
            partial = free.pop()
            counts = _load_partial(folder.path, state, partial)
        else:
            free[-1].fill()  # the others are filled while steps come in
        if existing is None:
            folder.begin(state)
        else:
            folder.recover(existing)
    except BaseException:
        staging.close()
        raise
    nbytes = slots * _block_nbytes(grids)
    run = _this_run(state)
    return OpenStore(folder, lock, state, run, staging, free, partial, counts, nbytes, ring)


def existing_state(path: str, resume: bool) -> StoreState | None:
    """The state of the store to go on with; None if one is to be made. Errors: the writer's."""
    if resume:
        return read_state(path)
    if is_taken(path):
        if os.path.isdir(path) and is_unborn(path):
            raise StoreExistsError(f"{path} is a store of zero steps: resume=True goes on with it")
        raise StoreExistsError(
            f"{path} exists: resume=True goes on with a store, another path makes a new one"
        )
    return None


def _new_state(
    schema: Schema | None,
    num_envs: int | None,
    device: str,
    buffer_mb: float | str,
    compressor: str,
) -> StoreState:
    if schema is None or num_envs is None:
        missing = "schema" if schema is None else "num_envs"
        raise InputError(f"{missing}: expected for a new store, got None")
    device_nbytes = staging_nbytes(device)
    step_nbytes = schema.pair_nbytes * num_envs
    plan = plan_ring(step_nbytes, buffer_mb, device_nbytes)
    steps = plan.block_steps
    grids = _plan_grids(schema, num_envs, steps)
    # Padding to whole chunks may add a little to each block: take it out of the steps.
    while steps > 1 and plan.slots * _block_nbytes(grids) > ring_nbytes(buffer_mb):
        steps -= 1
        grids = _plan_grids(schema, num_envs, steps)
    too_large = [n for n, g in grids.items() if g.chunk_nbytes > MAX_CHUNK_NBYTES]
    if too_large:
        raise InputError(f"a chunk of {', '.join(too_large)} is over 1 GiB: lower buffer_mb")
    return StoreState(
        schema=schema,
        num_envs=num_envs,
        block_steps=steps,
        chunk_envs={n: g.chunk_envs for n, g in grids.items()},
        compressor=Compressor.named(compressor),
        nonfinite=dict.fromkeys(float_names(grids), 0),
    )


def _plan_grids(schema: Schema, num_envs: int, steps: int) -> dict[str, FieldGrid]:
    return {f.name: FieldGrid.plan(f, num_envs, steps) for f in schema.stored}


def _block_nbytes(grids: Mapping[str, FieldGrid]) -> int:
    return sum(g.shard_nbytes for g in grids.values())


def _matching(
    state: StoreState, path: str, schema: Schema | None, num_envs: int | None, compressor: str
) -> StoreState:
    problems = [] if schema is None else state.schema.differences(schema)
    if num_envs not in (None, state.num_envs):
        problems.append(f"num_envs: expected {state.num_envs}, got {num_envs}")
    if compressor not in ("auto", state.compressor.name):
        problems.append(f"compressor: expected {state.compressor.name}, got {compressor}")
    if problems:
        raise StoreMismatchError(f"{path} was made otherwise: " + "; ".join(problems))
    return state


def _load_partial(path: str, state: StoreState, block: Block) -> Counts:
    """Read the last block's committed rows back into a slot, and count them."""
    index, count = divmod(state.committed_steps, state.block_steps)
    for name, grid in state.grids().items():
        load_block(path, grid, state.compressor.encoder(), index, block.arrays[name])
    block.index, block.count = index, count
    block.clear_tail(count)
    mask = block.arrays[VALID_MASK][: state.num_envs, :count]
    names = float_names(state.grids())
    nonfinite = {n: nonfinite_pairs(block.arrays[n]) for n in names}
    return Counts(int(np.count_nonzero(mask)), nonfinite)


def _this_run(state: StoreState) -> Run:
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    first = state.committed_steps
    return Run(first_step=first, open_envs="", started=started, versions=dict(_versions()))


@functools.cache
def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(packages.PackageNotFoundError):
            versions[name] = packages.version(name)
    return versions


def _check_arguments(path: Any, schema: Any, num_envs: Any, device: str) -> None:
    if not isinstance(path, str) or not path or "\0" in path:
        raise InputError(f"path: expected the name of a folder, got {path!r}")
    if schema is not None and not isinstance(schema, Schema):
        raise InputError(f"schema: expected a Schema, got {type(schema).__name__}")
    whole = isinstance(num_envs, int) and not isinstance(num_envs, bool)
    if num_envs is not None and not (whole and 1 <= num_envs <= MAX_ENVS):
        raise InputError(f"num_envs: expected a whole number of 1..{MAX_ENVS}, got {num_envs!r}")
    check_device(device)


def _check_disk(path: str, block_nbytes: int) -> None:
    folder = os.path.abspath(path)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    free = shutil.disk_usage(folder).free
    if free < block_nbytes:
        raise SpaceError(f"{folder}: {free} bytes free, one block may take {block_nbytes}")
