"""Who works through a pass over everything: threads of this process, or a cluster.

A pass is one function of one piece, a block of a field say, and what is made of its results in the
pieces' order. So what is found does not depend on who worked, nor on who was ready first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, Generic, TypeVar

from mosaic_collect.checks import thread_count
from mosaic_collect.store.workers import WorkerPool

In = TypeVar("In")
Out = TypeVar("Out")


class Engine:
    """Threads of this process; ``DaskEngine`` is a cluster's workers.

    Args:
        threads: Number of threads; None: one per processor, at most 4.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = thread_count(threads)

    def map(
        self,
        function: Callable[[In], Out],
        pieces: Iterable[In],
        require: Callable[[], None] | None = None,
    ) -> Iterator[Out]:
        """Yield results in the pieces' order, a bounded number of them ahead of the reader.

        Args:
            function: Pickles, takes bounded memory, and may be called twice for a piece, the second
                time where the first one's process died: it then returns and leaves behind the same.
            pieces: Pickle, as the results do. Those of a sequence, a range for one, are small and
                go out in batches; others one by one.
            require: Called once in each other process before its first piece: raises if that
                process sees other files than this one does.

        Raises:
            ClusterError: The cluster cannot do the work.
            Exception: The exception of the function, for the first piece that fails.
        """
        if self._threads == 1:
            yield from map(function, pieces)
            return
        with WorkerPool(self._threads, "mosaic-pass") as pool:
            yield from pool.map_ahead(function, pieces)


class Cached(Generic[Out]):
    """``functools.lru_cache`` that pickles, without its results.

    Args:
        function: Returns equal results for equal arguments; nobody changes a result.
        size: Number of results to keep.
    """

    def __init__(self, function: Callable[..., Out], size: int) -> None:
        self._function, self._size = function, size
        self._cached = lru_cache(size)(function)

    def __reduce__(self) -> Any:
        return Cached, (self._function, self._size)

    def __call__(self, *arguments: Any) -> Out:
        """The function's result."""
        return self._cached(*arguments)
