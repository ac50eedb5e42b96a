"""Opening a store for writing: everything that may be refused is refused here, before a write."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import platform
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib import metadata as packages
from typing import Any

import numpy as np

from mosaic_collect.checks import whole
from mosaic_collect.errors import (
    InputError,
    MosaicCollectError,
    SpaceError,
    StoreExistsError,
    StoreMismatchError,
    StoreNotFoundError,
    WriteError,
)
from mosaic_collect.recording.ring.blocks import Block, HostStaging, SharedRing
from mosaic_collect.recording.ring.budget import Budget, block_nbytes, plan_ring
from mosaic_collect.store.blobs import Blobs
from mosaic_collect.store.codec import Compressor
from mosaic_collect.store.commit import Store
from mosaic_collect.store.counts import float_names, nonfinite_pairs
from mosaic_collect.store.grid import cut_steps
from mosaic_collect.store.metadata import Run, StoreState
from mosaic_collect.store.parsing import MAX_CHUNK_NBYTES, MAX_ENVS, json_copy
from mosaic_collect.store.ranks import Destination
from mosaic_collect.store.robot import ROBOT, Robot
from mosaic_collect.store.schema import VALID_MASK, Schema
from mosaic_collect.store.view import AUTO, Resume, StoreView, existing_state
from mosaic_collect.text import reason, shown

_log = logging.getLogger(__name__)
_PACKAGES = ("mosaic-collect", "numpy", "numcodecs", "torch", "rsl-rl-lib", "isaaclab", "mjlab")


@dataclass
class OpenStore:
    """A store that a writer may go on with.

    Attributes:
        release: Lets the next writer in.
        existing: State of the store that is continued; None: a new one.
        state: State as committed, with the metadata of this opening.
        run: This run's entry.
        free: The ring's free slots; at most one of them is filled yet.
        partial: The last block, loaded, if it is not full.
        partial_counts: Counts of the committed rows of ``partial``, as of ``Commit``.
        ring_nbytes: Bytes of the ring's slots.
    """

    store: Store
    release: Callable[[], None]
    existing: StoreState | None
    state: StoreState
    run: Run
    staging: HostStaging
    free: list[Block]
    partial: Block | None
    partial_counts: Counter[str]
    ring_nbytes: int

    def begin(self) -> None:
        """Write to the store for the first time: all that can be refused was refused before."""
        try:
            if self.existing is None:
                self.store.begin(self.state, self.run.key)
            else:
                self.store.recover(self.existing, self.run.key)
        except OSError as error:
            raise _failure(self.store.blobs, self.store.explained(error)) from error

    def forget_blocks(self) -> None:
        """Give the ring back, as far as it is held here."""
        self.free, self.partial = [], None

    def abandon(self) -> None:
        """Give back all, where no writer came of it."""
        self.forget_blocks()
        try:
            self.staging.close()
        finally:
            self.release()


def open_store(
    where: Destination,
    schema: Schema | None,
    num_envs: int | None,
    *,
    metadata: Mapping[str, Any] | None,
    robot: Robot | Mapping[str, Any] | None,
    resume: Resume,
    overwrite: bool,
    device: str,
    ring_nbytes: int | None,
    compressor: Compressor | None,
    process_nbytes: float,
) -> OpenStore:
    """Create a store or open one to go on with; errors as ``TrajectoryWriter``'s.

    Its arguments, too, but for the bound of the ring (None: "auto"), the compressor (None: "auto"),
    and the size from which a ring is encoded by a process of its own.
    """
    if schema is not None and not isinstance(schema, Schema):
        raise InputError(f"schema: expected a Schema, got {type(schema).__name__}")
    if num_envs is not None:
        num_envs = whole(num_envs, "num_envs", 1, MAX_ENVS)
    blobs, added = where.blobs, json_copy(metadata or {})
    budget = Budget.of(ring_nbytes, _free_device_nbytes(device))
    if robot is not None:
        added[ROBOT] = Robot.parse(robot).to_metadata()
    described = Robot.from_metadata(added)
    try:
        existing = _existing(where, resume, overwrite)
        is_empty = existing is not None and not existing.committed_steps
        if is_empty and resume == AUTO and None not in (schema, num_envs):
            existing = None  # of a run that failed before its first commit, with other fields maybe
        if existing is None:
            state = _new_state(schema, num_envs, compressor, budget)
        else:
            state = existing
            _check_matches(state, blobs.address, schema, num_envs, compressor, added.get(ROBOT))
        state = replace(state, metadata=json_copy({**state.metadata, **added}))
        if described is not None:
            described.check(state.schema, state.metadata)
        _check_room(blobs, state)
        state = where.join(existing, state)
        # Where no lock shows whether its writer lives, an empty store is replaced on demand alone.
        most = 0 if resume == AUTO or not blobs.guards else -1
        store, release = _claim(blobs, existing, math.inf if overwrite else most)
        try:
            return _prepare(store, release, existing, state, budget, device, process_nbytes)
        except BaseException as error:
            release()
            if isinstance(error, OSError):
                raise _failure(blobs, store.explained(error)) from error
            raise
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
    blobs: Blobs, existing: StoreState | None, most_replaced: float
) -> tuple[Store, Callable[[], None]]:
    """Become the writer of a store, if it still is as it was read.

    A new one replaces a store of at most ``most_replaced`` steps.
    """
    blobs.make()
    store = Store(blobs)
    release = blobs.claim(store.require_ours)
    try:
        # Another writer may have been at work until the claim was ours.
        found = store.look()
        is_replaced = found is not None and found.committed_steps <= most_replaced
        if found != existing and not (existing is None and is_replaced):
            raise StoreExistsError(
                f"{blobs.address} changed while it was being opened; open it again"
            )
    except BaseException:
        release()
        raise
    return store, release


def _prepare(
    store: Store,
    release: Callable[[], None],
    existing: StoreState | None,
    state: StoreState,
    budget: Budget,
    device: str,
    process_nbytes: float,
) -> OpenStore:
    nbytes = block_nbytes(state.grids())
    slots = budget.slots(nbytes)
    staging = _staging_of(state, device, slots, slots * nbytes >= process_nbytes)
    try:
        free = [staging.new_block(slot) for slot in range(slots)]
        partial, counts = None, Counter[str]()
        if state.committed_steps % state.block_steps:
            partial = free.pop()
            counts = _load_partial(StoreView(store.blobs, state), partial)
        else:
            free[-1].fill()  # the others are filled while steps come in
    except BaseException:
        staging.close()
        raise
    run, size = _this_run(state), slots * nbytes
    return OpenStore(store, release, existing, state, run, staging, free, partial, counts, size)


def _free_device_nbytes(device: str) -> int | None:
    if device == "cpu":
        return None
    from mosaic_collect.recording.ring.cuda import free_device_nbytes

    return free_device_nbytes(device)


def _staging_of(state: StoreState, device: str, slots: int, shared: bool) -> HostStaging:
    """What copies steps; if ``shared``, to a ring that another process sees, if one can be made."""
    if shared:
        try:
            # What a device copies out lies as it does there, and is read as the codecs want it.
            return _staging_in(state, device, SharedRing(state.grids(), slots, device == "cpu"))
        except SpaceError:
            raise
        except OSError as error:
            _log.warning("no memory that processes can share: %s; encoding in threads", error)
    # Only here, where no traceback holds the staging any more that failed.
    return _staging_in(state, device, None)


def _staging_in(state: StoreState, device: str, ring: SharedRing | None) -> HostStaging:
    if device == "cpu":
        return HostStaging(state.grids(), state.num_envs, ring)
    from mosaic_collect.recording.ring.cuda import DeviceStaging  # torch is optional on the CPU

    return DeviceStaging(state.grids(), state.num_envs, device, ring)


def _load_partial(view: StoreView, block: Block) -> Counter[str]:
    """Read the last block's committed rows back into a slot, and count them."""
    state = view.state
    index, count = divmod(state.committed_steps, state.block_steps)
    for name in view.grids:
        view.read_into(name, index, block.arrays[name])
    block.index, block.count = index, count
    block.clear_tail(count)
    mask = block.arrays[VALID_MASK][: state.num_envs, :count]
    nonfinite = {n: nonfinite_pairs(block.arrays[n]) for n in float_names(view.grids)}
    return Counter({VALID_MASK: int(np.count_nonzero(mask)), **nonfinite})


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


@functools.cache
def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(packages.PackageNotFoundError):
            versions[name] = packages.version(name)
    return versions
