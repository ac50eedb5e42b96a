"""Batches made ahead of their consumer, and the pool and threads that make them.

    thread      decoders            mosaic-batches                  the consumer's
                tiles into slots -> draws batches, ahead        ->  hands them out
                copiers
                batches out of slots

Threads and memory are made when they are first needed, and anew in each process. An interrupt at
any instruction of the consumer leaves them such that the next iteration begins anew. No finalizer
waits for a thread: the garbage collector may run it in the very thread that it would wait for.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Generator, Iterator
from queue import SimpleQueue
from typing import Any, Generic, TypeVar
from weakref import WeakSet

import torch

from mosaic_collect.errors import ClosedError
from mosaic_collect.sampling.device import DeviceMemory, TorchDevice
from mosaic_collect.sampling.options import LoaderOptions
from mosaic_collect.sampling.order import Made, Position
from mosaic_collect.sampling.pool import Batch, HostMemory, Memory, Pool
from mosaic_collect.sampling.tiles import Tiles

T = TypeVar("T")
_THREAD_NAME = "mosaic-batches"
_EXIT_SECONDS = 5.0  # for threads that work when the interpreter exits


class Prefetcher(Generic[T]):
    """Runs a generator in a thread, ``depth`` items ahead of its consumer.

    The thread is a daemon: it waits for room most of the time, and must not keep a program alive.
    An interrupt at any instruction of the consumer leaves it such that ``join`` ends it. No lock is
    held while Python code runs.

    Attributes:
        is_stopped: Whether there are no more items, or nobody wants them.
    """

    def __init__(self, made: Generator[T, None, None], depth: int) -> None:
        self.is_stopped, self._process = False, os.getpid()
        #: Each with None, or None with the exception that ended the thread.
        self._items: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        #: A token for each item that may be put.
        self._room: SimpleQueue[None] = SimpleQueue()
        for _ in range(depth):
            self._room.put(None)
        self._thread = threading.Thread(
            target=self._run, args=(made,), name=_THREAD_NAME, daemon=True
        )

    def start(self) -> None:
        """Let the thread begin: once its maker can close it."""
        _STARTED.add(self)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if not self.is_own:
            raise ClosedError("this iteration is the parent process's: begin one here")
        if self.is_stopped:
            raise StopIteration
        item, end = self._items.get()
        self._room.put(None)
        if end is not None:
            self.is_stopped = True
            raise end
        return item  # type: ignore[no-any-return]

    @property
    def is_own(self) -> bool:
        """Whether it was made by this process, and not by one that forked."""
        return self._process == os.getpid()

    def stop(self) -> None:
        """Let the thread end, without waiting for it.

        The garbage collector may call this in any thread, also in one that the thread waits for.
        """
        self.is_stopped = True
        self._room.put(None)

    def join(self, seconds: float | None = None) -> None:
        """End the thread; when it returns, nothing is being made, or so many seconds are over.

        Not called ``close``: ``yield from`` would call that, wherever its generator is collected.
        """
        waited = 0.0
        while self._thread.is_alive() and (seconds is None or waited < seconds):
            self.stop()
            self._thread.join(0.01)
            waited += 0.01
        self.stop()

    def _run(self, made: Generator[T, None, None]) -> None:
        end: BaseException = StopIteration()
        try:
            while not self.is_stopped:
                item = next(made)
                self._room.get()
                self._items.put((item, None))
                del item  # or a batch that the consumer let go would stay
        except BaseException as error:  # noqa: BLE001  raised to the consumer
            end = error
        made.close()
        self._items.put((None, end))


_STARTED: WeakSet[Prefetcher[Any]] = WeakSet()


@atexit.register
def _end_all() -> None:
    """End the threads before the interpreter: one that frees a tensor behind it would abort."""
    for prefetcher in list(_STARTED):
        if prefetcher.is_own:
            prefetcher.join(_EXIT_SECONDS)
    # One that nobody refers to any more is just freeing what it made.
    for thread in threading.enumerate():
        if thread.name == _THREAD_NAME:
            thread.join(_EXIT_SECONDS)


def _filled(made: Made) -> tuple[Batch, Position]:
    """A batch and the position behind it, once the batch is copied."""
    batch, position, copies = made
    for copy in copies:
        copy.result()
    return batch, position


class PoolRunner:
    """The pool, and the one iteration that it serves. Pickles as if it had never run."""

    def __init__(self, options: LoaderOptions, device: torch.device) -> None:
        self._options, self._device = options, device
        self._pool: Pool | None = None
        self._live: Prefetcher[Any] | None = None

    def __reduce__(self) -> Any:
        return PoolRunner, (self._options, self._device)

    @property
    def is_busy(self) -> bool:
        """Whether an iteration goes on."""
        return self._live is not None and not self._live.is_stopped

    def pool_for(self, tiles: Tiles) -> Pool:
        """A pool of these tiles; an iteration that goes on is ended."""
        self.stop()
        if self._pool is None or self._pool.tiles is not tiles:
            self.close()
            self._pool = Pool(self._memory(tiles), tiles, self._options.threads or 1)
        return self._pool

    def run(
        self, made: Generator[Made, None, None], batch_nbytes: int
    ) -> Iterator[tuple[Batch, Position]]:
        """Yield from ``made``, two batches ahead, or one if they are large beside the pool.

        Raises:
            ClosedError: ``stop`` was called meanwhile, or this is a forked child.
        """
        ahead = self._live = Prefetcher(
            made, 1 if batch_nbytes > self._options.pool_nbytes // 8 else 2
        )
        try:
            ahead.start()
            yield from map(_filled, ahead)
            if self._live is not ahead:
                raise ClosedError("this iteration was ended by another one, or by close()")
        finally:
            ahead.stop()  # whoever needs the pool next waits for it: this may be a finalizer

    def stop(self) -> None:
        """End the iteration that goes on; also what is left of it where this was interrupted."""
        # A forked child has its parent's pool but none of its threads: it would wait for ever.
        if self._pool is not None and self._pool.process != os.getpid():
            self._pool = self._live = None
        if self._live is not None:
            self._live.join()
            self._live = None
        if self._pool is not None:
            self._pool.release_all()

    def close(self) -> None:
        """End it, and the threads, and give the memory back; all is made anew when needed."""
        self.stop()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def _memory(self, tiles: Tiles) -> Memory:
        if self._device.type == "cpu":
            return HostMemory(tiles, self._options)
        return DeviceMemory(tiles, self._options.threads or 1, TorchDevice(self._device))
