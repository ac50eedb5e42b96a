"""Watching a store that grows, with a clock of the test's own."""

from __future__ import annotations

import os
import re
import threading

import pytest

from mosaic_collect import TrajectoryDataset, TrajectoryWriter
from mosaic_collect.look.watch import Watcher, duration, look_line, look_lines
from mosaic_collect.reading.summary import stored_nbytes
from mosaic_collect.store.lock import LOCK_NAME, is_locked
from tests import helpers
from tests.look.conftest import rich

SCHEMA = helpers.SMALL.with_ends()


class Clock:
    """Seconds that the test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_it_follows_a_writer(store: str) -> None:
    clock = Clock()
    with helpers.open_writer(store, 3, SCHEMA, block_steps=4) as writer:
        helpers.add(writer, 0, 1)
        writer.commit()
        watcher = Watcher(TrajectoryDataset(store), max_steps=42, clock=clock)
        first = watcher.look()
        assert (first.num_steps, first.saw_commit) == (2, False)
        assert first.rate is first.overall is first.left_seconds is None
        clock.now += 10
        assert watcher.look().since_commit == 10
        helpers.add(writer, *range(2, 22))
        writer.end_trajectories([0, 1], failed=[1])
        writer.commit()
        second = watcher.look()
        assert second.rate == 2.0
        assert second.left_seconds == 10.0
        assert (second.num_ended, second.num_failed, second.since_commit) == (2, 1, 0)
        assert second.overall is not None
        size = sum(stored_nbytes(TrajectoryDataset(store).view).values())
        assert second.stored_nbytes == size
        assert second.nbytes_at_end == pytest.approx(size / 22 * 20)
    last = watcher.look()
    assert last.is_complete


def test_a_writer_that_was_killed_gets_slower(store: str) -> None:
    """Its last rate would else be told for ever."""
    clock = Clock()
    with helpers.open_writer(store) as writer:
        watcher = Watcher(TrajectoryDataset(store), clock=clock)
        watcher.look()
        for first in (0, 20):
            clock.now += 10
            helpers.add(writer, *range(first, first + 20))
            writer.commit()
            assert watcher.look().rate == 2.0
        clock.now += 10
        assert watcher.look().rate == 2.0, "a commit is not late yet"
        clock.now += 60
        silent = watcher.look()
        assert silent.rate == 0.5
        assert look_line(silent).endswith("; last commit 1 min 10 s ago")


def test_ends_told_late_are_counted(store: str) -> None:
    """A block that was looked at half full is looked at again, whatever came since."""
    with helpers.open_writer(store, 3, SCHEMA, block_steps=4) as writer:
        helpers.add(writer, 0, 1)
        writer.commit()
        watcher = Watcher(TrajectoryDataset(store))
        assert watcher.look().num_failed == 0
        for step in range(2, 40):
            helpers.add(writer, step)
            writer.end_trajectories([0], failed=[0])
        writer.commit()
        found = watcher.look()
        assert found.num_failed == 38
        assert found.stored_nbytes == sum(stored_nbytes(TrajectoryDataset(store).view).values())
        writer.end_trajectories([1], failed=[1])
        writer.commit()
        assert watcher.look().num_failed == 39


def test_what_a_collection_tells(store: str) -> None:
    found = Watcher(rich(store, complete=False), clock=Clock()).look()
    assert found.max_steps == 100
    assert found.overall == 2.0
    assert found.stalled == pytest.approx(0.1)
    text = "\n".join(look_lines(found))
    for words in (
        "60 of 100  [##############----------] 60%",
        "360, 94.4% valid",
        "- pairs/s now, 12 overall",
        "10.0% of the time",
        "12 ended, 2 of them failed",
        "none in the 0 s of this watch",
    ):
        assert words in text
    assert "\n" not in look_line(found)


def test_a_full_disk_is_foretold(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = rich(store, complete=False)
    monkeypatch.setattr("mosaic_collect.store.posix.PosixBlobs.free_nbytes", lambda self: 10)
    assert "NOT ENOUGH" in look_line(Watcher(dataset).look())


def test_of_nothing_yet(store: str) -> None:
    os.makedirs(store)
    with open(os.path.join(store, LOCK_NAME), "w"):
        pass
    look = Watcher(TrajectoryDataset(store)).look()
    assert (look.num_steps, look.num_envs) == (0, 0)
    assert look_line(look).startswith("collecting; 0 steps")


class TestAKilledWriter:
    """Nobody is at work on a store that is not complete: who looks at it is told."""

    def test_who_looks_is_told(self, cli, store: str) -> None:
        with helpers.open_writer(store) as writer:
            helpers.add(writer, 0, 1)
            writer.commit()
            assert "collecting" in cli("inspect", store).out
            assert Watcher(TrajectoryDataset(store)).look().status == "collecting"
            assert "<td>collecting</td>" in TrajectoryDataset(store)._repr_html_()
            writer.close(complete=False)
        words = "stopped: no writer is at work; resume it with --resume"
        assert words in cli("inspect", store).out
        assert words in TrajectoryDataset(store)._repr_html_()
        done = cli("watch", store)
        assert (done.code, done.err) == (1, "")
        assert words in done.out

    def test_a_kill_leaves_its_lock_behind_and_holds_it_no_more(self, store: str) -> None:
        code = (
            "import os, sys; from tests import helpers\n"
            "writer = helpers.open_writer(sys.argv[1]); helpers.add(writer, 0); writer.commit()\n"
            "os.kill(os.getpid(), 9)"
        )
        helpers.run_python(code, store)
        assert os.path.exists(os.path.join(store, LOCK_NAME))
        assert Watcher(TrajectoryDataset(store)).look().status == "stopped"
        with TrajectoryWriter(store, resume=True):
            assert Watcher(TrajectoryDataset(store)).look().status == "collecting"
        assert Watcher(TrajectoryDataset(store)).look().status == "complete"

    def test_a_look_takes_nobodys_lock(self, store: str) -> None:
        helpers.open_writer(store).close(complete=False)
        for _ in range(20):
            assert is_locked(store) is False
            with TrajectoryWriter(store, resume=True) as writer:
                assert is_locked(store) is True
                writer.close(complete=False)

    def test_looks_keep_no_writer_out(self, store: str) -> None:
        helpers.open_writer(store).close(complete=False)
        over = threading.Event()

        def look() -> None:
            while not over.is_set():
                is_locked(store)

        looking = threading.Thread(target=look)
        looking.start()
        try:
            for _ in range(20):
                TrajectoryWriter(store, resume=True).close(complete=False)
        finally:
            over.set()
            looking.join()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-1, "0 s"), (59.4, "59 s"), (60, "1 min"), (3725, "1 h 2 min"), (180_000, "2 d 2 h")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_the_command(cli, store: str) -> None:
    rich(store)
    done = cli("watch", store)
    assert (done.code, done.err) == (0, "")
    told = r"complete; 60 steps; 360, 94.4% valid pairs; 12 pairs/s overall; .*"
    assert re.fullmatch(rf"{store}: {told} 2 of them failed; 10.0% stalled\n", done.out)
    cli("watch", store + "x").failed("no store")


@pytest.mark.parametrize("every", ["0", "-1", "nan"])
def test_looks_are_some_time_apart(cli, store: str, every: str) -> None:
    rich(store)
    cli("watch", store, "--every", every).failed("--every: expected a number above 0")


def test_on_a_terminal(cli, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rich(store, complete=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    out = cli("watch", store, "--once", "--steps", "70").out
    assert out.count("\n") == 8
    assert "60 of 70" in out
