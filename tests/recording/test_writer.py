"""The writer's life: with-block, exceptions, closing, metadata, figures."""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mosaic_collect import Field, Schema, TrajectoryDataset, TrajectoryWriter
from mosaic_collect.errors import SpaceError
from tests.helpers import (
    SMALL,
    add,
    assert_holds,
    assert_same,
    contents,
    mask,
    open_files,
    open_writer,
    rows,
    run_python,
    wait_until,
)

N = 4


def test_a_global_writer_of_a_script_says_nothing_at_exit(store: str) -> None:
    done = run_python(
        "from mosaic_collect.recording.writer import *\n"
        "from mosaic_collect.store.schema import *\n"
        f"with TrajectoryWriter({store!r}, Schema.mosaic(3, 2), num_envs=2) as writer: pass"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("steps", range(8))
def test_leaving_the_with_block_completes_the_store(store: str, steps: int) -> None:
    with open_writer(store) as writer:
        add(writer, *range(steps))
    dataset = TrajectoryDataset(store)
    assert dataset.status == "complete"
    assert_holds(dataset, range(steps))
    assert dataset.num_valid == steps * N


class Unusual(BaseException):
    """Not an Exception, as ``SystemExit`` is not."""


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, Unusual])
@pytest.mark.parametrize("steps", [0, 1, 3, 5])
def test_an_exception_commits_all_steps_and_goes_through(
    store: str, kind: type[BaseException], steps: int
) -> None:
    writer = open_writer(store)
    add(writer, *range(steps))
    error = kind("mine")
    with pytest.raises(kind) as caught, writer:
        raise error
    assert caught.value is error
    dataset = TrajectoryDataset(store)
    assert dataset.status == "collecting"
    assert dataset.num_ended == 0
    assert_holds(dataset, range(steps))
    with TrajectoryWriter(store, resume=True) as writer:
        add(writer, steps)
    assert_holds(TrajectoryDataset(store), range(steps + 1))
    assert TrajectoryDataset(store).status == "complete"


class Interrupting(np.ndarray):
    """An array during whose copying Ctrl-C is pressed."""

    def __array_function__(self, *args: Any) -> Any:
        raise KeyboardInterrupt


def test_an_interrupt_within_add_step_leaves_that_step_out_altogether(store: str) -> None:
    """Though most of its fields were copied by then."""
    writer = open_writer(store)
    add(writer, 0)
    half = rows(99, N)
    half["action_sigma"] = half["action_sigma"].view(Interrupting)
    with pytest.raises(KeyboardInterrupt), writer:
        writer.add_step(**half)
    assert_holds(TrajectoryDataset(store), range(1))
    with TrajectoryWriter(store, resume=True) as writer:
        with pytest.raises(KeyboardInterrupt):
            writer.add_step(**half)
        add(writer, 1)
    assert_holds(TrajectoryDataset(store), range(2))


def test_closing_twice_is_allowed(store: str) -> None:
    writer = open_writer(store)
    add(writer, 0)
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="mine"), writer:
        raise ValueError("mine")
    assert TrajectoryDataset(store).status == "complete"


def test_closing_inside_the_with_block(store: str) -> None:
    with open_writer(store) as writer:
        add(writer, 0)
        writer.close(complete=False)
    assert TrajectoryDataset(store).status == "collecting"
    assert_holds(TrajectoryDataset(store), range(1))


def test_no_thread_and_no_descriptor_is_left(store: str) -> None:
    threads, files = set(threading.enumerate()), open_files()
    with open_writer(store) as writer:
        add(writer, *range(5))
        begun = set(threading.enumerate()) - threads
        assert begun
    wait_until(lambda: not any(thread.is_alive() for thread in begun))
    assert open_files() <= files


class TestCheckpoint:
    """What is committed when."""

    @pytest.mark.parametrize("every", range(1, 8))
    def test_all_added_is_committed_when_it_returns(self, store: str, every: int) -> None:
        with open_writer(store) as writer:
            for step in range(14):
                add(writer, step, masks=True)
                if step % every < every - 1:
                    continue
                writer.commit()
                dataset = TrajectoryDataset(store)
                assert_holds(dataset, range(step + 1))
                want = np.stack([mask(s, N) for s in range(step + 1)])
                assert_same(dataset.read("valid_mask"), want)
                assert dataset.num_valid == want.sum()
                assert dataset.status == "collecting"
                assert writer.stats.committed_steps == step + 1

    def test_without_a_step(self, store: str) -> None:
        with open_writer(store) as writer:
            writer.commit()
            writer.commit()
            assert_holds(TrajectoryDataset(store), range(0))
            assert TrajectoryDataset(store).status == "collecting"

    def test_with_nothing_new_writes_nothing(self, store: str) -> None:
        with open_writer(store) as writer:
            add(writer, *range(4))
            writer.commit()
            before = os.stat(os.path.join(store, "zarr.json"))
            writer.commit()
            assert os.stat(os.path.join(store, "zarr.json")) == before

    def test_full_blocks_are_committed_by_themselves(self, store: str) -> None:
        with open_writer(store, block_steps=3) as writer:
            add(writer, *range(4))
            wait_until(lambda: writer.stats.committed_steps == 3)
            assert_holds(TrajectoryDataset(store), range(3))

    def test_without_seconds_a_partial_block_waits(self, store: str) -> None:
        with open_writer(store, commit_seconds=None) as writer:
            add(writer, 0, 1)
            writer._steps.settle_all()
            assert TrajectoryDataset(store).num_steps == 0

    def test_zero_seconds_commit_every_step(self, store: str) -> None:
        with open_writer(store, commit_seconds=0.0) as writer:
            for step in range(8):
                add(writer, step)
                # The step before this one was waited for, as its block was still filling.
                assert TrajectoryDataset(store).num_steps >= step
            writer.commit()
            assert_holds(TrajectoryDataset(store), range(8))

    def test_seconds_are_counted_from_the_last_commit(
        self, store: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = [1000.0]
        clock = SimpleNamespace(monotonic=lambda: now[0])
        monkeypatch.setattr("mosaic_collect.recording.steps.time", clock)
        # A commit that falls due with a step is written when the next one was added, and then is
        # a matter of the disk.
        wanted = {1: 0, 3: 3, 4: 3, 6: 6}
        with open_writer(store, block_steps=100, commit_seconds=10.0) as writer:
            for step in range(7):
                now[0] += 4
                add(writer, step)
                if step in wanted:
                    steps = wanted[step]
                    wait_until(lambda n=steps: TrajectoryDataset(store).num_steps >= n)
                    assert TrajectoryDataset(store).num_steps == steps


class TestMetadata:
    """The user's own words."""

    def test_they_are_there_from_the_start_and_are_copied(self, store: str) -> None:
        """What JSON turns into something else is that at once."""
        given: dict[Any, Any] = {"task": "G1", "a": [1, 2.5, None, True, "π"], "b": (1, 2), 3: "x"}
        want = {"task": "G1", "a": [1, 2.5, None, True, "π"], "b": [1, 2], "3": "x"}
        with open_writer(store, metadata=given) as writer:
            given["a"].append(2)
            writer.metadata["b"] = 1
            writer.metadata["a"].append({2})  # which JSON cannot hold
            TrajectoryDataset(store).metadata["c"] = 1
            assert TrajectoryDataset(store).metadata == want
            assert writer.metadata == want
        assert TrajectoryDataset(store).metadata == want

    def test_an_update_is_committed_with_the_steps(self, store: str) -> None:
        with open_writer(store, metadata={"a": 1, "b": 1}) as writer:
            add(writer, 0)
            writer.update_metadata(b=2, c=3)
            assert TrajectoryDataset(store).metadata == {"a": 1, "b": 1}
            writer.commit()
            assert TrajectoryDataset(store).metadata == {"a": 1, "b": 2, "c": 3}
            writer.update_metadata(c=4)
            writer.commit()
            assert TrajectoryDataset(store).metadata == {"a": 1, "b": 2, "c": 4}
            writer.update_metadata(c=5)
        dataset = TrajectoryDataset(store)
        assert dataset.metadata == {"a": 1, "b": 2, "c": 5}
        assert_holds(dataset, range(1))
        assert dataset.num_valid == N

    def test_a_resume_updates_them(self, store: str) -> None:
        open_writer(store, metadata={"a": 1, "b": 1}).close()
        TrajectoryWriter(store, resume=True, metadata={"b": 2}).close()
        assert TrajectoryDataset(store).metadata == {"a": 1, "b": 2}
        TrajectoryWriter(store, resume=True).close()
        assert TrajectoryDataset(store).metadata == {"a": 1, "b": 2}


class TestFigures:
    """What a writer says of itself."""

    def test_of_a_run_and_of_its_resume(self, store: str) -> None:
        with open_writer(store) as writer:
            assert (writer.path, writer.schema, writer.num_envs) == (store, SMALL, N)
            assert (writer.num_steps, writer.block_steps, writer.closed) == (0, 3, False)
            assert writer.ring_nbytes == 3 * 3 * N * SMALL.pair_nbytes
            add(writer, *range(5))
            writer.commit()
            stats = writer.stats
            assert repr(writer) == f"<TrajectoryWriter {store}: 5 steps x {N}, open>"
        assert stats.steps == stats.committed_steps == 5
        assert stats.raw_nbytes == 5 * N * SMALL.pair_nbytes
        assert stats.stored_nbytes > 0
        assert stats.seconds >= stats.stalled_seconds >= 0
        assert writer.closed
        assert repr(writer).endswith("closed>")
        with TrajectoryWriter(store, resume=True) as writer:
            add(writer, 5)
            assert (writer.num_steps, writer.stats.steps) == (6, 1)
            assert writer.stats.committed_steps == 5

    @pytest.mark.usefixtures("small_chunks")
    @pytest.mark.parametrize("num_envs", [1, 2, 7, 16, 33])
    def test_the_ring_stays_within_its_bound_padding_included(
        self, store: str, num_envs: int
    ) -> None:
        with open_writer(store, num_envs, buffer_mb=0.02) as writer:
            assert 0 < writer.ring_nbytes <= 20_000
            add(writer, *range(3 * writer.block_steps))
        grids = TrajectoryDataset(store).state.grids().values()
        assert writer.ring_nbytes == 3 * sum(g.shard_nbytes for g in grids)


@pytest.mark.usefixtures("one_identity")
def test_threads_and_commits_do_not_change_a_byte_of_the_shards(store: str) -> None:
    stores = []
    for threads, every in ((2, 100), (1, 100), (4, 100), (2, 1), (2, 2), (2, 5)):
        path = f"{store}.{threads}.{every}"
        with open_writer(path, threads=threads) as writer:
            for step in range(8):
                add(writer, step, masks=True)
                if step % every == every - 1:
                    writer.commit()
        stores.append(contents(path, "c.*"))
    assert all(s == stores[0] for s in stores)
    assert len(stores[0]) == 3 * len(SMALL.stored)


@pytest.mark.parametrize("name", ["self", "name", "method", "args", "options", "rows", "metadata"])
def test_a_field_may_have_any_name_that_a_call_takes(store: str, name: str) -> None:
    schema = Schema((Field(name=name, dim=2),))
    with TrajectoryWriter(store, schema, 3, buffer_mb=1, metadata={"self": 1}) as writer:
        writer.add_step(**{name: np.full((3, 2), 7.0, np.float32)})
        writer.update_metadata(**{name: 2})
    dataset = TrajectoryDataset(store)
    assert_same(dataset.read(name), np.full((1, 3, 2), 7.0, np.float32))
    assert dataset.metadata == {"self": 1, name: 2}


def refuse_threads(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let no thread start whose name begins so."""
    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if self.name.startswith(name):
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)


@pytest.mark.parametrize("thread", ["mosaic_encode", "mosaic_commit"])
def test_a_writer_whose_threads_do_not_start_leaves_no_store(
    store: str, monkeypatch: pytest.MonkeyPatch, thread: str
) -> None:
    before = open_files()
    refuse_threads(monkeypatch, thread)
    with pytest.raises(SpaceError, match=r"can't start new thread.* the limit of processes or"):
        open_writer(store)
    assert os.listdir(store) == []
    assert open_files() == before
    monkeypatch.undo()
    with open_writer(store) as writer:
        add(writer, 0)
    assert_holds(TrajectoryDataset(store), range(1))


def test_a_writer_records_without_threads_that_compress(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_threads(monkeypatch, "mosaic-compress")
    with open_writer(store, block_steps=3) as writer:
        add(writer, *range(13))
    assert_holds(TrajectoryDataset(store), range(13))


def test_a_ring_without_memory_leaves_no_store(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(*args: Any) -> None:
        raise MemoryError("Unable to allocate 1.00 GiB")

    monkeypatch.setattr("mosaic_collect.recording.blocks.host_arrays", empty)
    with pytest.raises(SpaceError, match=r"no room for the ring, not enough memory: Unable to"):
        open_writer(store)
    assert os.listdir(store) == []
