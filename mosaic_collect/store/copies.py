"""Copies of what a user calls a recording: a store, or a folder of ranks, whose stores come last.

source                 target
claims/*         ──▶   claims/*        which ranks joined: until they are there, they are missing
zarr.json        ──▶   zarr.json
rank-00000/      ──▶   rank-00000/     each as a store by itself
"""

from __future__ import annotations

from collections.abc import Callable

from mosaic_collect.errors import InputError, StoreExistsError, StoreNotFoundError
from mosaic_collect.store.address import Address, blobs_at
from mosaic_collect.store.blobs import Blobs, read_all
from mosaic_collect.store.copying import CopyReport, copy_one
from mosaic_collect.store.parts import CLAIMS, Parts
from mosaic_collect.store.root import DOCUMENT
from mosaic_collect.store.view import StoreView

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
        target: Where nothing lies, an interrupted copy of it, or an older one.
        threads: That copy; default: the processors, at most 4.
        progress: Told the shards done since the last call.

    Raises:
        StoreNotFoundError: There is no store.
        StoreExistsError: Something else lies at the target, or the copy there was gone on with.
        StoreLockedError: Somebody is writing to the target.
        CorruptStoreError: A shard of the source is damaged.
        OSError: A medium said no.
    """
    origin, goal = blobs_at(source, "source"), blobs_at(target, "target")
    parts = Parts.find(origin)
    if parts is None:
        view = StoreView.of(origin)
        if view is None:
            raise StoreNotFoundError(f"{origin.address} was killed before its first commit")
        _check_apart(origin, goal)
        return copy_one(view, goal, threads, progress)
    _check_apart(origin, goal)
    _make_folder(parts, goal)
    reports, unborn = [], []
    for name, store in parts.stores().items():
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


def _make_folder(parts: Parts, goal: Blobs) -> None:
    """The folder of ranks, without its stores; claims are only ever added, each once."""
    there = Parts.find(goal)
    strange = [n for n in goal.names() if n != CLAIMS and not goal.is_debris(n)]
    if (there is None and strange) or (there is not None and there.identity != parts.identity):
        raise StoreExistsError(
            f"{goal.address} exists and is no copy of this folder of ranks: copy to another place"
        )
    goal.make()
    goal.make_folders([CLAIMS])
    for key in (*(f"{CLAIMS}/{name}" for name in parts.blobs.names(CLAIMS)), DOCUMENT):
        if parts.blobs.is_debris(key.rpartition("/")[2]):
            continue
        data = read_all(parts.blobs, key, _MOST_NBYTES)
        if not goal.create(key, data) and read_all(goal, key, _MOST_NBYTES) != data:
            raise StoreExistsError(
                f"{goal.address}/{key}: ranks went on with the copy; copy to another place"
            )
