"""Stores cut into tiles: what a loader decodes at once, and draws from.

    envs      block 0     block 1
    0     ┌───────────┬───────────┐
          │  tile 0   │  tile 2   │     chunks of the widest field are the finest: a tile is cut
    128   ├───────────┼───────────┤     where they meet, and holds some tens of megabytes
          │  tile 1   │  tile 3   │
    255   └───────────┴───────────┘

A tile lies env-major, ``(envs, steps[, dim])``, as chunks do: a chunk that lies whole within its
tile is decoded in place, into the caller's memory. One that reaches beyond, of a narrow field or
at the end of a store whose last chunk is padded, passes through a scratch chunk.

Every field of a tile lies alike, so one number, ``env * block_steps + step``, is a pair's place.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import CorruptStoreError, InputError
from mosaic_collect.passes.engine import Threads
from mosaic_collect.reading.moments import Moments
from mosaic_collect.reading.selection import Selection
from mosaic_collect.reading.table import Cell, Table
from mosaic_collect.store.grid import FieldGrid
from mosaic_collect.store.schema import TRAJECTORY_END, Field
from mosaic_collect.store.shard import ShardReader
from mosaic_collect.store.view import StoreView

Places = NDArray[np.int32]
Mask = NDArray[np.bool_]
#: A pool is cut into so many tiles at least, three quarters of which are drawn from at a time.
TILES_OF_A_POOL = 16
#: A worker's pool is cut into so many at least, though chunks are decoded several times then.
LEAST_TILES = 6
#: Per pair in the pool, beside its values: its place, 4, and its code, 8, in up to three orders.
INDEX_NBYTES = 28
_MOMENTS_NBYTES = 8 << 20  # of a tile for moments: the pool's may be far larger, and lie beside it
_PART_NBYTES = 2 << 20  # of such a tile, as float64
#: Room for a chunk, one a thread.
_SCRATCH = threading.local()


class Tiles:
    """The tiles of stores, and the chosen pairs of each.

    Args:
        table: The stores.
        fields: Fields that a tile holds.
        selection: Chosen pairs; None: every pair.
        tile_nbytes: Size of a tile to aim at; at least one chunk of the widest field.
        skip_damaged: Whether damaged chunks without a chosen pair are ignored; else any damaged
            chunk is an error.
        most_nbytes: Size that a tile does not exceed, though chunks are decoded several times then.

    Attributes:
        fields: Fields that a tile holds.
        tiles: Tiles that hold a chosen pair, block by block.
        counts: The chosen pairs of each, int64.
        rows: Places that a tile needs, at most.
    """

    def __init__(
        self,
        table: Table,
        fields: Sequence[Field],
        selection: Selection | None,
        tile_nbytes: int,
        skip_damaged: bool = False,
        most_nbytes: int | None = None,
    ) -> None:
        self.fields = tuple(fields)
        self._table, self._selection, self._skip_damaged = table, selection, skip_damaged
        self._cuts = [cut(part, fields, tile_nbytes, most_nbytes) for part in table.parts]
        self.tiles: list[Cell] = []
        counts: list[int] = []
        for block in range(table.state.num_blocks):
            self._cut_block(block, counts)
        self.counts: NDArray[np.int64] = np.array(counts, np.int64)
        self.rows = max(
            len(envs[0]) * part.state.block_steps
            for part, envs in zip(table.parts, self._cuts, strict=True)
        )

    def of_fields(
        self, fields: Sequence[Field], tile_nbytes: int, most_nbytes: int | None = None
    ) -> Tiles:
        """The same pairs of other fields, cut anew."""
        return Tiles(
            self._table, fields, self._selection, tile_nbytes, self._skip_damaged, most_nbytes
        )

    @property
    def nbytes(self) -> int:
        """Greatest size of a tile."""
        return self.rows * sum(f.row_nbytes for f in self.fields)

    @property
    def num_pairs(self) -> int:
        """Chosen pairs of all tiles."""
        return int(self.counts.sum())

    def load(self, number: int, into: Mapping[str, NDArray[Any]]) -> Places:
        """Decode a tile; safe to call from threads.

        Args:
            number: Index in ``tiles``.
            into: Per field, ``(rows[, dim])``, C-contiguous; the tile's places come first.

        Returns:
            The places of its chosen pairs, ascending, ``counts[number]`` of them.

        Raises:
            CorruptStoreError: A damaged chunk that holds a chosen pair, or other chosen pairs than
                there were.
        """
        chosen = self.chosen(number)
        for field in self.fields:
            self.load_field(number, field.name, into[field.name], chosen)
        return np.flatnonzero(chosen).astype(np.int32)

    def chosen(self, number: int) -> Mask:
        """Mask of a tile's chosen pairs, ``(envs, block_steps)``.

        Raises:
            CorruptStoreError: A damaged mask, or other chosen pairs than there were.
        """
        tile = self.tiles[number]
        chosen = self._mask(tile)
        count = int(np.count_nonzero(chosen))
        if count != self.counts[number]:
            raise CorruptStoreError(
                f"{self._table.part_of(tile.block).address}: block {tile.block}, environments "
                f"{tile.envs.start}..{tile.envs.stop}: expected {self.counts[number]} pairs to "
                f"choose from, now there are {count}"
            )
        return chosen

    def load_field(self, number: int, name: str, into: NDArray[Any], chosen: Mask) -> None:
        """Decode one field of a tile, given ``chosen`` of it; otherwise as ``load``."""
        tile = self.tiles[number]
        at, block = self._table.place(tile.block)
        part, numbering = self._table.parts[at], self._table.numberings[at]
        grid = part.grids[name]
        shape = (len(tile.envs), grid.block_steps, *grid.field.row_shape)
        out = into[: shape[0] * shape[1]].reshape(shape)
        first, stop = tile.envs.start // grid.chunk_envs, -(-tile.envs.stop // grid.chunk_envs)
        starts = range(0, grid.chunks, grid.env_chunks)  # of each piece of the block's steps
        with part.shard(name, block) as shard:
            for chunk in (start + column for start in starts for column in range(first, stop)):
                self._decode(shard, grid, chunk, tile.envs, out, chosen)
        if name == TRAJECTORY_END:
            steps = part.state.steps_of(block)
            part.clear_uncommitted_ends(steps, tile.envs, out[:, : len(steps)].T)
        if numbering.changes(name):
            out[...] = numbering.apply(name, out)

    def _decode(
        self,
        shard: ShardReader,
        grid: FieldGrid,
        chunk: int,
        envs: range,
        out: NDArray[Any],
        chosen: Mask,
    ) -> None:
        """Decode one chunk, as far as it lies in the tile."""
        rows, steps = grid.rows(chunk)
        first, stop = max(rows.start, envs.start), min(rows.stop, envs.stop)
        inside = slice(first - envs.start, stop - envs.start), steps
        try:
            self._read(
                shard, grid, chunk, out[inside], slice(first - rows.start, stop - rows.start)
            )
        except CorruptStoreError as error:
            if not self._skip_damaged:
                raise
            if chosen[inside].any():
                raise CorruptStoreError(
                    f"{error}: it was damaged after the pairs were selected; refresh() leaves out "
                    "its pairs, too"
                ) from error
            out[inside] = grid.field.fill_value

    def _read(
        self, shard: ShardReader, grid: FieldGrid, chunk: int, out: NDArray[Any], part: slice
    ) -> None:
        """Decode some environments of a chunk into ``out``."""
        if len(out) == grid.chunk_envs and out.flags.c_contiguous:
            shard.read(chunk, out)
            return
        values = _scratch_for(grid)
        shard.read(chunk, values)
        out[...] = values[part]

    def _cut_block(self, block: int, counts: list[int]) -> None:
        """Note the tiles of a block that hold a chosen pair."""
        steps = range(self._table.shape(block)[0])
        for envs in self._cuts[self._table.place(block)[0]]:
            tile = Cell(block, steps, envs)
            if self._selection is None:
                count = len(steps) * len(envs)
            else:
                count = int(np.count_nonzero(self._selection.mask(tile)))
            if count:
                self.tiles.append(tile)
                counts.append(count)

    def _mask(self, tile: Cell) -> Mask:
        block_steps = self._table.part_of(tile.block).state.block_steps
        chosen = np.zeros((len(tile.envs), block_steps), np.bool_)
        chosen[:, : len(tile.steps)] = (
            True if self._selection is None else self._selection.mask(tile).T
        )
        return chosen


def cut(
    part: StoreView, fields: Sequence[Field], tile_nbytes: int, most_nbytes: int | None = None
) -> list[range]:
    """A store's environments in ranges of one width, but for the last.

    As wide as the coarsest chunk if that fits, so that nothing is decoded twice; else a multiple
    of the finest, so that the field that weighs most is decoded in place. Only where that is more
    than ``most_nbytes`` it is narrower.
    """
    grids = [part.grids[f.name] for f in fields]
    num_envs = part.state.num_envs
    finest, coarsest = (find(g.chunk_envs for g in grids) for find in (min, max))
    env_nbytes = part.state.block_steps * sum(f.row_nbytes for f in fields)
    width = min(max(tile_nbytes // env_nbytes, finest), coarsest)
    if width < coarsest:
        even = -(-num_envs // -(-num_envs // width))
        width = min(width // finest, -(-even // finest)) * finest
    if most_nbytes is not None and width * env_nbytes > most_nbytes:
        width = max(1, most_nbytes // env_nbytes)
    return [range(e, min(e + width, num_envs)) for e in range(0, num_envs, width)]


def _scratch_for(grid: FieldGrid) -> NDArray[Any]:
    """This thread's room, as a chunk."""
    held = getattr(_SCRATCH, "bytes", None)
    if held is None or held.nbytes < grid.chunk_nbytes:
        held = _SCRATCH.bytes = np.empty(grid.chunk_nbytes, np.uint8)
    values: NDArray[Any] = held[: grid.chunk_nbytes].view(grid.field.dtype)
    return values.reshape(grid.chunk_shape)


def tile_nbytes(fields: Sequence[Field], pool_nbytes: int, num_tiles: int = TILES_OF_A_POOL) -> int:
    """Size of a tile so that a pool holds so many of them."""
    row_nbytes = sum(f.row_nbytes for f in fields)
    return pool_nbytes * row_nbytes // (row_nbytes + INDEX_NBYTES) // num_tiles


@dataclass(frozen=True)
class PoolPlan:
    """How a pool is divided.

    Attributes:
        slots: Number of slots for tiles.
        active: Slots that are drawn from; the others are decoded meanwhile.
    """

    slots: int
    active: int

    @classmethod
    def of(cls, tiles: Tiles, nbytes: int) -> PoolPlan:
        """For a pool of so many bytes, whatever the number of threads.

        Raises:
            InputError: The buffer has no room for two tiles.
        """
        slot_nbytes = tiles.nbytes + tiles.rows * INDEX_NBYTES
        number, slots = len(tiles.tiles), nbytes // slot_nbytes
        if slots >= number:
            return cls(number, number)
        if slots < 2:
            raise InputError(
                f"shuffle_buffer_mb: expected at least {2 * slot_nbytes / 1e6:g} for these fields "
                f"and each worker, got {nbytes / 1e6:g}"
            )
        return cls(slots, slots - max(1, slots // 4))


def moments(tiles: Tiles, names: Sequence[str], threads: int) -> dict[str, Moments]:
    """Moments of all chosen pairs per feature: one pass, with a small tile per thread.

    Args:
        tiles: Tiles of the stores.
        names: Names of fields; none: all float fields.
        threads: Number of decoding threads.

    Raises:
        InputError: No such field.
        CorruptStoreError: A damaged chunk.
    """
    known = {f.name: f for f in tiles.fields}
    for name in names:
        if name not in known:
            raise InputError(f"field {name!r}: expected one of {', '.join(known)}")
    fields = [known[n] for n in names] or [f for f in tiles.fields if f.is_float]
    found = {f.name: Moments.nothing(f.width) for f in fields}
    small = tiles.of_fields(fields, _MOMENTS_NBYTES)
    for some in Threads(threads).map(partial(_of_tile, small), range(len(small.tiles))):
        found = {name: found[name] + of_tile for name, of_tile in some.items()}
    return found


def _of_tile(tiles: Tiles, number: int) -> dict[str, Moments]:
    return {f.name: _of_field(tiles, number, f) for f in tiles.fields}


def _of_field(tiles: Tiles, number: int, field: Field) -> Moments:
    rows, chosen = np.empty((tiles.rows, field.width), field.dtype), tiles.chosen(number)
    tiles.load_field(number, field.name, rows, chosen)
    places, step = np.flatnonzero(chosen), max(1, _PART_NBYTES // (8 * field.width))
    parts = (Moments.of(rows[places[k : k + step]]) for k in range(0, len(places), step))
    return reduce(Moments.__add__, parts)
