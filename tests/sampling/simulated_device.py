"""``TorchDevice`` with simulated streams, which run in any order that is allowed.

Memory that the allocator gives belongs to the stream that asked for it: whoever had it before may
still write there, on that stream. So work that destroys its contents is queued there first.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tests.simulated_streams import DeviceTensor, Event, Machine


class SimulatedDevice:
    """``TorchDevice`` of that device.

    Args:
        seed: Of the order in which streams advance.
        forgets: What a faulty program forgets: ``wait`` for the caller's stream before another one
            writes into its memory, or to ``finish`` a stream before its results are used.
    """

    def __init__(self, seed: int, forgets: str = "") -> None:
        rng, self._forgets = random.Random(seed), forgets
        self._machine = Machine(lambda names: rng.sample(names, len(names)))
        self._names, self._of_thread = itertools.count(1), threading.local()
        DeviceTensor.machine = self._machine
        DeviceTensor.current = staticmethod(self._current)

    def _current(self) -> str:
        return getattr(self._of_thread, "stream", "caller")

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        memory = torch.empty(shape, dtype=dtype)
        spoil = torch.full(shape, 111, dtype=dtype)
        self._machine.put(self._current(), lambda: memory.copy_(spoil))
        return memory.as_subclass(DeviceTensor)

    def staging(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype)

    def side(self) -> str:
        stream = f"stream-{next(self._names)}"
        if self._forgets != "wait":
            self._machine.put(stream, self._machine.record(self._current(), Event()))
        return stream

    @contextmanager
    def on(self, stream: str) -> Iterator[None]:
        before, self._of_thread.stream = self._current(), stream
        try:
            yield
        finally:
            self._of_thread.stream = before

    def finish(self, stream: str) -> None:
        if self._forgets != "finish":
            self._machine.run_until(self._machine.record(stream, Event()))
