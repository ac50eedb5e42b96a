"""Looks at every state that a kill or a power cut can leave of a recorded run.

For each prefix of the run's operations, and each state of the disk that may be found after it, the
store is rebuilt, opened, compared, resumed and compared again. States that are the same, byte for
byte, are looked at once.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from mosaic_collect import TrajectoryWriter
from mosaic_collect.errors import StoreNotFoundError
from mosaic_collect.store.commit import Store
from mosaic_collect.store.files import is_temp_name
from mosaic_collect.store.lock import LOCK_NAME
from mosaic_collect.store.schema import Schema
from tests.durability.disk import Disk, Tree, build
from tests.durability.recording import MarkedStore, RecordingFiles, writing_through
from tests.durability.rig import TINY, check, check_documents, check_resume, open_tiny

STORE = os.path.join("runs", "today", "expert.zarr")
NOTHING = -1  # as a number of steps: not even a store
RAM = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
Script = Callable[[TrajectoryWriter, Callable[[int], None]], None]


class LostError(AssertionError):
    """A state that breaks the promise."""


@dataclass
class Explorer:
    """Counts what it looked at.

    Attributes:
        random_states: Random subsets looked at per prefix.
        schema: Of the stores.
        prefixes: Instants looked at.
        states: States that a power cut may leave at them.
        distinct: Different ones among them, each opened and resumed.
    """

    random_states: int = 4
    schema: Schema = TINY
    prefixes: int = 0
    states: int = 0
    distinct: int = 0
    _known: dict[bytes, int] = field(default_factory=dict)

    def record(
        self,
        script: Script,
        tree: Tree | None = None,
        files: type[RecordingFiles] = RecordingFiles,
        folder: type[Store] = MarkedStore,
    ) -> list[tuple[Any, ...]]:
        """Run the script on a real folder, starting from ``tree``, and write down what it does."""
        with tempfile.TemporaryDirectory(dir=RAM) as temp:
            root = os.path.join(temp, "root")
            build(tree or {}, root)
            recorder = files(root)
            with writing_through(recorder, folder):
                _run(script, os.path.join(root, STORE), self.schema, recorder)
        return recorder.log

    def explore(
        self,
        log: Iterable[tuple[Any, ...]],
        disk: Disk | None = None,
        least: int = NOTHING,
        most: int = 0,
    ) -> None:
        """Look at all instants of a recorded run.

        Args:
            log: The run.
            disk: What it found, and what of that was not safe yet.
            least: Steps that are committed and must stay.
            most: Steps that were added.

        Raises:
            LostError: The first state that is not as promised.
        """
        disk = Disk() if disk is None else disk
        self._look(disk, least, most, "at the start")
        for number, operation in enumerate(log):
            if operation[0] == "mark":
                least, most = _after(operation, least, most)
            else:
                disk.apply(operation)
                self.prefixes += 1
            self._look(disk, least, most, f"after operation {number}, {operation[:2]}")

    def _look(self, disk: Disk, least: int, most: int, when: str) -> None:
        for number, tree in enumerate(disk.states(self.prefixes, self.random_states)):
            self.states += 1
            try:
                steps = self._steps(tree)
                if not least <= steps <= most:
                    raise LostError(f"{steps} steps are there, expected {least}..{most}")
            except Exception as error:
                names = sorted(p for p, c in tree.items() if c is not None)
                raise LostError(f"{when}, state {number}: {error!r}; files: {names}") from error

    def _steps(self, tree: Tree) -> int:
        key = _digest(tree)
        if key not in self._known:
            self.distinct += 1
            self._known[key] = _examine(tree)
        return self._known[key]


def _examine(tree: Tree) -> int:
    """Steps of the rebuilt store, once all that must hold was seen to hold."""
    with tempfile.TemporaryDirectory(dir=RAM) as temp:
        root = os.path.join(temp, "root")
        build(tree, root)
        path = os.path.join(root, STORE)
        if os.path.isdir(path):
            # The lock is no part of the protocol: it may be there or not.
            open(os.path.join(path, LOCK_NAME), "w").close()
        steps = _look_at(path)
        check_resume(path, max(steps, 0))
        return steps


def _look_at(path: str) -> int:
    try:
        steps = check(path)
    except StoreNotFoundError:
        if os.path.exists(path):
            raise
        return NOTHING
    if os.path.exists(os.path.join(path, "zarr.json")):
        check_documents(path)
    return steps


def _run(script: Script, path: str, schema: Schema, recorder: RecordingFiles) -> None:
    with open_tiny(path, schema, resume=os.path.exists(path)) as writer:
        recorder.mark("committed", writer.num_steps)
        script(writer, lambda steps: recorder.mark("added", writer.num_steps + steps))


def _after(mark: tuple[Any, ...], least: int, most: int) -> tuple[int, int]:
    _, what, number = mark
    if what == "committed":
        return max(least, number), max(most, number)
    return least, max(most, number)


def _digest(tree: Tree) -> bytes:
    found = hashlib.blake2b(digest_size=16)
    for path in sorted(tree):
        content = tree[path]
        if content and is_temp_name(os.path.basename(path)):
            # Nobody reads these: empty or not is enough to tell them apart.
            content = b"temp"
        found.update(repr((path, content is None, len(content or b""))).encode())
        found.update(content or b"")
    return found.digest()


def disk_after(log: Iterable[tuple[Any, ...]], prefix: int) -> tuple[Disk, int, int]:
    """The disk when a run was killed behind its first operations, and the bounds then."""
    disk, least, most = Disk(), NOTHING, 0
    for operation in list(log)[:prefix]:
        if operation[0] == "mark":
            least, most = _after(operation, least, most)
        else:
            disk.apply(operation)
    return disk, least, most
