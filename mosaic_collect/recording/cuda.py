"""Staging on a GPU: the only module that knows streams and events.

      caller's stream   ── copy row ── copy row ──●full ──────────── copy row (other buffer) ──
                                                  │ event
      side stream       ──────────────────────────▼─ block to pinned host memory ─●── ...
                                                                                  │ event
      encoder thread    ───────────────────────────────────── waits ──────────────▼─ encode

Two device buffers take turns. A row is copied on the caller's stream, so the simulator may
overwrite its tensors at once; a full block crosses the bus in one flat copy per field on a side
stream; before a buffer is written again, the caller's stream (not the caller) waits for the copy
out of it. The host never synchronises in ``stage``.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mosaic_collect.checks import is_tensor
from mosaic_collect.errors import SpaceError
from mosaic_collect.recording.blocks import (
    HOST_FIELDS,
    Block,
    HostStaging,
    SharedRing,
    host_arrays,
)
from mosaic_collect.recording.budget import block_nbytes
from mosaic_collect.store.grid import FieldGrid
from mosaic_collect.store.schema import DTYPES

_log = logging.getLogger(__name__)
#: cudaHostRegisterPortable: page-locked for all contexts (CUDA Runtime API, Memory Management).
_PORTABLE = 1
_TORCH_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPES}


class DeviceStaging(HostStaging):
    """Stages on a CUDA device and hands blocks to the host asynchronously.

    Trajectories' ids and ends are the writer's own and go straight to the host block. A ring is
    page-locked here; without one, the driver gives memory for the slots.

    Raises:
        OSError: The driver does not page-lock the ring.
        SpaceError: Two blocks do not fit into the device's memory.
    """

    def __init__(
        self,
        grids: Mapping[str, FieldGrid],
        num_envs: int,
        device: str,
        ring: SharedRing | None = None,
    ) -> None:
        super().__init__(grids, num_envs, ring)
        self._device = _numbered(device)
        self._side = torch.cuda.Stream(self._device)
        self._last: Any = None  # the stream that the caller used last
        self._names = [n for n in grids if n not in HOST_FIELDS]
        with _allocating(f"two blocks of {block_nbytes(grids) / 1e6:.1f} MB on the GPU"):
            self._buffers = [self._device_buffers() for _ in range(2)]
        self._copied: list[Any] = [None, None]
        self._turn = 0
        self._tensors: dict[int, dict[str, torch.Tensor]] = {}  # by slot
        if ring is not None and (error := self._lock(ring.bytes, True)):
            words = f"cudaHostRegister of {ring.bytes.nbytes} bytes: error {error}"
            raise OSError(errno.ENOMEM, words)

    def new_block(self, slot: int) -> Block:
        nbytes = block_nbytes(self._grids)
        with _allocating(f"a block of {nbytes / 1e6:.1f} MB of page-locked memory"):
            arrays = self._host_arrays() if self.ring is None else self.ring.slot(slot)
            self._tensors[slot] = {n: torch.from_numpy(arrays[n]) for n in self._names}
        return Block(arrays, self._grids, slot)

    def begin(self, block: Block) -> None:
        """The other device buffer's turn, with what ``block`` holds already."""
        self._turn = 1 - self._turn
        if self._copied[self._turn] is not None:
            self._stream().wait_event(self._copied[self._turn])
        if block.count:
            buffers, tensors = self._buffers[self._turn], self._tensors[block.slot]
            self._copy_rows([(buffers[n], tensors[n]) for n in self._names])

    def stage(self, block: Block, rows: Mapping[str, Any]) -> None:
        buffers = self._buffers[self._turn]
        self._copy_rows([(buffers[n][: self._num_envs, block.count], v) for n, v in rows.items()])

    def seal(self, block: Block) -> None:
        """Start the block's copy to the host; ``block.wait_ready`` waits for it."""
        buffers, tensors = self._buffers[self._turn], self._tensors[block.slot]
        staged = self._record()
        # Who waits for it sleeps, and leaves the processor to the simulation.
        event = torch.cuda.Event(blocking=True)
        with torch.cuda.stream(self._side):
            self._side.wait_event(staged)
            for name in self._names:
                tensors[name].copy_(buffers[name], non_blocking=True)
            event.record(self._side)
        self._copied[self._turn] = event
        block.wait_ready = event.synchronize

    def close(self) -> None:
        """Wait for rows and blocks under way, then give the device memory back."""
        try:
            for event in [*self._copied, self._record() if self._buffers else None]:
                if event is not None:
                    event.synchronize()
        finally:
            self._buffers = []
            self._tensors = {}
            ring, self.ring = self.ring, None
            if ring is not None and (error := self._lock(ring.bytes, False)):
                _log.error("cudaHostUnregister of %d bytes: error %d", ring.bytes.nbytes, error)

    def _stream(self) -> Any:
        """The caller's stream, ordered behind the one it used before, if it has changed."""
        stream = torch.cuda.current_stream(self._device)
        if self._last is not None and self._last != stream:
            stream.wait_stream(self._last)
        self._last = stream
        return stream

    def _record(self) -> Any:
        """An event behind all work that the caller's stream has so far."""
        event = torch.cuda.Event()
        event.record(self._stream())
        return event

    def _copy_rows(self, pairs: list[tuple[torch.Tensor, Any]]) -> None:
        """Copy each source to its target, on the caller's stream: later work may overwrite sources.

        A source is a tensor, an array, or a number for all values.
        """
        with torch.cuda.device(self._device):
            self._stream()
            for target, source in pairs:
                if isinstance(source, (bool, int, float)):
                    target.fill_(source)
                    continue
                if not is_tensor(source):  # torch knows no byte order but the machine's
                    source = torch.from_numpy(np.array(source, source.dtype.newbyteorder("=")))
                # A copy from host memory must be over when it returns: the caller may overwrite
                # it, and a pinned source would otherwise be read later.
                target.copy_(source.detach(), non_blocking=source.device.type == "cuda")

    def _lock(self, memory: NDArray[np.uint8], locked: bool) -> int:
        """Page-lock memory, or unlock it, and return the runtime's error, 0 for none."""
        runtime, address = torch.cuda.cudart(), memory.ctypes.data
        with torch.cuda.device(self._device):
            if locked:
                error = int(runtime.cudaHostRegister(address, memory.nbytes, _PORTABLE))
            else:
                error = int(runtime.cudaHostUnregister(address))
        if error:
            # It is kept for the next kernel's launch, which may be the caller's.
            with contextlib.suppress(RuntimeError):
                torch.zeros(1, device=self._device)
        return error

    def _host_arrays(self) -> dict[str, NDArray[Any]]:
        own = {n: g for n, g in self._grids.items() if n in HOST_FIELDS}
        pinned = self._tensors_in(device="cpu", pin_memory=True)
        return {**{n: tensor.numpy() for n, tensor in pinned.items()}, **host_arrays(own)}

    def _device_buffers(self) -> dict[str, torch.Tensor]:
        self._stream()
        buffers = self._tensors_in(device=self._device)
        for name, buffer in buffers.items():
            buffer.fill_(self._grids[name].field.fill_value)
        return buffers

    def _tensors_in(self, **memory: Any) -> dict[str, torch.Tensor]:
        """Allocate a block's tensors, but for the fields that stay on the host."""
        grids = [self._grids[name] for name in self._names]
        return {
            g.field.name: torch.empty(g.buffer_shape, dtype=_TORCH_DTYPES[g.field.dtype], **memory)
            for g in grids
        }


def free_device_nbytes(device: str) -> int:
    """Free bytes of the device's memory, those that torch's allocator holds unused included."""
    numbered = _numbered(device)
    free, _total = torch.cuda.mem_get_info(numbered)
    unused = torch.cuda.memory_reserved(numbered) - torch.cuda.memory_allocated(numbered)
    return int(free + unused)


def _numbered(device: str) -> torch.device:
    """The device with its number: "cuda" is the current one, which may be another one later."""
    named = torch.device(device)
    return named if named.index is not None else torch.device("cuda", torch.cuda.current_device())


@contextlib.contextmanager
def _allocating(what: str) -> Iterator[None]:
    """Around allocations that other threads, or later calls, will write to.

    Tensors that are made in inference mode, which belongs to the caller's thread, could be written
    only in inference mode.

    Raises:
        SpaceError: There is not enough memory for ``what``.
    """
    try:
        with torch.inference_mode(False):
            yield
    except RuntimeError as error:
        if "memory" not in str(error).lower():
            raise
        words = f"staging: {what} cannot be allocated ({error}); free memory, or stage on the CPU"
        raise SpaceError.because(words, error) from error
