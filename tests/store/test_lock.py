"""One writer a store, within a process, between processes, and after a death."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mosaic_collect import TrajectoryDataset, TrajectoryWriter
from mosaic_collect.errors import ClosedError, StoreLockedError
from mosaic_collect.store import lock as lock_module
from mosaic_collect.store.lock import LOCK_NAME, StoreLock
from tests.helpers import REPO, add, assert_holds, open_writer, record, run_python

RESUME = """
import sys
from mosaic_collect import TrajectoryWriter
from tests.helpers import add
with TrajectoryWriter(sys.argv[1], resume=True) as writer:
    add(writer, *map(int, sys.argv[2:]))
"""

#: Dies with a writer open; its child, which was forked meanwhile, lives until its input ends.
DIES_BEFORE_ITS_CHILD = """
import os, sys
from tests.helpers import add, open_writer
writer = open_writer(sys.argv[1])
add(writer, 0)
writer.commit()
if os.fork() == 0:
    sys.stdin.read()
os._exit(0)
"""


def test_a_second_writer_is_refused_and_does_not_take_the_lock_away(store: str) -> None:
    """Of this process, by whatever name, and of another; which may write when this one is done."""
    link = store + ".link"
    with open_writer(store) as writer:
        add(writer, 0)
        os.symlink(store, link)
        for name in (store, link, store):
            with pytest.raises(StoreLockedError, match=r"a writer of this process.*takeover=True"):
                TrajectoryWriter(name, resume=True)
        result = run_python(RESUME, store, "2")
        assert result.returncode != 0
        assert f"StoreLockedError: {store}: process {os.getpid()}" in result.stderr
        writer.commit()
        assert_holds(TrajectoryDataset(store), range(1))
        add(writer, 1)
    result = run_python(RESUME, store, "2")
    assert result.returncode == 0, result.stderr
    assert_holds(TrajectoryDataset(store), range(3))


def test_garbage_lets_a_lock_go_while_another_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector may run at any allocation, in whoever holds what a lock needs to be let go."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    folders = [os.open(tmp_path / name, os.O_RDONLY) for name in ("a", "b")]
    cycle: list[object] = [StoreLock("a", folders[0])]
    cycle.append(cycle)
    del cycle
    leads_to = lock_module._leads_to

    def collecting(fd: int, folder: int) -> bool:
        gc.collect()
        return leads_to(fd, folder)

    monkeypatch.setattr(lock_module, "_leads_to", collecting)
    lock = StoreLock("b", folders[1])
    monkeypatch.undo()
    assert os.listdir(tmp_path / "a") == []
    assert os.listdir(tmp_path / "b") == [LOCK_NAME]
    lock.release()
    for folder in folders:
        os.close(folder)


def test_a_failed_opening_lets_the_lock_go(store: str) -> None:
    record(store, 4)
    os.unlink(os.path.join(store, "actions", "c.0.0.0"))
    for _ in range(2):
        with pytest.raises(Exception, match="missing"):
            TrajectoryWriter(store, resume=True)


def test_a_lock_may_be_released_twice(tmp_path: os.PathLike[str]) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    lock = StoreLock("store", folder)
    lock.release()
    lock.release()
    StoreLock("store", folder).release()
    os.close(folder)


@pytest.fixture
def fork() -> Iterator[Any]:
    """Fork a child that works once it is told to; the function returned tells it, and waits."""
    ends: list[Callable[[], None]] = []

    def start(work: Callable[[], object]) -> Callable[[], None]:
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.read(told, 1)
                work()
                code = 0
            finally:
                os._exit(code)

        def end() -> None:
            ends.remove(end)
            os.write(tell, b"x")
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            os.close(told)
            os.close(tell)
            assert code == 0

        ends.append(end)
        return end

    yield start
    for end in list(ends):
        end()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
class TestForkedChild:
    """What a child made by fork may do with its parent's writer: nothing."""

    def test_it_may_not_use_the_writer_and_its_exit_does_no_harm(
        self, store: str, fork: Any
    ) -> None:
        with open_writer(store) as writer:
            add(writer, 0)

            def work() -> None:
                with pytest.raises(ClosedError, match=f"belongs to process {os.getppid()}"):
                    add(writer, 1)
                with pytest.raises(ClosedError):
                    writer.commit()
                writer.close()
                with pytest.raises(StoreLockedError):
                    TrajectoryWriter(store, resume=True)

            fork(work)()
            assert "StoreLockedError" in run_python(RESUME, store, "1").stderr
            add(writer, 1)
        assert_holds(TrajectoryDataset(store), range(2))

    def test_it_keeps_no_lock_and_may_write_once_its_parent_let_go(
        self, store: str, fork: Any
    ) -> None:
        """A data loader's worker, say, that was forked while the store was being written."""
        writer = open_writer(store)
        add(writer, 0)

        def work() -> None:
            with TrajectoryWriter(store, resume=True, threads=1) as mine:
                add(mine, 2)

        go_on = fork(work)
        writer.close()
        with TrajectoryWriter(store, resume=True) as writer:
            add(writer, 1)
        go_on()
        assert_holds(TrajectoryDataset(store), range(3))

    def test_it_keeps_no_lock_of_a_parent_that_died(self, store: str) -> None:
        code = [sys.executable, "-c", DIES_BEFORE_ITS_CHILD, store]
        with subprocess.Popen(code, stdin=subprocess.PIPE, cwd=REPO) as parent:
            assert parent.wait() == 0
            with TrajectoryWriter(store, resume=True) as writer:
                add(writer, 1)
        assert_holds(TrajectoryDataset(store), range(2))
