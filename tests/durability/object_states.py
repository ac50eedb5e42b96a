"""Looks at every state that a kill can leave of a run in object storage.

A put happens as a whole or not at all, so there is nothing torn. But several are under way at a
time, in no order, and one that was under way when its writer died may still arrive, at any time
later: when the next writer opens the store, writes, or is done. So a state is: what was finished,
some of what was under way, and the rest of that, late, at some moment of the next run.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from unittest.mock import patch

import obstore
from obstore.store import MemoryStore

from mosaic_collect import TrajectoryDataset, TrajectoryWriter
from mosaic_collect.errors import StoreError, StoreNotFoundError
from mosaic_collect.recording import opening
from mosaic_collect.store.blobs import Version
from mosaic_collect.store.commit import Store
from mosaic_collect.store.metadata import StoreState
from mosaic_collect.store.objects import ObjectBlobs
from mosaic_collect.store.schema import Schema
from tests.durability.explorer import NOTHING, LostError
from tests.durability.recording import MarkedStore
from tests.durability.rig import TINY, add_tiny, check, check_documents, open_tiny

Objects = dict[str, bytes]
MOMENTS = ("while the next one opens", "when it has opened", "when it has committed", "at last")
_MOST_WHOLE = 4  # puts under way of which all subsets are looked at


class Put(NamedTuple):
    """A put: its key and content, and what must have been there; b"*": whatever it is."""

    key: str
    data: bytes
    over: bytes | None

    def arrive(self, objects: MemoryStore) -> None:
        """Late, as its condition lets it."""
        if self.over == b"*" or content(objects, self.key) == self.over:
            obstore.put(objects, self.key, self.data)


def content(objects: MemoryStore, key: str) -> bytes | None:
    try:
        return bytes(obstore.get(objects, key).bytes())
    except FileNotFoundError:
        return None


def filled(objects: Objects) -> MemoryStore:
    made = MemoryStore()
    for key, data in objects.items():
        obstore.put(made, key, data)
    return made


class RecordedBlobs(ObjectBlobs):
    """Writes down puts, with what they replaced, and moments at which nothing is under way."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store, "memory://recorded")
        self.log: list[tuple[Any, ...]] = []
        self._order = threading.Lock()

    def ask(
        self, request: str, key: str, call: Callable[..., Any], *args: Any, **options: Any
    ) -> Any:
        if call is not obstore.put:
            return super().ask(request, key, call, *args, **options)
        with self._order:
            before = content(self._store, key)
            found = super().ask(request, key, call, *args, **options)
            over = b"*" if options["mode"] == "overwrite" else before
            self.log.append(("put", Put(key, bytes(args[1]), over)))
            return found

    def mark(self, *what: Any) -> None:
        with self._order:
            self.log.append(what)

    def put(self, documents: Any, synced: bool = True) -> None:
        super().put(documents, synced)
        self.mark("rest")

    def settle(self, folders: Iterable[str]) -> None:
        super().settle(folders)
        self.mark("rest")

    def replace(self, key: str, data: bytes, over: Version | None) -> Version:
        found = super().replace(key, data, over)
        self.mark("rest")
        return found


@dataclass
class ObjectExplorer:
    """Counts what it looked at.

    Attributes:
        schema: Of the stores.
        instants: Between two moments at which nothing was under way.
        states: Looked at, each opened, compared and resumed.
        late: Puts that arrived late, each at every moment.
    """

    schema: Schema = TINY
    instants: int = 0
    states: int = 0
    late: int = 0
    _known: dict[Any, int] = field(default_factory=dict)

    def record(
        self,
        script: Callable[[TrajectoryWriter, Callable[[int], None]], None],
        objects: Objects | None = None,
        blobs: type[RecordedBlobs] = RecordedBlobs,
        store: type[Store] = MarkedStore,
    ) -> list[tuple[Any, ...]]:
        """Run the script on these objects, and write down what it does."""
        recorded = blobs(filled(objects or {}))
        with (
            patch.object(opening, "Store", store),
            open_tiny(recorded, self.schema, resume="auto") as writer,
        ):
            recorded.mark("committed", writer.num_steps)
            script(writer, lambda steps: recorded.mark("added", writer.num_steps + steps))
        return recorded.log

    def explore(
        self, log: list[tuple[Any, ...]], objects: Objects | None = None, least: int = NOTHING
    ) -> None:
        """Look at all instants of a recorded run.

        Raises:
            LostError: The first state that is not as promised.
        """
        done, most = dict(objects or {}), max(least, 0)
        for number, (puts, marks) in enumerate(_groups(log)):
            least, most = _bounds(marks, least, most)
            for some in _subsets(puts):
                state = {**done, **{p.key: p.data for p in some}}
                late = [p for p in puts if p not in some]
                try:
                    self._look(state, late, least, most)
                except Exception as error:
                    keys = [p.key for p in some]
                    raise LostError(f"instant {number}, with {keys}: {error!r}") from error
            self.instants += 1
            done.update({p.key: p.data for p in puts})

    def _look(self, state: Objects, late: list[Put], least: int, most: int) -> None:
        key = (tuple(sorted(state.items())), tuple(late))
        if key not in self._known:
            self._known[key] = self._examine(state, late, least)
        steps = self._known[key]
        assert least <= steps <= most, f"{steps} steps are there, expected {least}..{most}"

    def _examine(self, state: Objects, late: list[Put], least: int) -> int:
        steps = look_at(filled(state))
        self.late += len(late)
        for moment in MOMENTS:
            self.states += 1
            objects = filled(state)
            go_on(objects, late, moment, max(steps, 0), self.schema)
            if not late:
                break
        return steps


def look_at(objects: MemoryStore) -> int:
    try:
        steps = check(objects)
    except StoreNotFoundError:
        assert not list(obstore.list(objects).collect())
        return NOTHING
    check_documents(objects)
    return steps


def go_on(objects: MemoryStore, late: list[Put], moment: str, steps: int, schema: Schema) -> None:
    """A next run, and what arrives late at a moment of it."""

    def arrive(now: str) -> None:
        if now == moment:
            for put in late:
                put.arrive(objects)

    with patch.object(opening, "Store", _slow_to_open(lambda: arrive(MOMENTS[0]))):
        try:
            writer = open_tiny(objects, schema, resume="auto")
        except StoreError:
            # What arrived was a commit: it says so, and is opened again.
            assert moment == MOMENTS[0]
            writer = open_tiny(objects, schema, resume="auto")
    first = writer.num_steps
    assert first >= steps, f"resumed at {first}, read {steps}"
    arrive(MOMENTS[1])
    add_tiny(writer, 1)
    writer.commit()
    arrive(MOMENTS[2])
    add_tiny(writer, 2)
    writer.close()
    arrive(MOMENTS[3])
    assert check(objects) == first + 3
    assert TrajectoryDataset(objects).status == "complete"
    check_documents(objects)


def _slow_to_open(meanwhile: Callable[[], None]) -> type[Store]:
    """A store in which something happens between a look at it and the first write."""

    class Slow(Store):
        def look(self) -> StoreState | None:
            found = super().look()
            meanwhile()
            return found

    return Slow


def _groups(log: list[tuple[Any, ...]]) -> Iterator[tuple[list[Put], list[Any]]]:
    """Puts that were under way together, and what was true before they were."""
    puts: list[Put] = []
    marks: list[Any] = []
    for kind, *rest in log:
        if kind == "put":
            puts.append(rest[0])
        elif kind != "rest":
            marks.append((kind, rest[0]))
        elif puts:
            yield puts, marks
            puts, marks = [], []
    yield puts, marks


def _bounds(marks: list[Any], least: int, most: int) -> tuple[int, int]:
    for kind, number in marks:
        most = max(most, number)
        least = max(least, number) if kind == "committed" else least
    return least, most


def _subsets(puts: list[Put]) -> Iterator[list[Put]]:
    """All, none, each alone, all but each; of few, every one."""
    if len(puts) <= _MOST_WHOLE:
        for size in range(len(puts) + 1):
            yield from map(list, itertools.combinations(puts, size))
        return
    yield from ([], puts)
    for put in puts:
        yield from ([put], [p for p in puts if p is not put])
