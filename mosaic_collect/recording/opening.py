"""Opening a store for writing: everything that may be refused is refused here, before a write."""

from __future__ import annotations

import contextlib
import logging
import math
import platform
import secrets
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timezone
from functools import cache, partial
from importlib import metadata as packages
from typing import Any

import numpy as np

from mosaic_collect.errors import (
    InputError,
    MosaicCollectError,
    SpaceError,
    StoreExistsError,
    StoreMismatchError,
    StoreNotFoundError,
    WriteError,
)
from mosaic_collect.recording.blocks import Block, HostStaging, SharedRing
from mosaic_collect.recording.budget import Budget, block_nbytes, plan_ring
from mosaic_collect.recording.pipeline import Pipeline
from mosaic_collect.store.blobs import Blobs
from mosaic_collect.store.codec import Compressor
from mosaic_collect.store.commit import Store
from mosaic_collect.store.counts import float_names
from mosaic_collect.store.grid import cut_steps
from mosaic_collect.store.metadata import Run, StoreState
from mosaic_collect.store.parsing import MAX_CHUNK_NBYTES, json_copy
from mosaic_collect.store.ranks import Destination
from mosaic_collect.store.robot import ROBOT, Robot
from mosaic_collect.store.schema import VALID_MASK, Schema
from mosaic_collect.store.view import AUTO, Resume, StoreView, existing_state
from mosaic_collect.text import reason, shown

_log = logging.getLogger(__name__)
_PACKAGES = ("mosaic-collect", "numpy", "numcodecs", "torch", "rsl-rl-lib", "isaaclab", "mjlab")


def open_pipeline(
    undo: ExitStack,
    where: Destination,
    schema: Schema | None,
    num_envs: int | None,
    *,
    metadata: dict[str, Any],
    resume: Resume,
    overwrite: bool,
    device: str,
    ring_nbytes: int | None,
    compressor: Compressor | None,
    process_nbytes: float,
    threads: int,
) -> Pipeline:
    """Create a store or open one to go on with, and start what writes to it.

    Errors and arguments are ``TrajectoryWriter``'s, but for ``undo``, which gives back all that was
    taken where no writer comes of it, the metadata with the robot's, the bound of the ring (None:
    "auto"), the compressor (None: "auto"), and the size from which a ring is encoded by a process
    of its own.
    """
    blobs, store = where.blobs, None
    budget = Budget.of(ring_nbytes, _free_device_nbytes(device))
    try:
        existing = _existing(where, resume, overwrite)
        is_empty = existing is not None and not existing.committed_steps
        if is_empty and resume == AUTO and None not in (schema, num_envs):
            existing = None  # of a run that failed before its first commit, with other fields maybe
        if existing is not None:
            _check_matches(
                existing, blobs.address, schema, num_envs, compressor, metadata.get(ROBOT)
            )
        state = existing or _new_state(schema, num_envs, compressor, budget)
        state = _with_metadata(state, metadata)
        slots = budget.slots(block_nbytes(state.grids()))
        _check_room(blobs, state)
        state = where.join(existing, state)
        # Where no lock shows whether its writer lives, an empty store is replaced on demand alone.
        most = 0 if resume == AUTO or not blobs.guards else -1
        store, release = _claim(undo, blobs, existing, math.inf if overwrite else most)
        staging = _staging(state, device, slots, process_nbytes)
        undo.callback(staging.close)
        ring = _ring(StoreView(blobs, state), staging, slots)
        pipeline = Pipeline(store, release, state, _this_run(state), staging, ring, threads)
        undo.callback(pipeline.close)
        pipeline.start()
        # The first write to the store: all that can be refused was refused before.
        if existing is None:
            store.begin(state, pipeline.run.key)
        else:
            store.recover(existing, pipeline.run.key)
    except MosaicCollectError:
        raise
    except MemoryError as error:
        words = f"{blobs.address}: no room for the ring, {reason(error)}"
        raise SpaceError.because(words, error) from error
    except OSError as error:
        raise _failure(blobs, store, error) from error
    return pipeline


def _failure(blobs: Blobs, store: Store | None, error: OSError) -> Exception:
    """Return an error of this package for one of the system's, or for what became of the store."""
    cause = error if store is None else store.explained(error)
    if isinstance(cause, MosaicCollectError):
        return cause
    return WriteError.because(
        f"{blobs.address} cannot be opened for writing: {reason(cause)}", cause
    )


def _with_metadata(state: StoreState, added: Mapping[str, Any]) -> StoreState:
    """Add entries to the metadata; a description of the robot must fit what is recorded."""
    described = Robot.from_metadata(added)
    state = replace(state, metadata=json_copy({**state.metadata, **added}))
    if described is not None:
        described.check(state.schema, state.metadata)
    return state


def _existing(where: Destination, resume: Resume, overwrite: bool) -> StoreState | None:
    try:
        return existing_state(where.blobs, resume, overwrite)
    except (StoreExistsError, StoreNotFoundError):
        where.check(None)  # which may say more
        raise


def _check_room(blobs: Blobs, state: StoreState) -> None:
    free, nbytes = blobs.free_nbytes(), block_nbytes(state.grids())
    if free is not None and free < nbytes:
        raise SpaceError(f"{blobs.address}: {free} bytes free, one block may take {nbytes}")


def _claim(
    undo: ExitStack, blobs: Blobs, existing: StoreState | None, most_replaced: float
) -> tuple[Store, Callable[[], None]]:
    """Become the writer of a store, if it still is as it was read.

    A new one replaces a store of at most ``most_replaced`` steps.
    """
    blobs.make()
    store = Store(blobs)
    release = blobs.claim(store.require_ours)
    undo.callback(release)
    # Another writer may have been at work until the claim was ours.
    found = store.look()
    is_replaced = found is not None and found.committed_steps <= most_replaced
    if found != existing and not (existing is None and is_replaced):
        raise StoreExistsError(f"{blobs.address} changed while it was being opened; open it again")
    return store, release


def _free_device_nbytes(device: str) -> int | None:
    if device == "cpu":
        return None
    from mosaic_collect.recording.cuda import free_device_nbytes

    return free_device_nbytes(device)


def _staging(state: StoreState, device: str, slots: int, process_nbytes: float) -> HostStaging:
    """Return what copies steps: to a ring that another process sees, if it is large, and can be."""
    grids, num_envs = state.grids(), state.num_envs
    kind: Callable[..., HostStaging] = HostStaging
    if device != "cpu":
        from mosaic_collect.recording.cuda import DeviceStaging  # torch is optional on the CPU

        kind = partial(DeviceStaging, device=device)
    if slots * block_nbytes(grids) >= process_nbytes:
        try:
            # What a device copies out lies as it does there, and is read as the codecs want it.
            return kind(grids, num_envs, ring=SharedRing(grids, slots, device == "cpu"))
        except SpaceError:
            raise
        except OSError as error:
            _log.warning("no memory that processes can share: %s; encoding in threads", error)
    # Only here, where no traceback holds the staging any more that failed.
    return kind(grids, num_envs)


def _ring(view: StoreView, staging: HostStaging, slots: int) -> list[Block]:
    """Return the ring's slots, the first one with the store's last block, if that is not full.

    The others are filled while steps come in.
    """
    state = view.state
    index, count = divmod(state.committed_steps, state.block_steps)
    ring = [staging.new_block(slot) for slot in range(slots)]
    if count:
        for name in view.grids:
            view.read_into(name, index, ring[0].arrays[name])
        ring[0].index, ring[0].count = index, count
        ring[0].clear_tail(count)
    else:
        ring[0].fill()
    return ring


def _new_state(
    schema: Schema | None, num_envs: int | None, compressor: Compressor | None, budget: Budget
) -> StoreState:
    if schema is None or num_envs is None:
        missing = "schema" if schema is None else "num_envs"
        raise InputError(f"{missing}: expected for a new store, got None")
    grids = plan_ring(schema, num_envs, budget)
    too_large = [n for n, g in grids.items() if g.chunk_nbytes > MAX_CHUNK_NBYTES]
    if too_large:
        raise InputError(f"a chunk of {', '.join(too_large)} is over 1 GiB: lower buffer_mb")
    return StoreState(
        schema=schema,
        num_envs=num_envs,
        block_steps=grids[VALID_MASK].block_steps,
        chunk_envs={n: g.chunk_envs for n, g in grids.items()},
        chunk_steps=cut_steps(grids),
        compressor=compressor or Compressor.named("auto"),
        nonfinite=dict.fromkeys(float_names(grids), 0),
        identity=secrets.token_hex(16),
    )


def _check_matches(
    state: StoreState,
    path: str,
    schema: Schema | None,
    num_envs: int | None,
    compressor: Compressor | None,
    robot: Any,
) -> None:
    """Refuse to continue a store that is not as requested."""
    problems = [] if schema is None else state.schema.differences(schema)
    if num_envs not in (None, state.num_envs):
        problems.append(f"num_envs: expected {state.num_envs}, got {num_envs}")
    if compressor is not None and compressor.name != state.compressor.name:
        problems.append(f"compressor: expected {state.compressor.name}, got {compressor.name}")
    before = state.metadata.get(ROBOT)
    if before is not None and robot is not None and before != robot:
        problems.append(f"robot: expected {shown(before)}, got {shown(robot)}")
    if problems:
        raise StoreMismatchError(f"{path} was made otherwise: " + "; ".join(problems))


def _this_run(state: StoreState) -> Run:
    """The entry of a run that begins where the store ends."""
    first_id = state.next_trajectory_id
    return Run(
        first_step=state.committed_steps,
        open_envs="",
        started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions=dict(_versions()),
        key=secrets.token_hex(8),
        first_open_id=first_id + int(np.count_nonzero(~state.stopped_open)),
    )


@cache
def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(packages.PackageNotFoundError):
            versions[name] = packages.version(name)
    return versions
