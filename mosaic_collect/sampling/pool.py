"""The pool: tiles in memory of bounded size, decoded by threads, drawn from by row.

    slot        0         1         2
           ┌─────────┬─────────┬─────────┐
    field  │ tile 7  │ tile 2  │ tile 9  │   (slots * rows[, dim]), one array a field
           └─────────┴─────────┴─────────┘
    code   0 ....... rows .... 2*rows        of a pair: its row in every field's array

One thread wants, gathers and releases; threads of the pool's own decode and copy.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from mosaic_collect.sampling.tiles import Places, Tiles
from mosaic_collect.store.schema import Field

Codes = NDArray[np.int64]
Batch = dict[str, torch.Tensor]
_KEPT = 4  # batches' memory, per field: one batch that is held, and those on their way
_LEAST_ROWS = 256  # that are worth a thread's while


class Memory(Protocol):
    """Memory of the pool's rows."""

    def load(self, number: int, slot: int) -> Places:
        """Bring a tile into a slot; the places of its chosen pairs. Called by threads."""

    def empty(self, size: int) -> Batch:
        """Room for a batch of so many rows."""

    def gather(self, codes: Codes, batch: Batch, first: int) -> None:
        """Copy these rows of every field to rows ``first..`` of a batch."""

    def close(self) -> None:
        """End the threads it has."""


@dataclass
class _Held:
    """A tile in a slot; ``wanted`` by so many."""

    slot: int
    places: Future[Places]
    wanted: int = 1


class Pool:
    """Slots, and which tile lies in which.

    A tile that is wanted no more stays until its slot is needed, so a store that fits is decoded
    once.

    Args:
        memory: Memory of the slots.
        rows: Rows per slot.
        slots: Number of slots.
        threads: Number of decoding threads.
    """

    def __init__(self, memory: Memory, rows: int, slots: int, threads: int) -> None:
        self.memory, self._rows, self.slots = memory, rows, slots
        self._free = list(range(slots))
        self._held: dict[int, _Held] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._decoders = ThreadPoolExecutor(threads, "mosaic-sample")

    def want(self, number: int) -> None:
        """Have a tile decoded, if it is not there; ``release`` it as often as it was wanted."""
        held = self._held.get(number)
        if held is not None:
            held.wanted += 1
            self._idle.pop(number, None)
            return
        slot = self._free_slot()
        places = self._decoders.submit(self.memory.load, number, slot)
        self._held[number] = _Held(slot, places)

    def codes(self, number: int) -> Codes:
        """The codes of a wanted tile's pairs, waited for.

        Raises:
            CorruptStoreError: A damaged chunk.
        """
        held = self._held[number]
        return held.places.result() + np.int64(held.slot * self._rows)

    def release(self, number: int) -> None:
        """Give up a tile that was wanted: its slot may be used again."""
        held = self._held[number]
        held.wanted -= 1
        if not held.wanted:
            self._idle[number] = None

    def release_all(self) -> None:
        """Give up every tile: whoever wanted them is gone. Those that failed are forgotten.

        Works it all out from the tiles that are held, so an interrupt may have come anywhere.
        """
        for number, held in list(self._held.items()):
            held.wanted = 0
            if held.places.cancel() or held.places.exception() is not None:
                del self._held[number]
        self._idle = OrderedDict.fromkeys(self._held)
        taken = {held.slot for held in self._held.values()}
        self._free = [slot for slot in range(self.slots) if slot not in taken]

    def close(self) -> None:
        """End the threads."""
        self._decoders.shutdown(wait=True, cancel_futures=True)
        self.memory.close()

    def _free_slot(self) -> int:
        if self._free:
            return self._free.pop()
        oldest, _ = self._idle.popitem(last=False)
        return self._held.pop(oldest).slot


class HostMemory:
    """Slots in this machine's memory.

    Args:
        tiles: Tiles of the stores.
        slots: Number of slots.
        threads: Number of copying threads.
        batches: Give room for batches.
    """

    def __init__(self, tiles: Tiles, slots: int, threads: int, batches: HostBatches) -> None:
        self._tiles, self._threads = tiles, threads
        rows = slots * tiles.rows
        self._arrays = {f.name: np.empty((rows, *f.row_shape), f.dtype) for f in tiles.fields}
        self.empty = batches.empty
        self._copiers = ThreadPoolExecutor(threads, "mosaic-gather")

    def load(self, number: int, slot: int) -> Places:
        rows = self._tiles.rows
        part = slice(slot * rows, (slot + 1) * rows)
        return self._tiles.load(number, {n: a[part] for n, a in self._arrays.items()})

    def gather(self, codes: Codes, batch: Batch, first: int) -> None:
        # Few large parts: smaller ones, taken by whichever thread is free, cost a tenth more CPU.
        out = {name: tensor.numpy() for name, tensor in batch.items()}
        parts = max(1, min(self._threads, len(codes) // _LEAST_ROWS))
        cuts = [len(codes) * k // parts for k in range(parts + 1)]

        def copy(k: int) -> None:
            mine = codes[cuts[k] : cuts[k + 1]]
            for name, array in self._arrays.items():
                rows = out[name][first + cuts[k] : first + cuts[k + 1]]
                # All codes are rows of the pool; to check them NumPy would copy once more.
                np.take(array, mine, axis=0, out=rows, mode="clip")

        for _ in map(copy, range(1)) if parts == 1 else self._copiers.map(copy, range(parts)):
            pass

    def close(self) -> None:
        self._copiers.shutdown(wait=True)


class HostBatches:
    """Batches in this machine's memory: fresh pages cost as much as filling them.

    A tensor's storage holds the array that it was made of, and so does every view of it: when
    that array goes, all of them are gone.

    Args:
        fields: Fields of a batch.
        size: Rows of the largest.
        pin_memory: Page-locked ones. Torch's own allocator uses these again, once copies that
            were started from them have ended.
    """

    def __init__(self, fields: Sequence[Field], size: int, pin_memory: bool) -> None:
        self._fields, self._size, self._pinned = fields, size, pin_memory
        self._free: dict[str, list[NDArray[Any]]] = {f.name: [] for f in fields}

    def empty(self, size: int) -> Batch:
        """Room for a batch of so many rows."""
        return {f.name: self._field(f, size) for f in self._fields}

    def _field(self, field: Field, size: int) -> torch.Tensor:
        if self._pinned:
            shape = (size, *field.row_shape)
            dtype = getattr(torch, field.dtype)
            return torch.empty(shape, dtype=dtype, device="cpu", pin_memory=True)
        free = self._free[field.name]
        room = free.pop() if free else np.empty((self._size, *field.row_shape), field.dtype)
        rows = room[:size]
        weakref.finalize(rows, _keep, free, room).atexit = False
        return torch.from_numpy(rows)


def _keep(free: list[NDArray[Any]], room: NDArray[Any]) -> None:
    """For the next batch, unless the caller held many and let them go."""
    if len(free) < _KEPT:
        free.append(room)
