"""Worker threads that outlive the start of the interpreter's exit, and never delay its end.

``concurrent.futures.ThreadPoolExecutor`` refuses work once the interpreter begins to exit, which
is when an unclosed writer commits its steps, and the interpreter waits for its running work, so a
request that hangs keeps a process alive that was interrupted twice. ``WorkerPool`` has daemon
threads: they work until the process ends, and end with it.
"""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread, current_thread
from typing import Any, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")
_Tasks = SimpleQueue[Any]
_log = logging.getLogger(__name__)


class WorkerPool(Executor):
    """An executor of daemon threads, which start at the first ``submit``, or at ``begin``.

    If the system starts fewer threads than requested, the pool works with those. If it starts none,
    ``submit`` runs each task at once in the calling thread.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._tasks: _Tasks = SimpleQueue()
        self._wanted, self._name = threads, name
        self._threads: list[Thread] = []
        self._begun = self._closed = False
        # Ends the threads of a pool that nobody closed. Not at exit, when they may still be needed.
        weakref.finalize(self, self._tasks.put, None).atexit = False

    def begin(self) -> int:
        """Start the threads, and return how many there are."""
        if not self._begun:
            self._begun = True
            for i in range(self._wanted):
                thread = Thread(
                    target=_run, args=(self._tasks,), name=f"{self._name}-{i}", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError as error:  # the system's limit, or the interpreter's exit
                    _log.warning("%s: %d of %d threads: %s", self._name, i, self._wanted, error)
                    break
                self._threads.append(thread)
        return len(self._threads)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue a call; see ``concurrent.futures.Executor.submit``."""
        if self._closed:
            raise RuntimeError(f"{self._name}: the pool was shut down")
        future: Future[Any] = Future()
        task = future, fn, args, kwargs
        if self.begin():
            self._tasks.put(task)
        else:
            _do(*task)
        return future

    def map_ahead(self, function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
        """Yield results in the items' order, at most two per thread ahead of the reader."""
        return in_order(partial(self.submit, function), items, 2 * self._wanted)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads once the queued tasks are done; see ``Executor.shutdown``."""
        self._closed = True
        if cancel_futures:
            with contextlib.suppress(Empty):
                while True:
                    if (task := self._tasks.get_nowait()) is not None:
                        task[0].cancel()
        self._tasks.put(None)
        if wait:
            for thread in self._threads:
                if thread is not current_thread():  # where the collector closes a lost generator
                    thread.join()


def in_order(
    submit: Callable[[In], Any],
    items: Iterable[In],
    most: int,
    result: Callable[[Any], Any] = Future.result,
) -> Iterator[Any]:
    """Yield results of the items' futures in order, at most so many ahead of the reader."""
    ahead: deque[Any] = deque()
    try:
        for item in items:
            ahead.append(submit(item))
            if len(ahead) > most:
                yield result(ahead.popleft())
        while ahead:
            yield result(ahead.popleft())
    finally:
        for future in ahead:
            future.cancel()


def _run(tasks: _Tasks) -> None:
    # Without the pool, whose threads end when nobody refers to it any more.
    while (task := tasks.get()) is not None:
        _do(*task)
        del task  # what it refers to may be large, and the next one may be long in coming
    tasks.put(None)  # for the next thread


def _do(future: Future[Any], function: Any, args: Any, kwargs: Any) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001  raised to whoever waits for the result
        future.set_exception(error)
        del future  # or the error's traceback would keep itself alive
    else:
        future.set_result(result)
