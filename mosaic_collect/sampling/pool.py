"""The pool: tiles in memory of bounded size, decoded by threads, drawn from by row.

    slot        0         1         2
           ┌─────────┬─────────┬─────────┐
    field  │ tile 7  │ tile 2  │ tile 9  │   (slots * rows[, dim]), one array a field
           └─────────┴─────────┴─────────┘
    code   0 ....... rows .... 2*rows        of a pair: its row in every field's array

A window's code is the place of its first row times H, plus its length - 1.

Batches of the host use memory again: fresh pages cost as much as filling them. A tensor's storage
holds the array that it was made of, and so does every view of it: when that array goes, all of them
are gone. Torch's own allocator uses page-locked ones again, once copies that were started from them
have ended.

One thread wants, gathers and releases; threads of the pool's own decode and copy. The next batch is
drawn while they copy: a slot is refilled once the copies that began before have ended.
"""

from __future__ import annotations

import os
import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mosaic_collect.sampling.options import EPOCHS, LoaderOptions
from mosaic_collect.sampling.tiles import PADDING_MASK, Draws, Tiles

Codes = NDArray[np.int64]
Batch = dict[str, torch.Tensor]
#: Copies of rows into a batch, which threads may still make.
Copies = list[Future[None]]
_KEPT = 4  # batches' memory, per field: one batch that is held, and those on their way
_LEAST_ROWS = 256  # that are worth a thread's while


class Memory(ABC):
    """Memory of the pool's slots."""

    def __init__(self, tiles: Tiles) -> None:
        self._tiles, self._length = tiles, tiles.length
        places = tiles.slots * tiles.rows if self._length > 1 else 0
        self._row_of_place = np.empty(places, np.int32)

    def load(self, number: int, slot: int) -> Draws:
        """Bring a tile into a slot; its draws. Called by threads."""
        first = slot * self._tiles.rows
        if self._length > 1:
            rows = self._tiles.rows_of(number)
            self._row_of_place[first : first + len(rows)] = rows + first
        return self._fill(number, slice(first, first + self._tiles.rows))

    def rows_of(self, codes: Codes) -> tuple[Codes, NDArray[np.bool_]]:
        """Rows of every field's array, ``(B,)`` or ``(B, H)``, and which are behind the end.

        Rows behind the end of a window are its last one.
        """
        if self._length == 1:
            return codes, np.zeros(0, np.bool_)
        first, last = np.divmod(codes[:, None], self._length)
        steps = np.arange(self._length)
        rows = self._row_of_place[first + np.minimum(steps, last)]
        return rows.astype(np.int64), steps > last

    @abstractmethod
    def _fill(self, number: int, rows: slice) -> Draws:
        """Decode a tile into these rows; its draws."""

    @abstractmethod
    def empty(self, size: int) -> Batch:
        """Room for a batch of so many rows."""

    @abstractmethod
    def gather(self, codes: Codes, batch: Batch, first: int) -> Copies:
        """Begin to copy these rows of every field to rows ``first..`` of a batch."""

    def close(self) -> None:  # noqa: B027  not each has threads
        """End the threads it has."""


@dataclass
class _Held:
    """A tile in a slot; ``wanted`` by so many."""

    slot: int
    draws: Future[Draws]
    wanted: int = 1


class Pool:
    """Slots, and which tile lies in which.

    A tile that is wanted no more stays until its slot is needed, so a store that fits is decoded
    once. So many ``threads`` decode.
    """

    def __init__(self, memory: Memory, tiles: Tiles, threads: int) -> None:
        self.memory, self.tiles, self.process = memory, tiles, os.getpid()
        self._free = list(range(tiles.slots))
        self._held: dict[int, _Held] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._decoders = ThreadPoolExecutor(threads, "mosaic-sample")
        self._copies: Copies = []

    def want(self, number: int) -> None:
        """Have a tile decoded, if it is not there; ``release`` it as often as it was wanted."""
        held = self._held.get(number)
        if held is not None:
            held.wanted += 1
            self._idle.pop(number, None)
            return
        if not self._free:
            oldest, _ = self._idle.popitem(last=False)
            self._free.append(self._held.pop(oldest).slot)
        slot = self._free.pop()
        draws = self._decoders.submit(self._load, number, slot, self._copies)
        self._held[number] = _Held(slot, draws)

    def _load(self, number: int, slot: int, copies: Copies) -> Draws:
        wait(copies)  # they may read the slot
        return self.memory.load(number, slot)

    def codes(self, number: int) -> Codes:
        """The codes of a wanted tile's pairs, waited for; errors as of ``Tiles.load``."""
        held = self._held[number]
        return held.draws.result() + np.int64(held.slot * self.tiles.rows * self.tiles.length)

    def gather(self, codes: Codes, batch: Batch, first: int) -> Copies:
        """Begin to copy pairs to rows ``first..`` of a batch; their tiles may be released."""
        copies = self.memory.gather(codes, batch, first)
        self._copies = [*(copy for copy in self._copies if not copy.done()), *copies]
        return copies

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
            if held.draws.cancel() or held.draws.exception() is not None:
                del self._held[number]
        self._idle = OrderedDict.fromkeys(self._held)
        taken = {held.slot for held in self._held.values()}
        self._free = [slot for slot in range(self.tiles.slots) if slot not in taken]

    def close(self) -> None:
        """End the threads."""
        self._decoders.shutdown(wait=True, cancel_futures=True)
        self.memory.close()


class HostMemory(Memory):
    """Slots in this machine's memory, and batches that use theirs again; threads copy."""

    def __init__(self, tiles: Tiles, options: LoaderOptions) -> None:
        super().__init__(tiles)
        rows, self._threads = tiles.slots * tiles.rows, options.threads or 1
        self._arrays = {f.name: np.empty((rows, *f.row_shape), f.dtype) for f in tiles.fields}
        self._copiers = ThreadPoolExecutor(self._threads, "mosaic-gather")
        size, self._is_pinned = options.batch_size, options.pin_memory
        self._batch_rows = min(size, tiles.num_pairs) if options.mode == EPOCHS else size
        self._shapes = tiles.batch_shapes()
        self._free: dict[str, list[NDArray[Any]]] = {name: [] for name in self._shapes}

    def _fill(self, number: int, rows: slice) -> Draws:
        return self._tiles.load(number, {n: a[rows] for n, a in self._arrays.items()})

    def empty(self, size: int) -> Batch:
        return {name: self._room(name, size) for name in self._shapes}

    def _room(self, name: str, size: int) -> torch.Tensor:
        shape, dtype = self._shapes[name]
        if self._is_pinned:
            kind = getattr(torch, dtype)
            return torch.empty((size, *shape), dtype=kind, device="cpu", pin_memory=True)
        free = self._free[name]
        room = free.pop() if free else np.empty((self._batch_rows, *shape), dtype)
        rows = room[:size]
        weakref.finalize(rows, _keep, free, room).atexit = False
        return torch.from_numpy(rows)

    def gather(self, codes: Codes, batch: Batch, first: int) -> Copies:
        # Few large parts: smaller ones, taken by whichever thread is free, cost a tenth more CPU.
        out = {name: tensor.numpy() for name, tensor in batch.items()}
        parts = max(1, min(self._threads, len(codes) * self._length // _LEAST_ROWS, len(codes)))
        cuts = [len(codes) * k // parts for k in range(parts + 1)]

        def copy(k: int) -> None:
            mine, behind = self.rows_of(codes[cuts[k] : cuts[k + 1]])
            at = slice(first + cuts[k], first + cuts[k + 1])
            if PADDING_MASK in out:
                out[PADDING_MASK][at] = behind
            for name, array in self._arrays.items():
                # All codes are rows of the pool; to check them NumPy would copy once more.
                np.take(array, mine, axis=0, out=out[name][at], mode="clip")

        return [self._copiers.submit(copy, k) for k in range(parts)]

    def close(self) -> None:
        self._copiers.shutdown(wait=True)


def _keep(free: list[NDArray[Any]], room: NDArray[Any]) -> None:
    """For the next batch, unless the caller held many and let them go."""
    if len(free) < _KEPT:
        free.append(room)
