"""A device on the CPU whose streams run as unhelpfully as their events allow.

Tensors of the simulated device are ordinary CPU tensors of a subclass whose in-place operations
are not done but queued, on the stream that is current. Queued work runs only when somebody waits
for an event, and then in the worst order: one stream runs as far ahead as events let it, and which
one is a test's parameter. Each stream is in order by itself, and only events relate two of them.

``SimulatedStreams`` stands in for ``CudaStreams``; ``SimulatedTorch`` stands in for what
``CudaStreams`` itself calls, and has any number of streams.
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


class SimulatedStreams:
    """``CudaStreams`` on a machine of the kind above; subclasses each forget one thing.

    Args:
        ahead: See ``Machine``.
    """

    def __init__(self, ahead: str = "caller") -> None:
        self.machine = DeviceTensor.machine = Machine(ahead)
        self.copies_out = self.pinned_nbytes = 0

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype).as_subclass(DeviceTensor)

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype)

    def pin(self, memory: Any) -> None:
        self.pinned_nbytes += memory.nbytes

    def unpin(self, memory: Any) -> None:
        self.pinned_nbytes -= memory.nbytes

    def copy_rows(self, pairs: list[tuple[torch.Tensor, Any]]) -> None:
        for target, source in pairs:
            if isinstance(source, torch.Tensor):
                target.copy_(source)
            else:
                target.fill_(source)

    def record(self) -> Event:
        return self._event("caller")

    def wait(self, event: Any) -> None:
        self.machine.put("caller", event)

    def copy_out(self, pairs: list[tuple[torch.Tensor, torch.Tensor]], after: Any) -> Any:
        self.copies_out += 1
        self.machine.put("side", after)
        for target, source in pairs:
            self.machine.put("side", _copy(target, source))
        return self._event("side")

    def synchronize(self, event: Any) -> None:
        self.machine.run_until(event)

    def _event(self, stream: str) -> Event:
        event = Event()
        self.machine.put(stream, lambda: setattr(event, "happened", True))
        return event


def _copy(target: torch.Tensor, source: torch.Tensor) -> Callable[[], None]:
    plain = source.as_subclass(torch.Tensor)

    def work() -> None:
        target.copy_(plain)

    return work


class WithoutWait(SimulatedStreams):
    """The caller's stream does not wait before a device buffer is written again."""

    def wait(self, event: Any) -> None:
        pass


class WithoutAfter(SimulatedStreams):
    """The side stream does not wait for the rows before it copies a block out."""

    def copy_out(self, pairs: list[tuple[torch.Tensor, torch.Tensor]], after: Any) -> Any:
        done = Event()
        done.happened = True
        return super().copy_out(pairs, done)


class WithoutSynchronize(SimulatedStreams):
    """The host does not wait for a block's copy before it encodes it."""

    def synchronize(self, event: Any) -> None:
        pass


class RowsOnTheSide(SimulatedStreams):
    """Rows are copied on the side stream, where the caller's later work may overtake them."""

    def copy_rows(self, pairs: list[tuple[torch.Tensor, Any]]) -> None:
        for target, source in pairs:
            plain = source.as_subclass(torch.Tensor)
            self.machine.put("side", _copy(target.as_subclass(torch.Tensor), plain))


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
        self._made = 0
        machine = self.machine

        class RecordedEvent(Event):
            def __init__(self, blocking: bool = False) -> None:
                pass

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


class SimulatedTorch:
    """``torch``, with a simulated device in place of CUDA."""

    def __init__(self, ahead: str = "caller") -> None:
        self.cuda = SimulatedCuda(ahead)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def empty(
        self, shape: Any, *, dtype: torch.dtype, device: Any = None, pin_memory: bool = False
    ) -> torch.Tensor:
        if torch.device(device or torch.get_default_device()).type == "cuda":
            return torch.empty(shape, dtype=dtype, device="cpu").as_subclass(DeviceTensor)
        return torch.empty(shape, dtype=dtype, device=device)
