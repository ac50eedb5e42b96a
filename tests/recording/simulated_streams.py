"""``torch`` as staging calls it, with simulated streams in place of CUDA's.

One stream runs as far ahead as events let it, and which one is a test's parameter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from tests.simulated_streams import DeviceTensor, Event, Machine


class SimulatedStream:
    """``torch.cuda.Stream``."""

    def __init__(self, name: str, machine: Machine) -> None:
        self.name, self._machine = name, machine

    def wait_event(self, event: Event) -> None:
        self._machine.put(self.name, event)

    def wait_stream(self, other: SimulatedStream) -> None:
        self.wait_event(self._machine.record(other.name, Event()))


class SimulatedCuda:
    """``torch.cuda``, as far as staging calls it.

    Args:
        ahead: The stream that runs as far ahead as it can: ``caller``, or one of those that are
            made, which are called ``stream-1`` and so on.
    """

    def __init__(self, ahead: str) -> None:
        self.machine = Machine(lambda names: sorted(names, key=lambda name: name != ahead))
        DeviceTensor.machine = self.machine
        DeviceTensor.current = staticmethod(lambda: self._current.name)
        self._current = self._caller = SimulatedStream("caller", self.machine)
        self._made = self.copies_out = 0
        self.pinned: dict[int, int] = {}  # bytes by address
        machine, made = self.machine, self

        class RecordedEvent(Event):
            def __init__(self, blocking: bool = False) -> None:
                made.copies_out += blocking

            def record(self, stream: SimulatedStream) -> None:
                machine.record(stream.name, self)

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
        try:
            yield
        finally:
            self._current = before

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
