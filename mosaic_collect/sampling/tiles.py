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

Every field of a tile lies alike, so one number, ``env * span + step``, is a pair's place.

With windows of H steps a tile holds H - 1 more steps, the first ones of the blocks behind it:

    steps     block 0         block 1         A window belongs to the tile of its first step. Its
    tile 0    ┌───────────┬───┐               rows are consecutive chosen pairs of one trajectory.
    tile 1                └───┴──────┬───┐    span = block_steps + H - 1

A draw is a pair's place, or a window: the place of its first row times H, plus its length - 1.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import CorruptStoreError, InputError
from mosaic_collect.reading.selection import Selection
from mosaic_collect.reading.table import Cell, Table
from mosaic_collect.store.grid import FieldGrid
from mosaic_collect.store.schema import TRAJECTORY_END, TRAJECTORY_ID, Field
from mosaic_collect.store.shard import ShardReader
from mosaic_collect.store.view import StoreView

Draws = NDArray[Any]
Mask = NDArray[np.bool_]
#: A pool is cut into so many tiles at least, three quarters of which are drawn from at a time.
TILES_OF_A_POOL = 16
#: A worker's pool is cut into so many at least, though chunks are decoded several times then.
LEAST_TILES = 6
#: Per pair in the pool, beside its values: its place, 4, and its code, 8, in up to three orders.
INDEX_NBYTES = 28
#: Room for a chunk, one a thread.
_SCRATCH = threading.local()


class Window(NamedTuple):
    """Windows to draw in place of pairs.

    Attributes:
        length: Steps of a window, H; 1 draws pairs.
        stride: Steps between the first rows of windows, counted from where a sequence of
            consecutive chosen pairs of a trajectory begins.
        padding: Whether a window may begin less than H steps before such a sequence ends.
    """

    length: int = 1
    stride: int = 1
    padding: bool = False


_PAIRS = Window()


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
        window: Windows to draw; by default pairs.

    Attributes:
        fields: Fields that a tile holds.
        window: Windows to draw.
        tiles: Tiles that hold a chosen pair, or the first row of a window, block by block.
        counts: The chosen pairs, or windows, of each, int64.
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
        window: Window = _PAIRS,
    ) -> None:
        self.fields, self.window = tuple(fields), window
        self.table, self.selection, self._skip_damaged = table, selection, skip_damaged
        self._halo = window.length - 1
        # Per block whose first rows continue sequences: their rows before it, modulo the stride.
        self._phases: dict[int, NDArray[np.int32]] = {}
        self._cuts = [
            cut(part, fields, tile_nbytes, most_nbytes, self._halo) for part in table.parts
        ]
        self.tiles: list[Cell] = []
        counts: list[int] = []
        for block in range(table.state.num_blocks):
            self._cut_block(block, counts)
        self.counts: NDArray[np.int64] = np.array(counts, np.int64)
        self.rows = max(
            len(envs[0]) * (part.state.block_steps + self._halo)
            for part, envs in zip(table.parts, self._cuts, strict=True)
        )

    def cut_anew(self, tile_nbytes: int, most_nbytes: int) -> Tiles:
        """The same pairs in other tiles."""
        cutting = (tile_nbytes, self._skip_damaged, most_nbytes, self.window)
        return Tiles(self.table, self.fields, self.selection, *cutting)

    def row_shape(self, field: Field) -> tuple[int, ...]:
        """Shape of a field in one row of a batch: ``([H, ]*dim)``."""
        return (*((self.window.length,) if self._halo else ()), *field.row_shape)

    @property
    def nbytes(self) -> int:
        """Greatest size of a tile."""
        return self.rows * sum(f.row_nbytes for f in self.fields)

    @property
    def num_pairs(self) -> int:
        """Chosen pairs of all tiles."""
        return int(self.counts.sum())

    def load(self, number: int, into: Mapping[str, NDArray[Any]]) -> Draws:
        """Decode a tile; safe to call from threads.

        Args:
            number: Index in ``tiles``.
            into: Per field, ``(rows[, dim])``, C-contiguous; the tile's places come first.

        Returns:
            Its draws, ascending, ``counts[number]`` of them.

        Raises:
            CorruptStoreError: A damaged chunk that holds a chosen pair, or other chosen pairs than
                there were.
        """
        chosen, draws = self.chosen(number)
        for field in self.fields:
            self.load_field(number, field.name, into[field.name], chosen)
        return draws

    def chosen(self, number: int) -> tuple[Mask, Draws]:
        """Mask of the chosen pairs that a tile holds, ``(envs, span)``, and the tile's draws.

        Raises:
            CorruptStoreError: A damaged mask, or other chosen pairs than there were.
        """
        tile = self.tiles[number]
        mask = self._mask(tile)
        if self._halo:
            starts, lengths = self._windows(tile, mask)
            places = np.flatnonzero(starts)
            draws = places * self.window.length + lengths.reshape(-1)[places] - 1
        else:
            draws = np.flatnonzero(mask)
        if self.rows * self.window.length <= np.iinfo(np.int32).max:
            draws = draws.astype(np.int32)
        if len(draws) != self.counts[number]:
            raise CorruptStoreError(
                f"{self.table.part_of(tile.block).address}: block {tile.block}, environments "
                f"{tile.envs.start}..{tile.envs.stop}: expected {self.counts[number]} pairs to "
                f"choose from, now there are {len(draws)}"
            )
        return mask, draws

    def load_field(self, number: int, name: str, into: NDArray[Any], chosen: Mask) -> None:
        """Decode one field of a tile, given ``chosen`` of it; otherwise as ``load``."""
        tile = self.tiles[number]
        at, first = self.table.place(tile.block)
        part, numbering = self.table.parts[at], self.table.numberings[at]
        grid = part.grids[name]
        span = grid.block_steps + self._halo
        out = into[: len(tile.envs) * span].reshape(len(tile.envs), span, *grid.field.row_shape)
        for block in self._blocks(tile):
            begin = (block - first) * grid.block_steps
            inside = slice(begin, min(begin + grid.block_steps, span))
            self._load_block(part, name, block, tile.envs, out[:, inside], chosen[:, inside])
        out[:, len(self._blocks(tile)) * grid.block_steps :] = grid.field.fill_value
        if name == TRAJECTORY_END:
            steps = self._steps(tile)
            part.clear_uncommitted_ends(steps, tile.envs, out[:, : len(steps)].T)
        if numbering.changes(name):
            out[...] = numbering.apply(name, out)

    def _load_block(
        self,
        part: StoreView,
        name: str,
        block: int,
        envs: range,
        out: NDArray[Any],
        chosen: Mask,
    ) -> None:
        """Decode the first steps of a block of a store, as many as ``out`` holds."""
        grid = part.grids[name]
        first, stop = envs.start // grid.chunk_envs, -(-envs.stop // grid.chunk_envs)
        starts = range(0, grid.chunks, grid.env_chunks)  # of each piece of the block's steps
        with part.shard(name, block) as shard:
            for chunk in (start + column for start in starts for column in range(first, stop)):
                if grid.rows(chunk)[1].start < out.shape[1]:
                    self._decode(shard, grid, chunk, envs, out, chosen)

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
        part = (
            slice(first - rows.start, stop - rows.start),
            slice(0, min(steps.stop, out.shape[1]) - steps.start),
        )
        try:
            self._read(shard, grid, chunk, out[inside], part)
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
        self,
        shard: ShardReader,
        grid: FieldGrid,
        chunk: int,
        out: NDArray[Any],
        part: tuple[slice, slice],
    ) -> None:
        """Decode some environments and steps of a chunk into ``out``."""
        if out.shape[:2] == grid.chunk_shape[:2] and out.flags.c_contiguous:
            shard.read(chunk, out)
            return
        values = _scratch_for(grid)
        shard.read(chunk, values)
        out[...] = values[part]

    def _cut_block(self, block: int, counts: list[int]) -> None:
        """Note the tiles of a block that hold a draw."""
        steps, envs = map(range, self.table.shape(block))
        whole = Cell(block, steps, envs)
        draws = self._starts(whole) if self._halo else None
        for tile in (Cell(block, steps, e) for e in self._cuts[self.table.place(block)[0]]):
            if draws is not None:
                count = int(np.count_nonzero(draws[tile.envs.start : tile.envs.stop]))
            elif self.selection is None:
                count = len(steps) * len(tile.envs)
            else:
                count = int(np.count_nonzero(self.selection.mask(tile)))
            if count:
                self.tiles.append(tile)
                counts.append(count)

    def _blocks(self, tile: Cell) -> range:
        """Blocks of the store in which a tile lies."""
        at, block = self.table.place(tile.block)
        state = self.table.parts[at].state
        return range(block, state.block_of(self._steps(tile)[-1]) + 1)

    def _steps(self, tile: Cell) -> range:
        """Steps of the store that a tile holds."""
        at, block = self.table.place(tile.block)
        state = self.table.parts[at].state
        steps = state.steps_of(block)
        return range(steps.start, min(steps.stop + self._halo, state.committed_steps))

    def _mask(self, tile: Cell) -> Mask:
        """Chosen pairs that a tile holds, ``(envs, span)``."""
        at, first = self.table.place(tile.block)
        block_steps = self.table.parts[at].state.block_steps
        chosen = np.zeros((len(tile.envs), block_steps + self._halo), np.bool_)
        count = len(self._steps(tile))
        if self.selection is None:
            chosen[:, :count] = True
            return chosen
        for block in self._blocks(tile):
            begin = (block - first) * block_steps
            mask = self.selection.block(block + self.table.first_blocks[at])
            rows = mask[: count - begin, tile.envs.start : tile.envs.stop]
            chosen[:, begin : begin + len(rows)] = rows.T
        return chosen

    def _starts(self, whole: Cell) -> Mask:
        """First rows of a block's windows, and where the block behind it goes on.

        Called block by block: a sequence of pairs may have begun many blocks before.
        """
        mask = self._mask(whole)
        starts, _lengths = self._windows(whole, mask)
        at, block = self.table.place(whole.block)
        state = self.table.parts[at].state
        if self.window.stride > 1 and block + 1 < state.num_blocks:
            # One step more: whether the first row there continues the sequence.
            offsets = self._sequences(whole, mask)[0][:, state.block_steps]
            if offsets.any():
                self._phases[whole.block + 1] = (offsets % self.window.stride).astype(np.int32)
        return starts

    def _windows(self, tile: Cell, mask: Mask) -> tuple[Mask, NDArray[np.int32]]:
        """First rows of windows, ``(envs, span)``, and the rows of each, at most H."""
        offsets, lengths = self._sequences(tile, mask)
        starts = mask & (offsets % self.window.stride == 0)
        if not self.window.padding:
            starts &= lengths >= self.window.length
        starts[:, len(tile.steps) :] = False
        return starts, np.minimum(lengths, self.window.length)

    def _sequences(self, tile: Cell, mask: Mask) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Per pair, the pairs of its sequence before it, and those from it on, within the tile."""
        ids, span = self._ids(tile, mask), mask.shape[1]
        begins = np.ones(mask.shape, np.bool_)
        begins[:, 1:] = ~(mask[:, 1:] & mask[:, :-1] & (ids[:, 1:] == ids[:, :-1]))
        place = np.arange(span, dtype=np.int32)
        first = np.maximum.accumulate(np.where(begins, place, 0), axis=1)
        offsets = place - first
        phase = self._phases.get(tile.block)
        if phase is not None:
            before = phase[tile.envs.start : tile.envs.stop, None]
            offsets = offsets + np.where(first == 0, before, 0)
        stops = np.full((len(mask), span + 1), span, np.int32)
        stops[:, :-1] = np.where(begins, place, span)
        ahead = np.minimum.accumulate(stops[:, ::-1], axis=1)[:, ::-1][:, 1:]
        return offsets, ahead - place

    def _ids(self, tile: Cell, mask: Mask) -> NDArray[np.int64]:
        """Trajectory ids of a tile's chosen pairs, ``(envs, span)``; -1 in chunks without any."""
        at, first = self.table.place(tile.block)
        part, count = self.table.parts[at], len(self._steps(tile))
        ids = np.full(mask.shape, -1, np.int64)
        for block in self._blocks(tile):
            steps = part.state.steps_of(block)
            begin = (block - first) * part.state.block_steps
            stop = min(begin + len(steps), count)
            for column in part.columns(TRAJECTORY_ID):
                envs = range(max(column.start, tile.envs.start), min(column.stop, tile.envs.stop))
                to = slice(envs.start - tile.envs.start, envs.stop - tile.envs.start)
                if envs and mask[to, begin:stop].any():
                    rows = part.read(TRAJECTORY_ID, steps[: stop - begin], envs)
                    ids[to, begin:stop] = rows.T
        return ids


def cut(
    part: StoreView,
    fields: Sequence[Field],
    tile_nbytes: int,
    most_nbytes: int | None = None,
    halo: int = 0,
) -> list[range]:
    """A store's environments in ranges of one width, but for the last.

    As wide as the coarsest chunk if that fits, so that nothing is decoded twice; else a multiple
    of the finest, so that the field that weighs most is decoded in place. Only where that is more
    than ``most_nbytes`` it is narrower. Of each environment ``halo`` more steps are held.
    """
    grids = [part.grids[f.name] for f in fields]
    num_envs = part.state.num_envs
    finest, coarsest = (find(g.chunk_envs for g in grids) for find in (min, max))
    env_nbytes = (part.state.block_steps + halo) * sum(f.row_nbytes for f in fields)
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
