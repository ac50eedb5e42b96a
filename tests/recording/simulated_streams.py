"""A device on the CPU whose streams run as unhelpfully as their events allow.

Tensors of the simulated device are ordinary CPU tensors of a subclass whose in-place operations
are not done but queued, on the stream that is current. Queued work runs only when somebody waits
for an event, and then in the worst order: one stream runs as far ahead as events let it, and which
one is a test's parameter. Each stream is in order by itself, and only events relate two of them.

``SimulatedTorch`` stands in for ``torch`` as staging calls it, and has any number of streams.
"""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch

_IN_PLACE = {torch.Tensor.fill_, torch.Tensor.copy_, torch.Tensor.zero_, torch.Tensor.add_}


class Event:
    """Happened, once the stream that recorded it got there."""

    happened = False


Work = Callable[[], None] | Event  # an Event in a queue: what follows runs after it


class Machine:
    """Streams, and which of them runs first.

    Args:
        ahead: ``caller``, ``side`` or another stream: the one that runs as far ahead as it can.
    """

    def __init__(self, ahead: str) -> None:
        self.queues: dict[str, deque[Work]] = defaultdict(deque)
        self._ahead = ahead
        self._lock = threading.RLock()

    @property
    def left(self) -> int:
        """Operations that have not run yet, events among them."""
        return sum(len(queue) for queue in self.queues.values())

    def put(self, stream: str, *work: Work) -> None:
        """Queue work, or an event that later work waits for."""
        with self._lock:
            self.queues[stream].extend(work)

    def run_until(self, event: Event) -> None:
        """Run queued work, unhelpfully, until the event has happened."""
        with self._lock:
            while not event.happened:
                others = [stream for stream in self.queues if stream != self._ahead]
                if not any(self._advance(stream) for stream in (self._ahead, *others)):
                    raise RuntimeError("deadlock: all streams wait for ever")

    def run_alone(self, stream: str) -> int:
        """Run one stream as far as it gets while the other stands still; what is left of it."""
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
    """A tensor of the simulated device: operations in place are queued on a stream."""

    machine: ClassVar[Machine]
    stream: ClassVar[str] = "caller"

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func not in _IN_PLACE:
            return super().__torch_function__(func, types, args, kwargs or {})
        plain = [a.as_subclass(torch.Tensor) if isinstance(a, torch.Tensor) else a for a in args]
        if func is torch.Tensor.copy_ and not isinstance(args[1], cls):
            plain[1] = plain[1].clone()  # from host memory: over when it returns, so read now

        def work() -> None:
            func(*plain, **(kwargs or {}))

        cls.machine.put(cls.stream, work)
        return args[0]


class SimulatedStream:
    """``torch.cuda.Stream``."""

    def __init__(self, name: str, machine: Machine) -> None:
        self.name, self._machine = name, machine

    def wait_event(self, event: Event) -> None:
        self._machine.put(self.name, event)

    def wait_stream(self, other: SimulatedStream) -> None:
        event = Event()
        self._machine.put(other.name, lambda: setattr(event, "happened", True))
        self.wait_event(event)


class SimulatedCuda:
    """``torch.cuda``, as far as staging calls it.

    Args:
        ahead: See ``Machine``; streams that are made are called ``stream-1`` and so on.
    """

    def __init__(self, ahead: str) -> None:
        self.machine = DeviceTensor.machine = Machine(ahead)
        self._current = self._caller = SimulatedStream("caller", self.machine)
        self._made = self.copies_out = 0
        self.pinned: dict[int, int] = {}  # bytes by address
        machine, made = self.machine, self

        class RecordedEvent(Event):
            def __init__(self, blocking: bool = False) -> None:
                made.copies_out += blocking

            def record(self, stream: SimulatedStream) -> None:
                machine.put(stream.name, lambda: setattr(self, "happened", True))

            def synchronize(self) -> None:
                machine.run_until(self)

        self.Event = RecordedEvent

    def Stream(self, device: Any = None) -> SimulatedStream:  # noqa: N802
        self._made += 1
        return SimulatedStream(f"stream-{self._made}", self.machine)

    def current_stream(self, device: Any = None) -> SimulatedStream:
        return self._current

    def current_device(self) -> int:
        return 0

    @contextlib.contextmanager
    def stream(self, stream: SimulatedStream) -> Iterator[None]:
        before, self._current = self._current, stream
        DeviceTensor.stream = stream.name
        try:
            yield
        finally:
            self._current, DeviceTensor.stream = before, before.name

    def device(self, device: Any) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def mem_get_info(self, device: Any) -> tuple[int, int]:
        return 1 << 20, 1 << 21

    def memory_reserved(self, device: Any) -> int:
        return 0

    memory_allocated = memory_reserved

    def cudart(self) -> SimulatedCuda:
        return self

    def cudaHostRegister(self, address: int, nbytes: int, flags: int) -> int:  # noqa: N802
        self.pinned[address] = nbytes
        return 0

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        del self.pinned[address]
        return 0


class SimulatedTorch:
    """``torch``, with a simulated device in place of CUDA."""

    def __init__(self, ahead: str = "caller") -> None:
        self.cuda = SimulatedCuda(ahead)
        self.errors_seen = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def empty(
        self, shape: Any, *, dtype: torch.dtype, device: Any = None, pin_memory: bool = False
    ) -> torch.Tensor:
        if torch.device(device or torch.get_default_device()).type == "cuda":
            return torch.empty(shape, dtype=dtype, device="cpu").as_subclass(DeviceTensor)
        return torch.empty(shape, dtype=dtype, device=device)

    def zeros(self, size: int, *, device: Any) -> torch.Tensor:
        """The first kernel behind a failed call: CUDA raises that call's error there."""
        self.errors_seen += 1
        raise RuntimeError("CUDA error: out of memory")
