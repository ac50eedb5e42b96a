"""Promises 1 and 2: killed or cut off at any instant, the committed steps are there, bit for bit.

And that the explorer is worth something: it finds every one of the classic mistakes put in below.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from mosaic_collect import TrajectoryWriter
from mosaic_collect.store.commit import Store
from mosaic_collect.store.metadata import StoreState
from tests.durability.disk import Disk
from tests.durability.explorer import Explorer, LostError, disk_after
from tests.durability.figures import count
from tests.durability.recording import (
    ArraysBeforeRoot,
    MarkedFirst,
    MarkedStore,
    RecordingFiles,
)
from tests.durability.rig import TINY_ENDS, add_tiny

Adding = Callable[[int], None]


def first_run(writer: TrajectoryWriter, adding: Adding) -> None:
    """A partial block, that block grown, one of two full blocks, ends, and the close."""
    for steps in (1, 1):
        adding(steps)
        add_tiny(writer, steps)
        writer.commit()
    writer.end_trajectories([0])
    adding(2)
    add_tiny(writer, 2)
    writer.end_trajectories([1])
    adding(1)
    add_tiny(writer, 1)


def short_run(writer: TrajectoryWriter, adding: Adding) -> None:
    """Steps that grow the last block, whatever it held, and begin another."""
    adding(2)
    add_tiny(writer, 2)


def nothing(writer: TrajectoryWriter, adding: Adding) -> None:
    """Open and close."""


def test_a_first_run() -> None:
    explorer = Explorer(random_states=2)
    explorer.explore(explorer.record(first_run))
    assert explorer.prefixes > 150
    assert explorer.distinct > 300
    report(explorer)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_run_that_resumes_a_closed_store(steps: int) -> None:
    def before(writer: TrajectoryWriter, adding: Adding) -> None:
        add_tiny(writer, steps)

    explorer = Explorer(random_states=0)
    disk, least, most = disk_after(first := explorer.record(before), len(first))
    log = explorer.record(short_run, next(disk.states(0, 0)))
    explorer.explore(log, disk, least, max(most, steps))
    report(explorer)


def test_a_run_that_resumes_a_killed_one_and_is_cut_off_itself() -> None:
    """What the killed run had not synced may still be lost when the second run is at work."""
    explorer = Explorer(random_states=0)
    first = explorer.record(first_run)
    risky = [i + 1 for i, operation in enumerate(first) if operation[0] == "rename"]
    for prefix in sorted(random.Random(1).sample(risky, 5)):
        disk, least, most = disk_after(first, prefix)
        log = explorer.record(nothing, next(disk.states(0, 0)))
        explorer.explore(log, disk, least, most)
    report(explorer)


def ending_run(writer: TrajectoryWriter, adding: Adding) -> None:
    """Ends told after their row's commit: of a partial block, of a full one, before the close."""
    for steps, failed in ((1, []), (1, [0]), (1, [])):
        adding(steps)
        add_tiny(writer, steps)
        writer.commit()
        writer.end_trajectories([0, 1], failed and [0, 1])
        if steps == 1 and not failed:
            writer.commit()


def test_a_run_whose_rows_end_after_their_commit() -> None:
    explorer = Explorer(random_states=0, schema=TINY_ENDS)
    explorer.explore(explorer.record(ending_run))
    assert explorer.distinct > 100
    report(explorer)


def report(explorer: Explorer) -> None:
    count("instants of a run looked at", explorer.prefixes)
    count("states a power cut may leave at them", explorer.states)
    count("distinct ones, each opened, compared and resumed", explorer.distinct)


# -- mistakes that must be found -----------------------------------------------------------------


def without(kind: str, is_left_out: Callable[[str], bool]) -> type[RecordingFiles]:
    """Files of which no operation of a kind is done on such paths."""

    class Without(RecordingFiles):
        def do(self, done: str, call: Any, path: str, *details: Any) -> Any:
            if done == kind and is_left_out(path):
                return None
            return super().do(done, call, path, *details)

    return Without


class InPlace(RecordingFiles):
    """The root document is overwritten, not replaced."""

    def create(self, path: str) -> Any:
        return super().create(path.replace("/.zarr.json.tmp", "/zarr.json"))

    def write(self, path: str, fd: int, buffers: Any) -> None:
        super().write(path.replace("/.zarr.json.tmp", "/zarr.json"), fd, buffers)

    def sync(self, path: str, fd: int) -> None:
        super().sync(path.replace("/.zarr.json.tmp", "/zarr.json"), fd)

    def rename(self, source: str, target: str) -> None:
        if not target.endswith("/zarr.json"):
            super().rename(source, target)


class RootBeforeShards(MarkedStore):
    """Steps 2 and 3 of the protocol swapped: the commit, then the names that it speaks of."""

    def publish(self, state: StoreState, with_shards: bool) -> None:
        super().publish(state, with_shards=False)
        self.blobs.settle(f.name for f in state.schema.stored)


@pytest.mark.parametrize(
    ("files", "folder", "found"),
    [
        # Files get their names before their bytes are safe; the same of shards alone.
        (without("sync", lambda path: True), MarkedStore, "zarr.json is no valid JSON"),
        (
            without("sync", lambda path: "zarr.json" not in path),
            *(MarkedStore, "block 0: 0 bytes cannot hold an index"),
        ),
        # No name of a shard is made safe before its commit; a commit returns before its own name,
        # and the store's name above it, is.
        (
            without("sync_folder", lambda path: ".zarr/" in path),
            *(MarkedStore, "c.0.0.0 is missing"),
        ),
        (
            without("sync_folder", lambda path: path.endswith(".zarr")),
            *(MarkedStore, "zarr.json is missing"),
        ),
        (
            without("sync_folder", lambda path: path.endswith("today")),
            *(MarkedStore, "-1 steps are there, expected 0"),
        ),
        (InPlace, MarkedStore, "zarr.json is no valid JSON"),
        (RecordingFiles, RootBeforeShards, "c.0.0.0 is missing"),
        (RecordingFiles, ArraysBeforeRoot, "x leads"),
        (RecordingFiles, MarkedFirst, "0 steps are there, expected 1"),
    ],
    ids=[
        *("no data sync", "no shard sync", "no folder sync", "no root sync", "no sync above"),
        *("in place", "root before shards", "arrays before root"),
        "marked first",
    ],
)
def test_a_mistake_is_found(files: type[RecordingFiles], folder: type[Store], found: str) -> None:
    explorer = Explorer(random_states=0)
    log = explorer.record(first_run, files=files, folder=folder)
    with pytest.raises(LostError, match=found):
        explorer.explore(log)


class RecoverTrustsTheCache(MarkedStore):
    """A resume believes the root document it reads, which a power cut may still take back."""

    def _write_root(self, state: StoreState) -> None:
        if not hasattr(self, "_resuming"):
            super()._write_root(state)

    def recover(self, state: StoreState, holder: str) -> list[str]:
        self._resuming = True
        try:
            return super().recover(state, holder)
        finally:
            del self._resuming


def test_a_resume_that_trusts_the_cache_is_found() -> None:
    explorer = Explorer(random_states=0)
    first = explorer.record(first_run)
    renamed = [
        i + 1
        for i, operation in enumerate(first)
        if operation[0] == "rename" and operation[2].endswith(".zarr/zarr.json")
    ]
    disk, least, most = disk_after(first, renamed[1])
    log = explorer.record(nothing, next(disk.states(0, 0)), folder=RecoverTrustsTheCache)
    with pytest.raises(LostError):
        explorer.explore(log, disk, least, most)


# -- the model of the disk itself ----------------------------------------------------------------


def test_the_disk_forgets_what_was_not_synced() -> None:
    disk = Disk()
    for operation in [("create", "a"), ("write", "a", b"1234")]:
        disk.apply(operation)
    found = {tuple(sorted(t.items())) for t in disk.states(0, 0)}
    assert found == {(), *(((("a", c)),) for c in (b"", b"12", b"1234", bytes(4)))}
    disk.apply(("sync", "a"))
    assert {tuple(t.items()) for t in disk.states(0, 0)} == {(), (("a", b"1234"),)}
    disk.apply(("sync_folder", ""))
    assert list(disk.states(0, 0))[1:] == [{"a": b"1234"}] * 4


def test_a_rename_is_one_thing() -> None:
    disk = Disk()
    for operation in [("create", "a"), ("sync_folder", ""), ("create", "b")]:
        disk.apply(operation)
    disk.apply(("write", "b", b"new"))
    disk.apply(("sync", "b"))
    disk.apply(("rename", "b", "a"))
    found = {tuple(sorted(t.items())) for t in disk.states(0, 0)}
    assert found == {(("a", b""),), (("a", b""), ("b", b"new")), (("a", b"new"),)}


def test_what_lies_in_a_lost_folder_is_lost() -> None:
    disk = Disk()
    for operation in [("make_folder", "f"), ("create", "f/a"), ("sync_folder", "f")]:
        disk.apply(operation)
    assert {tuple(t) for t in disk.states(0, 0)} == {(), ("f", "f/a")}
