"""The pipeline's promises: a full ring makes the caller wait, and a failure is never swallowed."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable

import numpy as np
import pytest

from mosaic_collect import TrajectoryDataset, TrajectoryWriter
from mosaic_collect.errors import WriteError
from mosaic_collect.recording.blocks import Block
from tests.durability.recording import GatedFiles, WrappedFiles
from tests.helpers import add, assert_holds, buffer_mb, open_writer, wait_until
from tests.recording.mortal_files import MortalFiles


def use(monkeypatch: pytest.MonkeyPatch, files: WrappedFiles) -> None:
    monkeypatch.setattr("mosaic_collect.store.posix.PosixFiles", lambda: files)


def test_a_full_ring_makes_add_step_wait_and_nothing_is_dropped(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = GatedFiles("rename")
    use(monkeypatch, files)
    steps, at_work = 12, []

    def call() -> None:
        start = time.thread_time()
        add(writer, *range(steps))
        at_work.append(time.thread_time() - start)

    with open_writer(store, block_steps=1) as writer:
        files.shut = True
        caller = threading.Thread(target=call)
        caller.start()
        # Three blocks of one step each, and none is free before its commit: it must stop there.
        wait_until(lambda: writer.num_steps == 3)
        caller.join(0.5)
        assert caller.is_alive()
        assert writer.num_steps == 3
        assert TrajectoryDataset(store).num_steps == 0
        files.opened.set()
        caller.join()
        assert sum(at_work) < writer.stats.stalled_seconds / 2, "who waits sleeps"
    assert_holds(TrajectoryDataset(store), range(steps))


def test_a_timed_commit_is_waited_for_only_until_it_is_written(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk may take its time to make it safe, but for a block that is to be written anew."""
    files = GatedFiles("rename")
    use(monkeypatch, files)
    with open_writer(store, block_steps=4) as writer:
        files.shut = True
        add(writer, 0)
        writer._steps.commit(wait=False)
        assert files.reached.wait(300)
        add(writer, 1, 2, 3)
        assert TrajectoryDataset(store).num_steps == 0
        # The first shards have no names yet: written now, the full block's would take theirs.
        caller = threading.Thread(target=add, args=(writer, 4))
        caller.start()
        caller.join(0.3)
        assert caller.is_alive()
        files.opened.set()
        caller.join()
    assert_holds(TrajectoryDataset(store), range(5))


def on_fill(monkeypatch: pytest.MonkeyPatch, note: Callable[[], object]) -> None:
    """Call ``note`` behind each first use of a slot's memory."""
    inner = Block.fill

    def fill(self: Block) -> None:
        inner(self)
        note()

    monkeypatch.setattr(Block, "fill", fill)


def is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


def test_memory_is_touched_when_it_is_needed_and_not_before(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled: list[bool] = []
    on_fill(monkeypatch, lambda: filled.append(is_main()))
    with open_writer(store, block_steps=2) as writer:
        assert filled == [True]
        add(writer, 0, 1)
        wait_until(lambda: len(filled) == 2)
        assert filled == [True, False], "the next slot's, in the background"
        add(writer, *range(2, 9))
    assert filled == [True, False, False]
    assert_holds(TrajectoryDataset(store), range(9))


def test_a_resumed_ring_is_filled_at_once(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The partial block is loaded, so the first slot to be needed is another."""
    with open_writer(store, block_steps=4) as writer:
        add(writer, 0)
    filled = threading.Event()
    on_fill(monkeypatch, filled.set)
    with TrajectoryWriter(store, resume=True):
        assert filled.wait(300)


def test_blocks_are_given_back_at_close(store: str) -> None:
    """Not only when the writer itself goes, which a program may keep for its figures."""
    writer = open_writer(store, block_steps=2)
    add(writer, *range(9))
    blocks = [weakref.ref(block) for block in [writer._steps.block, *writer._pipeline.free]]
    writer.close()
    gc.collect()
    assert not any(block() is not None for block in blocks)
    assert writer.stats.steps == 9


@pytest.mark.usefixtures("small_chunks")
def test_a_block_used_again_shows_nothing_of_its_former_life(store: str) -> None:
    """Behind the last step of a partial block, and in padding, lies the fill value."""
    with open_writer(store, 7, block_steps=4) as writer:
        add(writer, *range(5 * writer.block_steps + 1))
    view = TrajectoryDataset(store).view.parts[0]
    for name, grid in view.grids.items():
        out = np.empty(grid.buffer_shape, grid.field.dtype)
        view.read_into(name, 5, out)
        assert (out[:, 1:] == grid.field.fill_value).all(), name
        assert (out[7:] == grid.field.fill_value).all(), name
    assert view.grids["trajectory_id"].padded_envs > 7


def test_a_job_that_is_there_twice_gives_its_slot_back(store: str) -> None:
    """As an interrupt between its queueing and its bookkeeping leaves it."""
    with open_writer(store, block_steps=2, buffer_mb=buffer_mb(2, 4) / 2.9) as writer:
        add(writer, 0, 1, 2)
        writer._steps.settle_all()
        job = writer._steps._last
        assert job is not None
        job.queued = False
        writer._steps.settle_all()
        # One slot is all there is: it must come back.
        add(writer, *range(3, 9))
    assert_holds(TrajectoryDataset(store), range(9))


def test_memory_that_is_not_to_be_had_is_told(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        if not is_main():
            raise MemoryError("no pages")

    on_fill(monkeypatch, refuse)
    writer = open_writer(store, block_steps=2)
    with pytest.raises(WriteError, match="no pages"):
        add(writer, *range(9))
    with pytest.raises(WriteError, match="no pages"):
        writer.close()


def test_blocks_are_committed_in_order_and_whole(store: str) -> None:
    """Whatever is seen at any moment is a prefix."""
    with open_writer(store, block_steps=2) as writer:
        for step in range(40):
            add(writer, step)
            dataset = TrajectoryDataset(store)
            assert dataset.num_steps % 2 == 0
            assert_holds(dataset, range(dataset.num_steps))


@pytest.mark.parametrize("own", [True, False])
def test_a_failure_at_leaving_the_with_block_goes_through_unless_the_caller_has_its_own(
    store: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, own: bool
) -> None:
    files = MortalFiles()
    use(monkeypatch, files)
    writer = open_writer(store)
    add(writer, 0)
    files.fuel = 3
    leave = (lambda: 1 / 0) if own else (lambda: None)
    with pytest.raises(ZeroDivisionError if own else WriteError) as caught, writer:
        leave()
    told = caplog.text if own else str(caught.value)
    assert "writing failed" in told
    assert "killed" in told
    assert "steps are safe" in told
    if own:
        assert "closing" in told
        if hasattr(caught.value, "add_note"):  # Python 3.11 and later
            (note,) = caught.value.__notes__
            assert "closing" in note
            assert "killed" in note
    assert TrajectoryDataset(store).num_steps == 0
