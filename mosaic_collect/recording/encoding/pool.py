"""A small pool of daemon threads that maps a function over items, in order, a few ahead.

``concurrent.futures.ThreadPoolExecutor`` refuses work once the interpreter begins to exit, which
is just when an unclosed writer commits what it has; daemon threads of our own still run then.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


class WorkerPool:
    """``threads`` daemon threads, started by ``begin`` and ended by ``close``."""

    def __init__(self, threads: int, name: str) -> None:
        self._tasks: SimpleQueue[Any] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{i}", daemon=True)
            for i in range(threads)
        ]

    def begin(self) -> None:
        """Start them; what they were given before is done then."""
        for thread in self._threads:
            thread.start()

    def map_ahead(self, function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
        """Results in the items' order, at most two a thread computed ahead of the reader."""
        ahead: deque[Future[Out]] = deque()
        for item in items:
            ahead.append(self.start(function, item))
            if len(ahead) > 2 * len(self._threads):
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def start(self, function: Callable[[In], Out], item: In) -> Future[Out]:
        """Have one thing done."""
        future: Future[Out] = Future()
        self._tasks.put((future, function, item))
        return future

    def close(self) -> None:
        """End the threads once they have done what they were given."""
        for _ in self._threads:
            self._tasks.put(None)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            future, function, item = task
            try:
                future.set_result(function(item))
            except BaseException as error:  # noqa: BLE001  handed to whoever waits for the result
                future.set_exception(error)
            del task, future, item
