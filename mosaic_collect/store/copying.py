"""A store copied to another place, from any medium to any: shards first, its root document last.

    source                       target
    x/c.0.0, y/c.0.0   ──▶  checksums ──▶  x/c.0.0, y/c.0.0     as many threads as are asked for
    x/c.1.0, y/c.1.0   ──▶  ...
    zarr.json                               zarr.json            when all shards are safe

Until then the target holds no store, or the older copy that it held. So a copy that was interrupted
is only done again: a shard that is there is left alone.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from mosaic_collect.checks import thread_count
from mosaic_collect.errors import (
    CorruptStoreError,
    InputError,
    StoreExistsError,
    StoreNotFoundError,
)
from mosaic_collect.store.blobs import Blobs, read_all
from mosaic_collect.store.commit import Store
from mosaic_collect.store.lock import LOCK_NAME
from mosaic_collect.store.metadata import StoreState
from mosaic_collect.store.ranks import CLAIMS, Address, Recording, blobs_at
from mosaic_collect.store.schema import TRAJECTORY_END
from mosaic_collect.store.shard import LABEL_NBYTES, ShardLabel
from mosaic_collect.store.view import (
    DOCUMENT,
    StoreView,
    attributes_of,
    other_names,
    read_document,
    read_state,
)
from mosaic_collect.store.workers import WorkerPool

_MOST_NBYTES = 1 << 16  # of a claim, or of the document of a folder of ranks


@dataclass(frozen=True)
class CopyReport:
    """What was copied.

    Attributes:
        source: Address of the store that was copied.
        target: Address of the copy.
        num_steps: Number of committed steps; of all ranks.
        copied: Number of shards that were copied.
        kept: Number of shards that the target had already.
        nbytes: Bytes of the shards that were copied.
        seconds: Duration of the copy.
        notes: Remarks on anything left out.
    """

    source: str
    target: str
    num_steps: int
    copied: int
    kept: int
    nbytes: int
    seconds: float
    notes: tuple[str, ...] = ()


def copy_store(
    source: Address,
    target: Address,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> CopyReport:
    """Copy a store to another place, as it is when this is called; its writer may go on.

    Shards are read whole, held against their labels, indexes and checksums, and written as they
    are. When this returns the copy is safe in its place: it is the same store, which a writer may
    resume, and a later copy brings it up to date. After an error or a kill the target holds what it
    held as a store; calling this again goes on. In memory are as many shards as ``threads``, and on
    the way to object storage those of a block. Of a folder of ranks each store is copied so, and
    what ranks have claimed; an interrupted copy of one lacks ranks, which readers of it tell.

    Args:
        source: The store, or the folder of ranks.
        target: Address where nothing lies, an interrupted copy of the store, or an older copy.
        threads: Number of copying threads; None: one per processor, at most 4.
        progress: Called with the number of shards done since the last call.

    Raises:
        StoreNotFoundError: There is no store.
        StoreExistsError: Something else lies at the target, or the copy there was gone on with.
        StoreLockedError: Somebody is writing to the target.
        CorruptStoreError: A shard of the source is damaged.
        OSError: A medium said no.
    """
    start, workers = time.monotonic(), thread_count(threads)
    origin, goal = blobs_at(source, "source"), blobs_at(target, "target")
    found = Recording.find(origin)
    counts = Counter(num_steps=0, copied=0, kept=0, nbytes=0)
    unborn, foreign = [], []

    def count(nbytes: int | None) -> None:
        counts.update(copied=nbytes is not None, kept=nbytes is None, nbytes=nbytes or 0)
        if progress is not None:
            progress(1)

    if goal.place() == origin.place():
        raise InputError(f"target: expected another place than the source's, got {goal.address}")
    if found.is_multi_rank:
        _make_folder(found, goal)
    for name, blobs in found.stores.items():
        view = StoreView.of(blobs, found.document)
        if view is not None:
            _copy_one(view, goal.within(name) if found.is_multi_rank else goal, workers, count)
            counts["num_steps"] += view.state.committed_steps
            if added := sorted(view.state.foreign_arrays):
                foreign.append(f"left out what others added: {', '.join(added)}")
        elif found.is_multi_rank:
            unborn.append(f"left out {name}: it was killed before its first commit")
        else:
            raise StoreNotFoundError(f"{origin.address} was killed before its first commit")
    return CopyReport(
        source=origin.address,
        target=goal.address,
        seconds=time.monotonic() - start,
        notes=(*unborn, *foreign),
        **counts,
    )


def _make_folder(source: Recording, goal: Blobs) -> None:
    """Copy a folder of ranks without its stores; claims are only ever added, each once."""
    there = Recording.find(goal)
    others = other_names(goal, [CLAIMS])
    if there.identity != source.identity and (there.is_multi_rank or others):
        raise StoreExistsError(
            f"{goal.address} exists and is no copy of this folder of ranks: copy to another place"
        )
    goal.make()
    goal.make_folders([CLAIMS])
    for key in (*(f"{CLAIMS}/{name}" for name in source.blobs.names(CLAIMS)), DOCUMENT):
        if source.blobs.is_debris(key.rpartition("/")[2]):
            continue
        data = read_all(source.blobs, key, _MOST_NBYTES)
        if not goal.create(key, data) and read_all(goal, key, _MOST_NBYTES) != data:
            raise StoreExistsError(
                f"{goal.address}/{key}: ranks went on with the copy; copy to another place"
            )


def _copy_one(
    view: StoreView, goal: Blobs, threads: int, count: Callable[[int | None], None]
) -> None:
    """Copy a store; ``count`` gets each shard's bytes, None if the target had it already."""
    state = view.state
    _check_target(goal, state)
    goal.make()
    store = Store(goal)
    release = goal.claim(store.require_ours)
    try:
        if read_document(goal) is not None:
            _check_older(store.look(), state, goal)
        goal.make_folders(view.grids)
        # A field that may share the shard of its default comes behind that, in the same thread.
        groups = [
            [f.name, *(g.name for g in state.schema.fields if g.default == f.name)]
            for f in state.schema.stored
            if not isinstance(f.default, str)
        ]
        with WorkerPool(threads, "mosaic-copy") as pool:
            for block in range(state.num_blocks):
                for copied in pool.map(partial(_copy_shards, view, goal, block), groups):
                    for nbytes in copied:
                        count(nbytes)
                goal.settle([])
        store.adopt(state, attributes_of(view.blobs, state))
    finally:
        release()


def _check_target(goal: Blobs, state: StoreState) -> None:
    if not goal.is_taken():
        return
    if goal.is_there() and read_document(goal) is not None:
        _check_older(read_state(goal), state, goal)
        return
    others = other_names(goal, {LOCK_NAME, *state.schema.stored_names})
    if others or not goal.is_there():
        raise StoreExistsError(
            f"{goal.address} exists and is no copy of the store: it holds {others[:3]}; copy to "
            "another place"
        )


def _check_older(there: StoreState | None, state: StoreState, goal: Blobs) -> None:
    """Refuse to write over a store that is no older copy: the same runs, and no more steps."""
    if there is None:
        return
    mine, theirs = ([run.key for run in s.runs] for s in (state, there))
    same = there.identity == state.identity and mine[: len(theirs)] == theirs
    if not same or there.committed_steps > state.committed_steps:
        raise StoreExistsError(
            f"{goal.address}: another store, of {there.committed_steps} steps, lies there, or the "
            "copy there was gone on with; copy to another place"
        )


def _copy_shards(view: StoreView, goal: Blobs, block: int, names: list[str]) -> list[int | None]:
    return [_copy_shard(view, goal, block, name) for name in names]


def _copy_shard(view: StoreView, goal: Blobs, block: int, name: str) -> int | None:
    """Copy a shard and return its bytes; None if the target has it already."""
    key = view.grids[name].shard_key(block)
    if _is_there(view, goal, key, name):
        return None
    with view.shard(name, block) as shard:
        data = shard.whole()
    label = ShardLabel.unpack(data[:LABEL_NBYTES], name)
    owner = view.state.schema.stored_names[label.field]
    if owner != name and goal.links:
        goal.link(view.grids[owner].shard_key(block), key)
        return 0
    upload = goal.upload(key)
    try:
        upload.write([data])
    except BaseException:
        upload.abandon()
        raise
    upload.finish()
    return len(data)


def _is_there(view: StoreView, goal: Blobs, key: str, name: str) -> bool:
    """Whether the target has this shard: the same size, label and index.

    Only ends may change behind the same label, so of them all is compared.
    """
    if goal.find(key) is None:
        return False
    with closing(view.blobs.open(key)) as mine, closing(goal.open(key)) as theirs:
        try:
            label = ShardLabel.unpack(theirs.read(0, LABEL_NBYTES), theirs.address)
        except CorruptStoreError:
            return False  # half a shard, or a damaged one
        if label.store != view.state.identity:
            raise StoreExistsError(
                f"{theirs.address}: it is another store's; copy to another place"
            )
        tail = 16 * view.grids[name].chunks + 4
        parts = [(0, LABEL_NBYTES), (mine.nbytes - tail, tail)]
        if name == TRAJECTORY_END:
            parts = [(0, mine.nbytes)]
        return mine.nbytes == theirs.nbytes and all(
            mine.read(*part) == theirs.read(*part) for part in parts
        )
