"""A device on the CPU, whose streams run in any order that is allowed.

Tensors of the device are CPU tensors of a subclass. What is done to them is not done but queued on
the current stream of the thread, and runs only when somebody waits for a stream: then streams
advance by chance, each in its own order, and where events relate them in that order.

Memory that the allocator gives belongs to the stream that asked for it: whoever had it before may
still write there, on that stream. So work that destroys its contents is queued there first.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch

Work = Callable[[], None]


class Event:
    """A point in a stream."""

    happened = False


class Stream:
    """A queue of work, and of events that later work waits for."""

    def __init__(self) -> None:
        self.queue: deque[Work | Event] = deque()

    def record(self) -> Event:
        event = Event()
        self.queue.append(lambda: setattr(event, "happened", True))
        return event

    def advance(self) -> bool:
        """Do the next thing, if no event holds it back."""
        while self.queue and isinstance(self.queue[0], Event) and self.queue[0].happened:
            self.queue.popleft()
        if not self.queue or isinstance(self.queue[0], Event):
            return False
        work = self.queue.popleft()
        assert not isinstance(work, Event)
        work()
        return True


class DeviceTensor(torch.Tensor):
    """A tensor of the simulated device."""

    device_of_all: ClassVar[SimulatedDevice]

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not torch.Tensor.copy_ and "out" not in kwargs:
            return super().__torch_function__(func, types, args, kwargs)
        plain = [_plain(a) for a in args]
        named = {name: _plain(a) for name, a in kwargs.items()}
        cls.device_of_all.queue(lambda: func(*plain, **named))
        return kwargs.get("out", args[0])


def _plain(value: Any) -> Any:
    return value.as_subclass(torch.Tensor) if isinstance(value, torch.Tensor) else value


class SimulatedDevice:
    """``TorchDevice`` of that device.

    Args:
        seed: Of the order in which streams advance.
        forgets: What a faulty program forgets: ``wait`` for the caller's stream before another one
            writes into its memory, or to ``finish`` a stream before its results are used.
    """

    def __init__(self, seed: int, forgets: str = "") -> None:
        self._random, self._forgets = random.Random(seed), forgets
        self._lock, self._of_thread = threading.RLock(), threading.local()
        self._caller = Stream()
        self._streams = [self._caller]
        DeviceTensor.device_of_all = self

    @property
    def _current(self) -> Stream:
        return getattr(self._of_thread, "stream", self._caller)

    def queue(self, work: Work) -> None:
        with self._lock:
            self._current.queue.append(work)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        memory = torch.empty(shape, dtype=dtype)
        self.queue(lambda: memory.copy_(torch.full(shape, 111, dtype=dtype)))
        return memory.as_subclass(DeviceTensor)

    def staging(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype)

    def side(self) -> Stream:
        with self._lock:
            stream = Stream()
            if self._forgets != "wait":
                stream.queue.append(self._current.record())
            self._streams.append(stream)
            return stream

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        before, self._of_thread.stream = self._current, stream
        try:
            yield
        finally:
            self._of_thread.stream = before

    def finish(self, stream: Stream) -> None:
        if self._forgets == "finish":
            return
        with self._lock:
            while stream.queue:
                self._random.shuffle(self._streams)
                if not any(s.advance() for s in self._streams):
                    raise RuntimeError("deadlock: all streams wait for ever")
