"""The pool: results in order, not too far ahead, failures to whoever waits."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from mosaic_collect.recording.encoding.pool import WorkerPool


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    pool = WorkerPool(3, "test-pool")
    pool.begin()
    yield pool
    pool.close()


def test_results_keep_the_items_order_however_late_the_first_is(pool: WorkerPool) -> None:
    late = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert late.wait(30)
        if item == 4:
            late.set()
        return item * item

    assert list(pool.map_ahead(work, range(50))) == [i * i for i in range(50)]


def test_no_items(pool: WorkerPool) -> None:
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
    together = threading.Barrier(3, timeout=30)
    assert len(list(pool.map_ahead(lambda _: together.wait(), range(3)))) == 3


def test_a_failure_comes_at_its_place_and_the_pool_lives_on(pool: WorkerPool) -> None:
    def work(item: int) -> int:
        if item == 2:
            raise ZeroDivisionError("item 2")
        return item

    results = pool.map_ahead(work, range(5))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError, match="item 2"):
        next(results)
    assert list(pool.map_ahead(work, [7, 8])) == [7, 8]


def test_even_an_interrupt_in_a_worker_reaches_the_waiting(pool: WorkerPool) -> None:
    def work(_: int) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(pool.map_ahead(work, [0]))
    assert list(pool.map_ahead(str, [1])) == ["1"]


def test_close_ends_the_threads() -> None:
    pool = WorkerPool(2, "short-lived")
    pool.begin()
    threads = [t for t in threading.enumerate() if t.name.startswith("short-lived")]
    assert len(threads) == 2
    assert all(t.daemon for t in threads)
    pool.close()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
