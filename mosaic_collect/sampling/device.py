"""The pool's slots in the memory of a device: tiles cross the bus once, batches never do."""

from __future__ import annotations

from contextlib import nullcontext
from queue import SimpleQueue
from typing import Any

import torch

from mosaic_collect.reading.tiles import Places, Tiles
from mosaic_collect.sampling.batches import Batch
from mosaic_collect.sampling.pool import Codes


class DeviceMemory:
    """``Memory`` on a torch device.

    Tiles are decoded into page-locked memory and copied from there. Each copy and each gather is
    waited for by the thread that asked for it, on a stream of its own, so that a slot is never
    written while it is read, and a batch that is handed over is there.

    Args:
        tiles: Of the stores.
        slots: How many.
        threads: That decode: each needs a tile's room on the host.
        device: Where the slots lie.
    """

    def __init__(self, tiles: Tiles, slots: int, threads: int, device: torch.device) -> None:
        self._tiles, self._device = tiles, device
        self._arrays = self._room(slots, device=device)
        self._staging: SimpleQueue[dict[str, torch.Tensor]] = SimpleQueue()
        for _ in range(threads):
            self._staging.put(self._room(1, pin_memory=device.type == "cuda"))
        self._loads, self._gathers = self._stream(), self._stream()

    def load(self, number: int, slot: int) -> Places:
        staged = self._staging.get()
        try:
            places = self._tiles.load(number, {n: t.numpy() for n, t in staged.items()})
            rows = slice(slot * self._tiles.rows, (slot + 1) * self._tiles.rows)
            with self._on(self._loads):
                for name, array in self._arrays.items():
                    array[rows].copy_(staged[name], non_blocking=True)
            _wait(self._loads)
        finally:
            self._staging.put(staged)
        return places

    def gather(self, codes: Codes, batch: Batch, first: int) -> None:
        with self._on(self._gathers):
            index = torch.from_numpy(codes).to(self._device)
            for name, array in self._arrays.items():
                torch.index_select(array, 0, index, out=batch[name][first : first + len(codes)])
        _wait(self._gathers)

    def close(self) -> None:
        """It has no threads."""

    def empty(self, size: int) -> Batch:
        """Room for a batch; made on the stream that fills it."""
        with self._on(self._gathers):
            return {
                f.name: torch.empty(
                    (size, *f.row_shape), dtype=getattr(torch, f.dtype), device=self._device
                )
                for f in self._tiles.fields
            }

    def _room(self, slots: int, **options: Any) -> dict[str, torch.Tensor]:
        rows = slots * self._tiles.rows
        return {
            f.name: torch.empty((rows, *f.row_shape), dtype=getattr(torch, f.dtype), **options)
            for f in self._tiles.fields
        }

    def _stream(self) -> torch.cuda.Stream | None:
        return torch.cuda.Stream(self._device) if self._device.type == "cuda" else None

    def _on(self, stream: torch.cuda.Stream | None) -> Any:
        return nullcontext() if stream is None else torch.cuda.stream(stream)


def _wait(stream: torch.cuda.Stream | None) -> None:
    if stream is not None:
        stream.synchronize()
