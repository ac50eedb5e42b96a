"""Work done ahead of its consumer by a thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterator
from queue import Queue
from typing import Any, Generic, TypeVar

from mosaic_collect.errors import ClosedError

T = TypeVar("T")


class Ahead(Generic[T]):
    """What a generator gives, made ahead of time.

    The thread is a daemon: it waits for room most of the time, and must not keep a program alive.

    Args:
        made: Run by the thread, and closed by it.
        depth: Items to make ahead.
    """

    def __init__(self, made: Generator[T, None, None], depth: int) -> None:
        self._items: Queue[Callable[[], T]] = Queue(depth)
        self._stop, self._process = threading.Event(), os.getpid()
        self._thread = threading.Thread(
            target=_run, args=(made, self._items, self._stop), name="mosaic-batches", daemon=True
        )
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._process != os.getpid():
            raise ClosedError("this iteration is the parent process's: begin one here")
        if self._stop.is_set():
            raise StopIteration
        give = self._items.get()
        try:
            return give()
        except BaseException:
            self._stop.set()
            raise

    def close(self) -> None:
        """End the thread; when it returns, nothing is being made."""
        self._stop.set()
        while self._thread.is_alive():
            while not self._items.empty():
                self._items.get()
            self._thread.join(0.01)


def _run(made: Generator[Any, None, None], items: Queue[Any], stop: threading.Event) -> None:
    """Not a method: a thread that held its ``Ahead`` would keep it from being collected."""
    try:
        for item in made:
            items.put(_gives(item))
            del item  # or a batch that the consumer let go would stay
            if stop.is_set():
                return
    except BaseException as error:  # noqa: BLE001  raised to the consumer
        items.put(_raises(error))
    else:
        items.put(_raises(StopIteration()))
    finally:
        made.close()


def _gives(item: Any) -> Callable[[], Any]:
    return lambda: item


def _raises(error: BaseException) -> Callable[[], Any]:
    def give() -> Any:
        raise error

    return give
