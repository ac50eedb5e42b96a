"""Stores cut into tiles: what a loader decodes at once, and draws from.

    envs      block 0     block 1
    0     ┌───────────┬───────────┐
          │  tile 0   │  tile 2   │     chunks of the widest field are the finest: a tile is cut
    128   ├───────────┼───────────┤     where they meet, and holds some tens of megabytes
          │  tile 1   │  tile 3   │
    255   └───────────┴───────────┘

A tile lies block by block, and in a block env-major, ``(envs, steps[, dim])``, as chunks do: a
chunk that lies whole within its tile is decoded in place, into the caller's memory. One that
reaches beyond, of a narrow field, a padded last chunk or a block that is not full, passes through
a scratch chunk.

With windows of H steps a tile holds H - 1 more steps, the first ones of the blocks behind it, which
are decoded for two tiles. So it holds several blocks of fewer environments, if that costs less:

    steps     blocks 0, 1        blocks 2, 3      A window belongs to the tile of its first step.
    tile 0    ┌─────────────┬───┐                 Its rows are consecutive chosen pairs of one
    tile 1                  └───┴────────┬───┐    trajectory. span = 2 * block_steps + H - 1

A pair's place is ``env * span + step``; with windows ``Tiles.rows_of`` is the row of each place. A
draw is a pair's place, or a window: the place of its first row times H, plus its length - 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import CorruptStoreError, InputError
from mosaic_collect.reading.selection import Selection
from mosaic_collect.reading.table import Cell, Table
from mosaic_collect.sampling.options import LoaderOptions
from mosaic_collect.store.grid import FieldGrid
from mosaic_collect.store.schema import TRAJECTORY_ID, Field
from mosaic_collect.store.view import StoreView

Draws = NDArray[Any]
Mask = NDArray[np.bool_]
#: Name of the mask in a batch of windows, true at the rows behind the end, as in PyTorch.
PADDING_MASK = "padding_mask"
#: Per pair in the pool, beside its values: its place, 4, and its code, 8, in up to three orders.
INDEX_NBYTES = 28
_ROW_NBYTES = 4  # of windows, per place: its row
#: A pool is cut into so many tiles at least, three quarters of which are drawn from at a time; of
#: windows half as many, since the steps between two tiles are decoded for both.
_TILES_OF_A_POOL = 16
#: A worker's pool is cut into so many at least, though chunks are decoded several times then.
_LEAST_TILES = 6
_MOST_BLOCKS = 4  # of a tile of windows


class Tiles:
    """The tiles of stores, and the chosen pairs of each. Chunks without a chosen pair are not read.

    Args:
        table: The stores.
        fields: Fields that a tile holds.
        selection: Chosen pairs.
        options: Windows to draw, the size of the pool, and whether the selection left out the pairs
            in damaged chunks.
        workers: Number of workers that share the pool.

    Attributes:
        tiles: Tiles that hold a chosen pair, or the first row of a window, block by block.
        counts: The chosen pairs, or windows, of each, int64.
        rows: Places that a tile needs, at most.
        length: Steps of a window, H; 1 where pairs are drawn.
        slots: Number of tiles that a worker's pool holds.
        active: Number of tiles to draw from at a time; the others are decoded meanwhile.

    Raises:
        InputError: The pool has no room for two tiles.
    """

    def __init__(
        self,
        table: Table,
        fields: Sequence[Field],
        selection: Selection,
        options: LoaderOptions,
        workers: int = 1,
    ) -> None:
        self.table, self.fields, self.selection = table, tuple(fields), selection
        self._options, self.length = options, options.window or 1
        self._halo = self.length - 1
        # Per block whose first rows continue sequences: their rows before it, modulo the stride.
        self._phases: dict[int, NDArray[np.int32]] = {}
        pool_nbytes = options.pool_nbytes // workers
        row_nbytes = sum(f.row_nbytes for f in fields)
        values_nbytes = pool_nbytes * row_nbytes // (row_nbytes + INDEX_NBYTES)
        aim = values_nbytes // (_TILES_OF_A_POOL // (2 if self._halo else 1))
        most = None if workers == 1 else values_nbytes // _LEAST_TILES
        #: Per store: blocks of a tile, and ranges of its environments.
        self._cuts = [_cut(part, fields, aim, most, self._halo) for part in table.parts]
        self.tiles: list[Cell] = []
        counts: list[int] = []
        for at, part in enumerate(table.parts):
            for first in range(0, part.state.num_blocks, self._cuts[at][0]):
                self._cut_blocks(at, first, counts)
        self.counts: NDArray[np.int64] = np.array(counts, np.int64)
        widths = (len(envs[0]) for _blocks, envs in self._cuts)
        self.rows = max(width * self._span(at) for at, width in enumerate(widths))
        place_nbytes = row_nbytes + INDEX_NBYTES + (_ROW_NBYTES if self._halo else 0)
        fitting = pool_nbytes // (self.rows * place_nbytes)
        if fitting < min(2, len(self.tiles)):
            raise InputError(
                f"shuffle_buffer_mb: expected at least {2 * self.rows * place_nbytes / 1e6:g} for "
                f"these fields and each worker, got {pool_nbytes / 1e6:g}"
            )
        self.slots = min(fitting, len(self.tiles))
        fits = self.slots == len(self.tiles)
        self.active = self.slots if fits else self.slots - max(1, self.slots // 4)

    def for_workers(self, workers: int) -> Tiles:
        """The same pairs in smaller tiles, so that each worker's part of the pool mixes as many."""
        return Tiles(self.table, self.fields, self.selection, self._options, workers)

    def batch_shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Per name in a batch, the shape of one row, ``([H, ]*dim)``, and the dtype."""
        steps = (self.length,) if self._halo else ()
        shapes = {f.name: ((*steps, *f.row_shape), f.dtype) for f in self.fields}
        return shapes | ({PADDING_MASK: (steps, "bool")} if self._options.padding else {})

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
        tile = self.tiles[number]
        chosen = self._mask(tile)
        draws = self._draws(tile, chosen)
        if len(draws) != self.counts[number]:
            raise CorruptStoreError(
                f"{self.table.part_of(tile.block).address}: block {tile.block}, environments "
                f"{tile.envs.start}..{tile.envs.stop}: expected {self.counts[number]} pairs to "
                f"choose from, now there are {len(draws)}"
            )
        for field in self.fields:
            self._load_field(tile, field.name, into[field.name], chosen)
        return draws

    def rows_of(self, number: int) -> NDArray[np.int32]:
        """Row of each place of a tile, as ``load`` fills them."""
        width, (at, _first) = (
            len(self.tiles[number].envs),
            self.table.place(self.tiles[number].block),
        )
        span, size = self._span(at), self.table.parts[at].state.block_steps
        rows, found = np.arange(width * span, dtype=np.int32), np.empty((width, span), np.int32)
        for begin in range(0, span, size):
            of_block = rows[begin * width : (begin + size) * width]
            found[:, begin : begin + size] = of_block.reshape(width, -1)
        return found.reshape(-1)

    def _draws(self, tile: Cell, chosen: Mask) -> Draws:
        if self._halo:
            starts, lengths = self._windows(tile, chosen)
            places = np.flatnonzero(starts)
            draws = places * self.length + lengths.reshape(-1)[places] - 1
        else:
            draws = np.flatnonzero(chosen)
        fits = self.rows * self.length <= np.iinfo(np.int32).max
        return draws.astype(np.int32) if fits else draws

    def _load_field(self, tile: Cell, name: str, into: NDArray[Any], chosen: Mask) -> None:
        at, _first = self.table.place(tile.block)
        part = self.table.parts[at]
        shape, width = part.grids[name].field.row_shape, len(tile.envs)
        for _block, steps, begin in self._sections(tile):
            here = chosen[:, begin : begin + part.state.block_steps]
            if not here.any():
                continue
            out = into[begin * width : begin * width + here.size].reshape(*here.shape, *shape)
            rows, wanted = out[:, : len(steps)].swapaxes(0, 1), here[:, : len(steps)].T
            try:
                part.fill(name, steps, tile.envs, rows, wanted=wanted)
            except CorruptStoreError as error:
                if not self._options.skip_damaged:
                    raise
                raise CorruptStoreError(
                    f"{error}: it was damaged after the pairs were selected; refresh() leaves out "
                    "its pairs, too"
                ) from error
            if part.numbering.changes(name):
                out[here] = part.numbering.apply(name, out[here])

    def _cut_blocks(self, at: int, first: int, counts: list[int]) -> None:
        """Add the tiles that begin with a block of a store and hold a draw."""
        (blocks, columns), state = self._cuts[at], self.table.parts[at].state
        behind = min((first + blocks) * state.block_steps, state.committed_steps)
        block = self.table.parts[at].numbering.first_block + first
        steps = range(behind - first * state.block_steps)
        whole = Cell(block, steps, range(state.num_envs))
        draws = self._starts(whole) if self._halo else None
        for tile in (Cell(block, steps, envs) for envs in columns):
            if draws is not None:
                count = int(np.count_nonzero(draws[tile.envs.start : tile.envs.stop]))
            else:
                count = int(np.count_nonzero(self.selection.mask(tile)))
            if count:
                self.tiles.append(tile)
                counts.append(count)

    def _span(self, at: int) -> int:
        """Steps that a tile of a store has room for."""
        return self._cuts[at][0] * self.table.parts[at].state.block_steps + self._halo

    def _sections(self, tile: Cell) -> Iterator[tuple[int, range, int]]:
        """Per block that a tile holds: its number in its store, its steps, the tile's before it."""
        at, first = self.table.place(tile.block)
        state, span = self.table.parts[at].state, self._span(at)
        for begin in range(0, span, state.block_steps):
            block = first + begin // state.block_steps
            if steps := state.steps_of(block)[: span - begin]:
                yield block, steps, begin

    def _mask(self, tile: Cell) -> Mask:
        """Chosen pairs that a tile holds, ``(envs, span)``."""
        at, _first = self.table.place(tile.block)
        chosen = np.zeros((len(tile.envs), self._span(at)), np.bool_)
        for block, steps, begin in self._sections(tile):
            here = chosen[:, begin : begin + len(steps)]
            mask = self.selection.block(self.table.parts[at].numbering.first_block + block)
            here[...] = mask[: len(steps), tile.envs.start : tile.envs.stop].T
        return chosen

    def _starts(self, whole: Cell) -> Mask:
        """First rows of some blocks' windows; notes where the block behind them goes on.

        Called in the order of blocks: a sequence of pairs may have begun many blocks before.
        """
        mask = self._mask(whole)
        starts, _lengths = self._windows(whole, mask)
        at, first = self.table.place(whole.block)
        blocks, state = self._cuts[at][0], self.table.parts[at].state
        if self._options.stride > 1 and first + blocks < state.num_blocks:
            # One step more: whether the first row there continues the sequence.
            phases = self._sequences(whole, mask)[0][:, len(whole.steps)] % self._options.stride
            if phases.any():
                self._phases[whole.block + blocks] = phases.astype(np.int32)
        return starts

    def _windows(self, tile: Cell, mask: Mask) -> tuple[Mask, NDArray[np.int32]]:
        """First rows of windows, ``(envs, span)``, and the rows of each, at most H."""
        offsets, lengths = self._sequences(tile, mask)
        starts = mask & (offsets % self._options.stride == 0)
        if not self._options.padding:
            starts &= lengths >= self.length
        starts[:, len(tile.steps) :] = False
        return starts, np.minimum(lengths, self.length)

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
        part, ids = self.table.part_of(tile.block), np.full(mask.shape, -1, np.int64)
        for _block, steps, begin in self._sections(tile):
            for column in part.columns(TRAJECTORY_ID):
                envs = range(max(column.start, tile.envs.start), min(column.stop, tile.envs.stop))
                to = slice(envs.start - tile.envs.start, envs.stop - tile.envs.start)
                here = to, slice(begin, begin + len(steps))
                if envs and mask[here].any():
                    ids[here] = part.read(TRAJECTORY_ID, steps, envs).T
        return ids


def _cut(
    part: StoreView,
    fields: Sequence[Field],
    tile_nbytes: int,
    most_nbytes: int | None = None,
    halo: int = 0,
) -> tuple[int, list[range]]:
    """Cut a store into tiles; with ``halo`` more steps, into those that decode least in all."""
    grids, size = [part.grids[f.name] for f in fields], part.state.block_steps
    row_nbytes = sum(f.row_nbytes for f in fields)
    found: list[tuple[float, int, list[range]]] = []
    for blocks in range(1, 1 + (_MOST_BLOCKS if halo else 1)):
        env_nbytes = (blocks * size + halo) * row_nbytes
        envs = _cut_envs(grids, part.state.num_envs, env_nbytes, tile_nbytes, most_nbytes)
        # Per step that a tile owns: of how many blocks, and how often for the tiles side by side.
        decoded = (blocks + -(-halo // size)) / blocks
        times = sum(g.field.row_nbytes * max(1, g.chunk_envs / len(envs[0])) for g in grids)
        if blocks == 1 or len(envs[0]) * env_nbytes <= tile_nbytes:
            found.append((decoded * times, blocks, envs))
    return min(found)[1:]


def _cut_envs(
    grids: Sequence[FieldGrid],
    num_envs: int,
    env_nbytes: int,
    tile_nbytes: int,
    most_nbytes: int | None,
) -> list[range]:
    """Environments in ranges of one width, but for the last.

    As wide as the coarsest chunk if that fits, so that nothing is decoded twice; else a multiple
    of the finest, so that the field that weighs most is decoded in place. Only where that is more
    than ``most_nbytes`` it is narrower.
    """
    finest, coarsest = (find(g.chunk_envs for g in grids) for find in (min, max))
    width = min(max(tile_nbytes // env_nbytes, finest), coarsest)
    if width < coarsest:
        even = -(-num_envs // -(-num_envs // width))
        width = min(width // finest, -(-even // finest)) * finest
    if most_nbytes is not None and width * env_nbytes > most_nbytes:
        width = max(1, most_nbytes // env_nbytes)
    return [range(e, min(e + width, num_envs)) for e in range(0, num_envs, width)]
