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
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from mosaic_collect.checks import thread_count
from mosaic_collect.errors import (
    CorruptStoreError,
    InputError,
    StoreExistsError,
    StoreNotFoundError,
)
from mosaic_collect.store.blobs import Blob, Blobs, read_all
from mosaic_collect.store.commit import Store
from mosaic_collect.store.label import LABEL_NBYTES, ShardLabel
from mosaic_collect.store.lock import LOCK_NAME
from mosaic_collect.store.metadata import StoreState
from mosaic_collect.store.ranks import CLAIMS, Address, Recording, blobs_at
from mosaic_collect.store.schema import TRAJECTORY_END
from mosaic_collect.store.view import DOCUMENT, StoreView, attributes_of, read_document, read_state
from mosaic_collect.store.workers import WorkerPool


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


def copy_one(
    view: StoreView,
    goal: Blobs,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> CopyReport:
    """Copy one store, as ``copy_store`` does, whose errors these are, but for the source's lack.

    Args:
        view: The store, as it is copied.
        goal: Another place.
        threads: Number of copying threads; None: one per processor, at most 4.
        progress: Called with the number of shards done since the last call.
    """
    start, workers = time.monotonic(), thread_count(threads)
    origin = view.blobs
    _check_target(goal, view.state)
    goal.make()
    store = Store(goal)
    release = goal.claim(store.require_ours)
    try:
        if read_document(goal) is not None:
            store.look()
            _check_older(goal, view.state)
        copying = _Copying(view, goal)
        goal.check_folders(view.grids)
        goal.make_folders(view.grids)
        with WorkerPool(workers, "mosaic-copy") as pool:
            for block in range(view.state.num_blocks):
                copying.block(block, pool, progress or (lambda shards: None))
        store.adopt(view.state, attributes_of(origin, view.state))
    finally:
        release()
    foreign = sorted(view.state.foreign_arrays)
    return CopyReport(
        source=origin.address,
        target=goal.address,
        num_steps=view.state.committed_steps,
        copied=copying.copied,
        kept=copying.kept,
        nbytes=copying.nbytes,
        seconds=time.monotonic() - start,
        notes=(f"left out what others added: {', '.join(foreign)}",) if foreign else (),
    )


class _Copying:
    """Shards on their way.

    Attributes:
        copied: Number of shards that were copied.
        kept: Number of shards that the target had already.
        nbytes: Bytes of the shards that were copied.
    """

    def __init__(self, view: StoreView, goal: Blobs) -> None:
        self._view, self._goal = view, goal
        self._names = view.state.schema.stored_names
        self.copied = self.kept = self.nbytes = 0

    def block(self, block: int, pool: Executor, progress: Callable[[int], object]) -> None:
        """One block's, those last that may be the same file as another field's."""
        twins = [n for n in self._names if isinstance(self._view.grids[n].field.default, str)]
        for names in ([n for n in self._names if n not in twins], twins):
            for nbytes in pool.map(partial(self._shard, block), names):
                self.copied += nbytes is not None
                self.kept += nbytes is None
                self.nbytes += nbytes or 0
                progress(1)
        self._goal.settle([])

    def _shard(self, block: int, name: str) -> int | None:
        """Bytes of one that was copied; None for one that was there."""
        key = self._view.grids[name].shard_key(block)
        if self._is_there(key, name):
            return None
        with self._view.shard(name, block) as shard:
            data = shard.whole()
        source = self._source_of(data, name)
        if source is not None and self._goal.links:
            self._goal.link(self._view.grids[source].shard_key(block), key)
            return 0
        upload = self._goal.upload(key)
        try:
            upload.write([data])
        except BaseException:
            upload.abandon()
            raise
        upload.finish()
        return len(data)

    def _source_of(self, data: bytes, name: str) -> str | None:
        """The field whose shard this one shares, by its label."""
        label = ShardLabel.unpack(data[:LABEL_NBYTES], name)
        return self._names[label.field] if self._names[label.field] != name else None

    def _is_there(self, key: str, name: str) -> bool:
        """Whether the target has this shard: the same size, label and index.

        Only ends may change behind the same label, so of them all is compared.
        """
        there = self._goal.find(key)
        if there is None:
            return False
        mine, theirs = self._view.blobs.open(key), self._goal.open(key)
        try:
            _check_identity(theirs, self._view.state)
            tail = 16 * self._view.grids[name].chunks + 4
            parts = [(0, LABEL_NBYTES), (mine.nbytes - tail, tail)]
            if name == TRAJECTORY_END:
                parts = [(0, mine.nbytes)]
            return mine.nbytes == theirs.nbytes and all(
                mine.read(*part) == theirs.read(*part) for part in parts
            )
        finally:
            mine.close()
            theirs.close()


def _check_identity(blob: Blob, state: StoreState) -> None:
    """Refuse to replace what no copy of the store can have left."""
    try:
        label = ShardLabel.unpack(blob.read(0, LABEL_NBYTES), blob.address)
    except CorruptStoreError:
        return  # half a shard, or a damaged one
    if label.store != state.identity:
        raise StoreExistsError(f"{blob.address}: it is another store's; copy to another place")


def _check_target(goal: Blobs, state: StoreState) -> None:
    if not goal.is_taken():
        return
    if goal.is_there() and read_document(goal) is not None:
        _check_older(goal, state)
        return
    ours = {LOCK_NAME, *state.schema.stored_names}
    others = [n for n in goal.names() if n not in ours and not goal.is_debris(n)]
    if others or not goal.is_there():
        raise StoreExistsError(
            f"{goal.address} exists and is no copy of the store: it holds {others[:3]}; copy to "
            "another place"
        )


def _check_older(goal: Blobs, state: StoreState) -> None:
    """An older copy has only steps that the store has, by the same runs."""
    there = read_state(goal)
    if there is None:
        return
    mine, theirs = ([run.key for run in s.runs] for s in (state, there))
    same = there.identity == state.identity and mine[: len(theirs)] == theirs
    if not same or there.committed_steps > state.committed_steps:
        raise StoreExistsError(
            f"{goal.address}: another store, of {there.committed_steps} steps, lies there, or the "
            "copy there was gone on with; copy to another place"
        )


#: Of a claim, or of a document that says only whose folder this is.
_MOST_NBYTES = 1 << 16


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
    origin, goal = blobs_at(source, "source"), blobs_at(target, "target")
    found = Recording.find(origin)
    if not found.is_multi_rank:
        view = StoreView.of(origin, found.document)
        if view is None:
            raise StoreNotFoundError(f"{origin.address} was killed before its first commit")
        _check_apart(origin, goal)
        return copy_one(view, goal, threads, progress)
    _check_apart(origin, goal)
    _make_folder(found, goal)
    reports, unborn = [], []
    for name, store in found.stores.items():
        view = StoreView.of(store)
        if view is None:
            unborn.append(f"left out {name}: it was killed before its first commit")
            continue
        reports.append(copy_one(view, goal.within(name), threads, progress))
    counted = ("num_steps", "copied", "kept", "nbytes", "seconds")
    return CopyReport(
        source=origin.address,
        target=goal.address,
        **{name: sum(getattr(report, name) for report in reports) for name in counted},
        notes=(*unborn, *(note for report in reports for note in report.notes)),
    )


def _check_apart(origin: Blobs, goal: Blobs) -> None:
    if goal.place() == origin.place():
        raise InputError(f"target: expected another place than the source's, got {goal.address}")


def _make_folder(source: Recording, goal: Blobs) -> None:
    """The folder of ranks, without its stores; claims are only ever added, each once."""
    there = Recording.find(goal)
    strange = [n for n in goal.names() if n != CLAIMS and not goal.is_debris(n)]
    if there.identity != source.identity and (there.is_multi_rank or strange):
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
