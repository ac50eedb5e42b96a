"""Promise 1 in object storage: killed at any instant, with puts that arrive late.

And that the explorer is worth something: it finds each of the mistakes put in below.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("obstore")

from mosaic_collect import TrajectoryWriter
from mosaic_collect.store.commit import Store
from tests.durability.explorer import LostError
from tests.durability.figures import count
from tests.durability.object_states import (
    ObjectExplorer,
    Put,
    RecordedBlobs,
    _groups,
    content,
    filled,
    look_at,
)
from tests.durability.recording import ArraysBeforeRoot, MarkedFirst, MarkedStore
from tests.durability.rig import TINY_ENDS, add_tiny
from tests.durability.test_crash_states import ending_run, first_run, nothing, short_run

Adding = Callable[[int], None]


def report(explorer: ObjectExplorer) -> None:
    count("object storage: instants of a run looked at", explorer.instants)
    count("object storage: states, each opened, compared and resumed", explorer.states)
    count("object storage: puts that arrived late, each at four moments", explorer.late)


def objects_after(log: list[tuple[Any, ...]], groups: int) -> dict[str, bytes]:
    """What is there when a run was killed behind its first groups of puts."""
    found: dict[str, bytes] = {}
    for puts, _ in list(_groups(log))[:groups]:
        found.update({put.key: put.data for put in puts})
    return found


def test_a_first_run() -> None:
    explorer = ObjectExplorer()
    explorer.explore(explorer.record(first_run))
    assert explorer.instants > 10
    assert explorer.states > 200
    report(explorer)


def test_a_run_whose_rows_end_after_their_commit() -> None:
    explorer = ObjectExplorer(schema=TINY_ENDS)
    explorer.explore(explorer.record(ending_run))
    assert explorer.states > 200
    report(explorer)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_run_that_resumes_a_closed_store(steps: int) -> None:
    def before(writer: TrajectoryWriter, adding: Adding) -> None:
        add_tiny(writer, steps)

    explorer = ObjectExplorer()
    first = explorer.record(before)
    objects = objects_after(first, len(first))
    explorer.explore(explorer.record(short_run, objects), objects, steps)
    report(explorer)


def test_a_run_that_resumes_a_killed_one() -> None:
    """Also over its shards that no document speaks of, of which some still arrive."""
    explorer = ObjectExplorer()
    first = explorer.record(first_run)
    groups = len(list(_groups(first)))
    for killed in sorted(random.Random(1).sample(range(1, groups), 5)):
        objects = objects_after(first, killed)
        for script in (nothing, short_run):
            least = look_at(filled(objects))
            explorer.explore(explorer.record(script, objects), objects, least)
    report(explorer)


# -- mistakes that must be found -----------------------------------------------------------------


class Unconditional(RecordedBlobs):
    """Shards and documents are put over whatever is there."""

    def _put(self, key: str, data: Any) -> None:
        import obstore

        self.ask("write", key, obstore.put, key, data, mode="overwrite", use_multipart=False)


class UnconditionalCommit(RecordedBlobs):
    """The root document is."""

    def replace(self, key: str, data: bytes, over: Any) -> Any:
        import obstore

        self.ask("write", key, obstore.put, key, data, mode="overwrite", use_multipart=False)
        self.mark("rest")
        return self.find(key)


class NoSettling(RecordedBlobs):
    """The commit does not wait for its shards."""

    def settle(self, folders: Any) -> None:
        if list(folders) == [""]:
            super().settle(folders)


class RootBeforeShards(RecordedBlobs):
    """The commit comes first of all that is under way."""

    def settle(self, folders: Any) -> None:
        """Not a moment of rest."""

    def send(self, key: str, data: Any, done: Callable[[], None]) -> None:
        self._kept = [*getattr(self, "_kept", []), (key, bytes(data))]
        done()

    def replace(self, key: str, data: bytes, over: Any) -> Any:
        found = super().replace(key, data, over)
        for kept in getattr(self, "_kept", []):
            self._put(*kept)
        self._kept = []
        self.mark("rest")
        return found


@pytest.mark.parametrize(
    ("blobs", "store", "found"),
    [
        (Unconditional, MarkedStore, "the shard does not belong there"),
        (UnconditionalCommit, MarkedStore, "another writer went on with it"),
        (NoSettling, MarkedStore, "is missing"),
        (RootBeforeShards, MarkedStore, "is missing"),
        (RecordedBlobs, ArraysBeforeRoot, "x leads"),
        (RecordedBlobs, MarkedFirst, "0 steps are there, expected 1"),
    ],
    ids=lambda c: getattr(c, "__name__", ""),
)
def test_a_mistake_is_found(blobs: type[RecordedBlobs], store: type[Store], found: str) -> None:
    explorer = ObjectExplorer()
    with pytest.raises(LostError, match=found):
        explorer.explore(explorer.record(first_run, blobs=blobs, store=store))


def test_a_late_put_has_its_condition() -> None:
    objects = filled({"x": b"1"})
    Put("x", b"2", None).arrive(objects)
    Put("x", b"2", b"0").arrive(objects)
    assert content(objects, "x") == b"1"
    Put("x", b"2", b"1").arrive(objects)
    Put("y", b"3", None).arrive(objects)
    assert (content(objects, "x"), content(objects, "y")) == (b"2", b"3")
    Put("x", b"4", b"*").arrive(objects)
    assert content(objects, "x") == b"4"
