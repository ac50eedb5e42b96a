"""A sampler's memory and threads: made when they are first needed, and anew in each process."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

import torch

from mosaic_collect.errors import ClosedError
from mosaic_collect.sampling.ahead import Ahead
from mosaic_collect.sampling.batches import HostBatches
from mosaic_collect.sampling.device import DeviceMemory, TorchDevice
from mosaic_collect.sampling.options import EPOCHS, SamplerOptions
from mosaic_collect.sampling.pool import HostMemory, Memory, Pool
from mosaic_collect.sampling.snapshot import PoolPlan
from mosaic_collect.sampling.tiles import Tiles

T = TypeVar("T")


class Machine:
    """The pool, and the one iteration that it serves. Pickles as if it had never run.

    Args:
        options: Of the sampler.
        device: Where batches are to be.
    """

    def __init__(self, options: SamplerOptions, device: torch.device) -> None:
        self._options, self._device = options, device
        self._pool: Pool | None = None
        self._made_for: tuple[int, Tiles] | None = None
        self._live: Ahead[Any] | None = None

    def __reduce__(self) -> Any:
        return Machine, (self._options, self._device)

    @property
    def is_busy(self) -> bool:
        """Whether an iteration goes on."""
        return self._live is not None and not self._live.is_stopped

    def pool_for(self, tiles: Tiles, workers: int) -> tuple[Pool, PoolPlan]:
        """A pool of a worker's part of the memory; an iteration that goes on is ended.

        Raises:
            InputError: The part has no room for two tiles.
        """
        self.stop()
        plan = PoolPlan.of(tiles, self._options.pool_nbytes // workers)
        if self._pool is None or self._made_for != (os.getpid(), tiles):
            self.close()
            threads = self._options.threads or 1
            memory = self._memory(tiles, plan.slots, threads)
            self._pool = Pool(memory, tiles.rows, plan.slots, threads)
            self._made_for = os.getpid(), tiles
        return self._pool, plan

    def run(self, made: Generator[T, None, None], batch_nbytes: int) -> Iterator[T]:
        """What ``made`` gives, made ahead: two batches, or one if they are large beside the pool.

        Raises:
            ClosedError: ``stop`` was called meanwhile, or this is a forked child.
        """
        ahead = self._live = Ahead(made, 1 if batch_nbytes > self._options.pool_nbytes // 8 else 2)
        try:
            ahead.start()
            yield from ahead
            if self._live is not ahead:
                raise ClosedError("this iteration was ended by another one, or by close()")
        finally:
            ahead.stop()  # whoever needs the pool next waits for it: this may be a finalizer

    def stop(self) -> None:
        """End the iteration that goes on; also what is left of it where this was interrupted."""
        self._leave_the_parents()
        if self._live is not None:
            self._live.join()
            self._live = None
        if self._pool is not None:
            self._pool.release_all()

    def close(self) -> None:
        """End it, and the threads, and give the memory back; all is made anew when needed."""
        self.stop()
        pool, self._pool, self._made_for = self._pool, None, None
        if pool is not None:
            pool.close()

    def _leave_the_parents(self) -> None:
        """A forked child has its parent's pool but none of its threads: it would wait for ever."""
        if self._made_for is not None and self._made_for[0] != os.getpid():
            self._pool = self._made_for = self._live = None

    def _memory(self, tiles: Tiles, slots: int, threads: int) -> Memory:
        if self._device.type != "cpu":
            return DeviceMemory(tiles, slots, threads, TorchDevice(self._device))
        size = self._options.batch_size
        if self._options.mode == EPOCHS:
            size = min(size, tiles.num_pairs)
        batches = HostBatches(tiles.fields, size, self._options.pin_memory)
        return HostMemory(tiles, slots, threads, batches)
