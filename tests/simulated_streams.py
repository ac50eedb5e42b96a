"""Streams of a device on the CPU, which run as unhelpfully as their events allow.

What is done to a tensor of the simulated device is not done but queued, on the stream that is
current. It runs only when somebody waits for an event. Each stream is in order by itself, and only
events relate two of them: in which order streams are tried is a test's choice.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch

_IN_PLACE = {torch.Tensor.fill_, torch.Tensor.copy_, torch.Tensor.zero_, torch.Tensor.add_}


class Event:
    """Happened, once the stream that recorded it got there."""

    happened = False


Work = Callable[[], object] | Event  # an Event in a queue: what follows runs after it


class Machine:
    """Streams, by their names.

    Args:
        order: Puts streams into the order in which they are tried for the next operation.
    """

    def __init__(self, order: Callable[[list[str]], Sequence[str]]) -> None:
        self.queues: dict[str, deque[Work]] = defaultdict(deque)
        self._order, self._lock = order, threading.RLock()

    @property
    def left(self) -> int:
        """Operations that have not run yet, events among them."""
        return sum(len(queue) for queue in self.queues.values())

    def put(self, stream: str, *work: Work) -> None:
        """Queue work, or an event that later work waits for."""
        with self._lock:
            self.queues[stream].extend(work)

    def record(self, stream: str, event: Event) -> Event:
        """Let the event happen when the stream gets here."""
        self.put(stream, lambda: setattr(event, "happened", True))
        return event

    def run_until(self, event: Event) -> None:
        """Run queued work, unhelpfully, until the event has happened."""
        with self._lock:
            while not event.happened:
                if not any(self._advance(stream) for stream in self._order(list(self.queues))):
                    raise RuntimeError("deadlock: all streams wait for ever")

    def run_alone(self, stream: str) -> int:
        """Run one stream as far as it gets while the others stand still; what is left of it."""
        with self._lock:
            while self._advance(stream):
                pass
            return len(self.queues[stream])

    def _advance(self, stream: str) -> bool:
        """One operation of the stream, if no event holds it back."""
        queue = self.queues[stream]
        while queue and isinstance(queue[0], Event) and queue[0].happened:
            queue.popleft()
        if not queue or isinstance(queue[0], Event):
            return False
        work = queue.popleft()
        assert not isinstance(work, Event)
        work()
        return True


class DeviceTensor(torch.Tensor):
    """A tensor of the simulated device: a CPU tensor whose changes are queued on a stream.

    Attributes:
        machine: The device.
        current: Gives the name of the current stream.
    """

    machine: ClassVar[Machine]
    current: ClassVar[Callable[[], str]]

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _IN_PLACE and "out" not in kwargs:
            return super().__torch_function__(func, types, args, kwargs)
        plain = [_plain(value) for value in args]
        named = {name: _plain(value) for name, value in kwargs.items()}
        is_from_host = func is torch.Tensor.copy_ and not isinstance(args[1], cls)
        if is_from_host and not kwargs.get("non_blocking"):
            plain[1] = plain[1].clone()  # over when it returns, so read now
        cls.machine.put(cls.current(), lambda: func(*plain, **named))
        return kwargs.get("out", args[0])


def _plain(value: Any) -> Any:
    return value.as_subclass(torch.Tensor) if isinstance(value, torch.Tensor) else value
