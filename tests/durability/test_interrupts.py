"""Promise 7, exhaustively: Ctrl-C between any two instructions of the caller's thread.

``MOSAIC_COLLECT_EVERY=1`` tries each instruction, for which ``MOSAIC_COLLECT_WATCHDOG`` must allow
hours; see ``interrupts.py``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import numpy as np
import pytest

from mosaic_collect import TrajectoryDataset, TrajectoryWriter
from mosaic_collect.store.schema import FAILED, TRAJECTORY_END, TRAJECTORY_ID, Schema
from tests.durability.figures import count
from tests.durability.interrupts import PACKAGE, UNREACHED, WRITERS_SIDE, Interrupter, missed
from tests.durability.rig import TINY, TINY_ENDS, add_tiny, check, check_resume, how, open_tiny

SCHEMAS = [pytest.param(TINY, id="ids"), pytest.param(TINY_ENDS, id="ends")]
EVERY = int(os.environ.get("MOSAIC_COLLECT_EVERY", "0"))
RAN: set[str] = set()
#: In one process, so that the last test sees what the others hit.
pytestmark = pytest.mark.xdist_group("interrupts")


@pytest.fixture(autouse=True)
def noted(request: pytest.FixtureRequest) -> None:
    RAN.add(request.function.__name__)


def try_each(run: Callable[[int], int], about: int, spare: int = 0) -> None:
    """Interrupt at all instructions but the last few, or about so many, evenly.

    No thread of a closed writer stays.
    """
    before = set(threading.enumerate())
    run(10**9)  # the first run does more than any other: it fills caches
    total = run(10**9 + 1) - spare
    assert total > 200
    chosen = range(1, total + 1, EVERY or max(1, total // about))
    count("instructions interrupted", len(chosen))
    for at in chosen:
        run(at)
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("mosaic"):
            thread.join(300)
            assert not thread.is_alive()


class Session:
    """Calls of a writer, of which one may be interrupted.

    Attributes:
        added: Steps whose ``add_step`` returned.
        ended: Environment 0's ends that returned, as the step after which each came; it failed
            there if ``how`` says so.
        maybe: Where an end was interrupted.
    """

    #: Ends come behind full blocks, partial ones, commits of both, and steps that begin a block.
    CALLS = tuple("aaceaaeataaaecaaaeaaeea")

    def __init__(self, writer: TrajectoryWriter) -> None:
        self.writer, self.added = writer, 0
        self.ended: set[int] = set()
        self.maybe: set[int] = set()
        self.left = list(self.CALLS)

    def go_on(self) -> None:
        while self.left:
            call = self.left.pop(0)
            if call == "a":
                add_tiny(self.writer)
                self.added += 1
            elif call == "e":
                last = self.writer.num_steps - 1
                self.maybe.add(last)
                failed = [0] if how(last) == FAILED else []
                failed = failed if self.writer.schema.has_ends else None
                self.writer.end_trajectories([0], failed, metadata={"last_end": last})
                self.ended.add(last)
            elif call == "c":
                self.writer.commit()
            else:
                self.writer._steps.commit(wait=False)  # what commit_seconds does

    def assert_right(self, store: str) -> None:
        steps = self.writer.num_steps
        assert self.added <= steps <= self.added + 1
        assert check(store) == steps
        dataset = TrajectoryDataset(store)
        ids = dataset.read(TRAJECTORY_ID)
        changes = set(np.flatnonzero(np.diff(ids[:, 0])).tolist())
        assert {e for e in self.ended if e < steps - 1} <= changes <= self.maybe
        assert (ids[:, 1] == ids[:1, 1]).all()
        if dataset.schema.has_ends:
            self.assert_ends(dataset.read(TRAJECTORY_END), dataset.metadata.get("last_end"))

    def assert_ends(self, ends: np.ndarray, last: int | None) -> None:
        """All that returned, those of the last step, too; and what was told with them."""
        told = np.flatnonzero(ends[:, 0])
        assert self.ended <= set(told.tolist()) <= self.maybe
        assert ends[told, 0].tolist() == [how(step) for step in told]
        assert not ends[:, 1].any()
        assert last == max(told.tolist(), default=None)


def interrupted(session: Session, at: int) -> int:
    """Go on until the interrupt; how many instructions that took."""
    with Interrupter(at) as interrupter:
        session.go_on()
    return interrupter.count


@pytest.mark.parametrize("schema", SCHEMAS)
def test_the_with_block_is_left_by_it(ram_store: str, schema: Schema) -> None:
    def run(at: int) -> int:
        session, count, path = None, 0, f"{ram_store}-{at}"
        try:
            with open_tiny(path, schema) as writer:
                session = Session(writer)
                count = interrupted(session, at)
        except KeyboardInterrupt:
            assert at < 10**9
        assert session is not None
        session.assert_right(path)
        check_resume(path, session.writer.num_steps)
        return count

    try_each(run, 150)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_the_caller_goes_on_after_it(ram_store: str, schema: Schema) -> None:
    def run(at: int) -> int:
        count, path = 0, f"{ram_store}-{at}"
        with open_tiny(path, schema) as writer:
            session = Session(writer)
            try:
                count = interrupted(session, at)
            except KeyboardInterrupt:
                session.added = writer.num_steps
                session.go_on()
        session.assert_right(path)
        return count

    try_each(run, 150)


def test_a_ring_of_one_block_goes_on_after_it(ram_store: str) -> None:
    """A slot that got lost would make the next call wait for ever."""

    def run(at: int) -> int:
        count, path = 0, f"{ram_store}-{at}"
        with open_tiny(path, buffer_mb=0.00005) as writer:
            assert len(writer._pipeline.free) == 1
            try:
                with Interrupter(at) as interrupter:
                    add_tiny(writer, 3 * writer.block_steps)
                count = interrupter.count
            except KeyboardInterrupt:
                add_tiny(writer, 2 * writer.block_steps)
        check(path)
        return count

    try_each(run, 80)


@pytest.mark.parametrize("complete", [True, False])
def test_it_falls_into_the_close(ram_store: str, complete: bool) -> None:
    """Everything is committed all the same; if it came too early or too late, by another close."""

    def run(at: int) -> int:
        count, path = 0, f"{ram_store}-{at}-{complete}"
        writer = open_tiny(path)
        add_tiny(writer, 3)
        try:
            with Interrupter(at) as interrupter:
                writer.close(complete)
            count = interrupter.count
        except KeyboardInterrupt:
            writer.close(complete)
        assert check(path) == 3
        assert TrajectoryDataset(path).status == ("complete" if complete else "collecting")
        check_resume(path, 3)
        return count

    try_each(run, 60)


def test_it_falls_into_the_opening(ram_store: str) -> None:
    """The lock is free again: a notebook's next cell can open the store."""

    def run(at: int) -> int:
        count, path = 0, f"{ram_store}-{at}"
        writer = None
        try:
            with Interrupter(at) as interrupter:
                writer = open_tiny(path)
            count = interrupter.count
        except KeyboardInterrupt:
            pass
        if writer is not None:
            writer.close()
        with open_tiny(path, resume=os.path.exists(path)) as again:
            add_tiny(again, 2)
        assert check(path) == 2
        return count

    # Behind the constructor's last try, with the writer on its way to the caller, nobody can catch
    # it: that writer stays open until the interpreter exits.
    try_each(run, 120, spare=10)


def test_what_is_excused_is_there() -> None:
    excused = [e for e in UNREACHED if e.startswith(tuple(f"{side}/" for side in WRITERS_SIDE))]
    assert [e for e in (*excused, *WRITERS_SIDE) if not (PACKAGE / e).exists()] == []


def test_every_file_of_the_writers_side_was_interrupted() -> None:
    """A module that is renamed or split must not fall out of what is interrupted."""
    others = {name for name in globals() if name.startswith("test_")} - RAN
    if others:
        pytest.skip(f"only behind {', '.join(sorted(others))}")
    assert missed() == []
