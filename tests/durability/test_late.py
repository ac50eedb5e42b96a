"""Where there are no locks: nothing that a writer does too late changes what came after it.

Another writer opens, goes on, commits and closes right before one of the first writer's file
operations, for each of them in turn. From there on the first one meets another's store.
"""

from __future__ import annotations

import errno
from collections import Counter
from typing import Any

import numpy as np
import pytest

from mosaic_collect import (
    Field,
    Schema,
    StoreExistsError,
    StoreLostError,
    TrajectoryDataset,
    TrajectoryWriter,
    verify_store,
)
from mosaic_collect.store.posix import PosixBlobs
from tests.durability.figures import count
from tests.durability.recording import WrappedFiles
from tests.durability.test_whose import without_locks
from tests.helpers import buffer_mb, contents

SCHEMA = Schema((Field(name="x", dtype="int64"), Field(name="y", dtype="int64", default="x")))
KINDS = {"make_folder", "create", "write", "sync", "rename", "link", "remove", "sync_folder",
         "remove_folder"}  # fmt: skip
BEFORE, FIRST, SECOND = 100, 200, 300  # who added a row; its step is added to that


class Rival(WrappedFiles):
    """Before one operation of a kind somebody else goes on with the store, from start to end."""

    def __init__(self, path: str, kind: str, at: int) -> None:
        super().__init__()
        self.path, self.kind, self.at, self.seen = path, kind, at, 0
        self.done = Counter[str]()
        self.left: dict[str, bytes] = {}

    def do(self, kind: str, call: Any, path: str, *details: Any) -> Any:
        self.done[kind] += 1
        if kind == self.kind and self.done[kind] == self.at:
            with opened_again(self.path) as writer:
                self.seen = writer.num_steps
                add(writer, SECOND, 3)
            self.left = contents(self.path)
        return call()


def opened(place: Any) -> TrajectoryWriter:
    options = {"commit_seconds": None, "threads": 1, "compressor": "none", "resume": "auto"}
    return TrajectoryWriter(place, SCHEMA, 2, buffer_mb=buffer_mb(2, 2, SCHEMA), **options)


def opened_again(path: str) -> TrajectoryWriter:
    """Another thread of the first writer may have committed while it was opened."""
    try:
        return opened(PosixBlobs(path))
    except StoreExistsError:
        return opened(PosixBlobs(path))


def add(writer: TrajectoryWriter, who: int, steps: int) -> None:
    for step in range(writer.num_steps, writer.num_steps + steps):
        writer.add_step(x=np.full(2, who + step), y=np.full(2, who + step))


def prepare(path: str) -> None:
    """Three steps, and beside them what a killed writer left, in the way of what is to come."""
    with opened(path) as writer:
        add(writer, BEFORE, 3)
    for name in ("x/c.2.0", "y/.c.1.0.tmp"):
        with open(f"{path}/{name}", "wb") as file:
            file.write(b"debris")


def live(path: str, rival: Rival) -> tuple[int, bool]:
    """The first writer's life: steps whose commit returned, and whether it was told."""
    acknowledged = 3
    try:
        with opened(PosixBlobs(path, rival)) as writer:
            for _ in range(3):
                add(writer, FIRST, 2)
                writer.commit()
                acknowledged = writer.num_steps
    except (StoreLostError, StoreExistsError):
        return acknowledged, True
    return acknowledged, False


def late(path: str, kind: str, at: int) -> bool:
    """Let a rival come before one operation of a kind; false if there are not so many."""
    prepare(path)
    rival = Rival(path, kind, at)
    acknowledged, told = live(path, rival)
    if not rival.left:
        assert not told
        assert rival.done.keys() == KINDS
        return False
    assert contents(path) == rival.left, rival.kind
    assert verify_store(path).ok
    assert acknowledged <= rival.seen
    assert told or acknowledged == 9
    x = TrajectoryDataset(path).read("x")[:, 0].tolist()
    firsts = range(3, rival.seen)
    assert x == [
        *(BEFORE + s for s in range(3)),
        *(FIRST + s for s in firsts),
        *(SECOND + s for s in range(rival.seen, rival.seen + 3)),
    ]
    return True


def test_whatever_arrives_late_changes_nothing(
    ram_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_locks(monkeypatch, errno.ENOLCK)
    total = 0
    for kind in sorted(KINDS):
        # Counted per kind: which thread's operation comes first is not the same in every run.
        at = 1
        while late(f"{ram_store}.{kind}.{at}", kind, at):
            at += 1
        assert at > 1, kind
        total += at - 1
    count("operations before which a rival came", total)
