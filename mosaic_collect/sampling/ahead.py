"""Work done ahead of its consumer by a thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterator
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from mosaic_collect.errors import ClosedError

T = TypeVar("T")


class Ahead(Generic[T]):
    """What a generator gives, made ahead of time.

    The thread is a daemon: it waits for room most of the time, and must not keep a program alive.
    An interrupt at any instruction of the consumer leaves it such that ``join`` ends it.

    Args:
        made: Run by the thread, and closed by it.
        depth: Items to make ahead.
    """

    def __init__(self, made: Generator[T, None, None], depth: int) -> None:
        self._shared, self._process = _Shared(depth), os.getpid()
        self._thread = threading.Thread(
            target=_run, args=(made, self._shared), name="mosaic-batches", daemon=True
        )

    def start(self) -> None:
        """Let the thread begin: once its maker can close it."""
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._process != os.getpid():
            raise ClosedError("this iteration is the parent process's: begin one here")
        if self._shared.is_stopped:
            raise StopIteration
        give = self._shared.items.get()
        self._shared.room.put(None)
        try:
            item: T = give()
        except BaseException:
            self._shared.is_stopped = True
            raise
        return item

    @property
    def is_stopped(self) -> bool:
        """Whether there are no more items, or nobody wants them."""
        return self._shared.is_stopped

    def stop(self) -> None:
        """Let the thread end, without waiting for it.

        The garbage collector may call this in any thread, also in one that the thread waits for.
        """
        self._shared.is_stopped = True
        self._shared.room.put(None)

    def join(self) -> None:
        """End the thread; when it returns, nothing is being made.

        Not called ``close``: ``yield from`` would call that, wherever its generator is collected.
        """
        while self._thread.is_alive():
            self.stop()
            self._thread.join(0.01)
        self.stop()


class _Shared:
    """Between the thread and its consumer; no lock of it is held while Python code runs.

    Attributes:
        items: Functions that give an item, or raise what ended the thread.
        room: A token for each item that may be put.
        is_stopped: Whether nobody wants more.
    """

    def __init__(self, depth: int) -> None:
        self.items: SimpleQueue[Callable[[], Any]] = SimpleQueue()
        self.room: SimpleQueue[None] = SimpleQueue()
        self.is_stopped = False
        for _ in range(depth):
            self.room.put(None)


def _run(made: Generator[Any, None, None], shared: _Shared) -> None:
    """Not a method: a thread that held its ``Ahead`` would keep it from being collected."""
    end: BaseException = StopIteration()
    try:
        while not shared.is_stopped:
            item = next(made)
            shared.room.get()
            shared.items.put(_gives(item))
            del item  # or a batch that the consumer let go would stay
    except BaseException as error:  # noqa: BLE001  raised to the consumer
        end = error
    made.close()
    shared.items.put(_raises(end))


def _gives(item: Any) -> Callable[[], Any]:
    return lambda: item


def _raises(error: BaseException) -> Callable[[], Any]:
    def give() -> Any:
        raise error

    return give
