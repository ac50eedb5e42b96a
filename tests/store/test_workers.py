"""Worker pools: results in order, not too far ahead, failures raised to whoever waits."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest

from mosaic_collect.store.workers import WorkerPool


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    pool = WorkerPool(3, "test-pool")
    pool.begin()
    yield pool
    pool.shutdown()


def test_results_keep_the_items_order_however_late_the_first_is(pool: WorkerPool) -> None:
    late = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert late.wait(300)
        if item == 4:
            late.set()
        return item * item

    assert list(pool.map_ahead(work, range(50))) == [i * i for i in range(50)]
    assert list(pool.map_ahead(str, [])) == []


def test_at_most_two_a_thread_are_taken_ahead(pool: WorkerPool) -> None:
    taken = []

    def items() -> Iterator[int]:
        for i in range(100):
            taken.append(i)
            yield i

    results = pool.map_ahead(str, items())
    assert next(results) == "0"
    assert len(taken) <= 2 * 3 + 1
    for want in range(1, 100):
        assert next(results) == str(want)
        assert len(taken) <= want + 2 * 3 + 1


def test_work_is_shared_between_threads(pool: WorkerPool) -> None:
    together = threading.Barrier(3, timeout=300)
    assert len(list(pool.map_ahead(lambda _: together.wait(), range(3)))) == 3


@pytest.mark.parametrize("kind", [ZeroDivisionError, KeyboardInterrupt])
def test_a_failure_comes_at_its_place_and_the_pool_lives_on(
    pool: WorkerPool, kind: type[BaseException]
) -> None:
    def work(item: int) -> int:
        if item == 2:
            raise kind("item 2")
        return item

    results = pool.map_ahead(work, range(5))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(kind, match="item 2"):
        next(results)
    assert list(pool.map_ahead(work, [7, 8])) == [7, 8]


@pytest.mark.parametrize("is_closed", [True, False])
def test_close_ends_the_threads_and_so_does_the_loss_of_a_pool(is_closed: bool) -> None:
    pool = WorkerPool(2, "short-lived")
    pool.submit(str, 1).result()
    threads = [t for t in threading.enumerate() if t.name.startswith("short-lived")]
    assert len(threads) == 2
    assert all(t.daemon for t in threads)
    if is_closed:
        pool.shutdown()
    else:
        del pool
        gc.collect()
    for thread in threads:
        thread.join(300)
        assert not thread.is_alive()


@pytest.mark.parametrize("given", [0, 2])
def test_as_many_threads_as_the_system_gives(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, given: int
) -> None:
    """Without any, as at the interpreter's exit, the caller does the work."""
    start, started = threading.Thread.start, list[threading.Thread]()

    def some(thread: threading.Thread) -> None:
        if len(started) == given:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", some)
    with WorkerPool(5, "few") as pool:
        assert pool.begin() == given
        done = list(pool.map_ahead(lambda i: (i, threading.current_thread()), range(50)))
        assert isinstance(pool.submit(int, "x").exception(), ValueError)
    assert [i for i, _ in done] == list(range(50))
    assert {thread for _, thread in done} <= {*(started or [threading.current_thread()])}
    assert f"few: {given} of 5 threads: can't start new thread" in caplog.text
    assert not any(thread.is_alive() for thread in started)


def test_shutdown_can_cancel_what_has_not_begun() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work() -> int:
        begun.set()
        go_on.wait(300)
        return 1

    pool = WorkerPool(1, "cancelled")
    running, waiting = pool.submit(work), pool.submit(work)
    assert begun.wait(300)
    pool.shutdown(wait=False, cancel_futures=True)
    assert not running.done(), "it did not wait"
    go_on.set()
    assert running.result() == 1
    assert waiting.cancelled()
    with pytest.raises(RuntimeError, match="cancelled: the pool was shut down"):
        pool.submit(work)


def test_a_thread_of_the_pool_may_shut_it_down() -> None:
    """As the garbage collector does there with a generator that nobody reads any more."""
    pool = WorkerPool(2, "test-own")
    assert pool.submit(pool.shutdown).result(timeout=300) is None
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(str)
