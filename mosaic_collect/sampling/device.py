"""The pool's slots in the memory of a device: tiles cross the bus once, batches never do.

    thread         decoder                      batches' thread              the caller's
    stream         loads                        gathers                      its current one
                   staging -> slot, waited for  slots -> batch, waited for   uses the batch

Memory of a device belongs to the stream on which it was allocated: before another stream writes
there, it waits for that one. Torch's modes (inference, default device, autocast) belong to a
thread, so whatever is made here names its device and type, and is never an inference tensor.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from queue import SimpleQueue
from typing import Any

import torch

from mosaic_collect.errors import InputError
from mosaic_collect.sampling.pool import Batch, Codes, Copies, Memory
from mosaic_collect.sampling.tiles import PADDING_MASK, Draws, Tiles
from mosaic_collect.text import reason


class TorchDevice:
    """Memory and streams of a torch device; one that is no CUDA device has no streams."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._is_cuda = device, device.type == "cuda"

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Memory of the device, which belongs to the current stream."""
        return torch.empty(shape, dtype=dtype, device=self._device)

    def staging(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Memory of the host, from which the device copies."""
        return torch.empty(shape, dtype=dtype, device="cpu", pin_memory=self._is_cuda)

    def side(self) -> torch.cuda.Stream | None:
        """A stream that begins after all work of the current stream."""
        if not self._is_cuda:
            return None
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        return stream

    def on(self, stream: torch.cuda.Stream | None) -> AbstractContextManager[Any]:
        """Make a stream the current one of this thread."""
        return nullcontext() if stream is None else torch.cuda.stream(stream)

    def finish(self, stream: torch.cuda.Stream | None) -> None:
        """Wait until a stream has done its work."""
        if stream is not None:
            stream.synchronize()


def find_device(device: str | torch.device) -> torch.device:
    """The device, with the index that a CUDA device has now in this thread.

    Raises:
        InputError: There is no such device.
    """
    try:
        found = torch.device(device)
        if str(found) == "cuda":
            return torch.device("cuda", torch.cuda.current_device())
    except (RuntimeError, TypeError, AssertionError) as error:
        raise InputError(f"device: cannot use {device!r}: {reason(error)}") from error
    return found


class DeviceMemory(Memory):
    """Slots on a torch device.

    Tiles are decoded into page-locked memory and copied from there. Each copy and each gather is
    waited for by the thread that asked for it, on a stream of its own, so that a slot is never
    written while it is read, and a batch that is handed over is there. Each of the decoding
    ``threads`` needs memory for a tile on the host.
    """

    def __init__(self, tiles: Tiles, threads: int, device: TorchDevice) -> None:
        super().__init__(tiles)
        self._device = device
        self._staging: SimpleQueue[dict[str, torch.Tensor]] = SimpleQueue()
        with torch.inference_mode(False):
            self._arrays = self._room(tiles.slots * tiles.rows, device.empty)
            for _ in range(threads):
                self._staging.put(self._room(tiles.rows, device.staging))
            # Behind the arrays' memory, which is the current stream's.
            self._loads, self._gathers = device.side(), device.side()

    def _fill(self, number: int, rows: slice) -> Draws:
        staged = self._staging.get()
        try:
            draws = self._tiles.load(number, {n: t.numpy() for n, t in staged.items()})
            try:
                with self._device.on(self._loads):
                    for name, array in self._arrays.items():
                        array[rows].copy_(staged[name], non_blocking=True)
            finally:
                self._device.finish(self._loads)
        finally:
            self._staging.put(staged)
        return draws

    def gather(self, codes: Codes, batch: Batch, first: int) -> Copies:
        found, behind = self.rows_of(codes)
        at = slice(first, first + len(codes))
        with self._device.on(self._gathers):
            index = torch.from_numpy(found.reshape(-1)).to(next(iter(self._arrays.values())).device)
            for name, array in self._arrays.items():
                out = batch[name][at].view(len(index), *array.shape[1:])
                torch.index_select(array, 0, index, out=out)
            if PADDING_MASK in batch:
                batch[PADDING_MASK][at].copy_(torch.from_numpy(behind))
        self._device.finish(self._gathers)
        return []

    def empty(self, size: int) -> Batch:
        """Room for a batch; made on the stream that fills it."""
        with self._device.on(self._gathers), torch.inference_mode(False):
            return {
                name: self._device.empty((size, *shape), getattr(torch, dtype))
                for name, (shape, dtype) in self._tiles.batch_shapes().items()
            }

    def _room(self, rows: int, make: Any) -> dict[str, torch.Tensor]:
        fields = self._tiles.fields
        return {f.name: make((rows, *f.row_shape), getattr(torch, f.dtype)) for f in fields}
