"""Which pairs are chosen: the same answer for every field, export and loader, block by block.

Memory: one number per block, and a bitmap for those blocks that hold a pair to leave out for its
values. Everything else is worked out again from the mask, which compresses to almost nothing.

A draw takes a uniform random subset without an index array. Every candidate pair gets a random
64-bit key from ``(seed, block)``, and the pairs of the smallest keys win. That is exactly uniform
without replacement, needs memory for one block and one histogram only, and draws are nested: with
one seed, a larger draw contains the pairs of a smaller one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import CorruptStoreError, InputError
from mosaic_collect.passes.engine import Cached, Engine
from mosaic_collect.reading.numbering import MOTION_ID
from mosaic_collect.reading.table import CELL_NBYTES, Cell, Table
from mosaic_collect.store.counts import all_finite, finite_rows, nonfinite_pairs
from mosaic_collect.store.schema import (
    MOSAIC_FIELDS,
    TRAJECTORY_ID,
    VALID_MASK,
    Field,
    Schema,
)

Mask = NDArray[np.bool_]
_BITS = 16  # leading bits of a key, for the histogram of a draw
_SHIFT = np.uint64(64 - _BITS)
Choose: TypeAlias = Callable[[int], Mask]
_KEPT_BLOCKS = 8  # masks, for who writes a block in several pieces


@dataclass(frozen=True)
class Left:
    """Numbers of excluded pairs; each is counted once, under the first reason that applies."""

    damaged: int = 0
    invalid: int = 0
    interrupted: int = 0
    failed: int = 0
    nonfinite: int = 0
    not_drawn: int = 0


class Selection:
    """Chosen pairs.

    Args:
        table: The stores.
        choose: Returns the mask of chosen pairs of a block, ``(steps of the block, N)``; pickles.
        counts: Number of chosen pairs per block.
        cell_nbytes: Size of the cells to read; 1: chunk by chunk, so that readers go around damage.

    Attributes:
        first_rows: Per block, the number of pairs chosen before it; one more entry at the end.
    """

    def __init__(
        self, table: Table, choose: Choose, counts: Iterable[int], cell_nbytes: int = CELL_NBYTES
    ) -> None:
        self._table, self._cell_nbytes = table, cell_nbytes
        self._choose = Cached(choose, _KEPT_BLOCKS)
        self.first_rows: NDArray[np.int64] = np.cumsum([0, *counts], dtype=np.int64)

    @property
    def num_pairs(self) -> int:
        """Number of chosen pairs."""
        return int(self.first_rows[-1])

    def block(self, block: int) -> Mask:
        """The mask of chosen pairs of a block, read-only; the last few are cached.

        Raises:
            CorruptStoreError: Other pairs are chosen than were counted, as the block was damaged
                since. They would be written or drawn in places that belong to others.
        """
        mask = self._choose(block)
        found, expected = np.count_nonzero(mask), np.diff(self.first_rows[block : block + 2])[0]
        if found != expected:
            at, inside = self._table.place(block)
            raise CorruptStoreError(
                f"{self._table.parts[at].address}: block {inside}: expected {expected} pairs to "
                f"choose, now there are {found}: it was damaged after the pairs were selected"
            )
        return mask

    def mask(self, cell: Cell) -> Mask:
        """The mask of chosen pairs of a cell, ``(steps, envs)``; errors as of ``block``."""
        return self.block(cell.block)[cell.at]

    def cells_of(self, block: int, field: str) -> Iterator[Cell]:
        """The cells in which to read the chosen pairs of a block: each whole, or not at all."""
        return self._table.cells_of(block, [field], self._cell_nbytes)


def exported(values: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Values as exports hold them, C-contiguous; float64 too large for float32 becomes infinite."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype)


def every_pair(table: Table) -> Selection:
    """All pairs, valid or not."""
    shapes = map(table.shape, range(table.state.num_blocks))
    return Selection(table, partial(_all_of_block, table), map(math.prod, shapes))


def _all_of_block(table: Table, block: int) -> Mask:
    return np.ones(table.shape(block), np.bool_)


#: Sides of a split.
Side = Literal["train", "validation"]
SIDES = get_args(Side)
TRAIN, VALIDATION = SIDES


class Split(NamedTuple):
    """One side of a split of all trajectories into training and validation.

    The side of a trajectory depends on the seed, its store's identity and its id in that store
    alone. So it stays the same when the store grows, is copied, or is read with others. A larger
    fraction holds out the trajectories of a smaller one, and more.

    Attributes:
        side: ``train`` or ``validation``.
        fraction: Expected fraction of the trajectories on the validation side.
        seed: Seed of the split.
    """

    side: Side
    fraction: float
    seed: int

    def holds(self, identity: str, ids: NDArray[np.int64]) -> Mask:
        """Whether trajectories are on this side.

        Args:
            identity: Identity of their store.
            ids: Ids of the trajectories in that store, of any shape.
        """
        key = sha256(f"{self.seed}:{identity}".encode()).digest()[:8]
        # SplitMix64 (Steele, Lea and Flood 2014) of the id's place in a sequence of the store's.
        bits = (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        bits += np.uint64(int.from_bytes(key, "little"))
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
        bits ^= bits >> np.uint64(31)
        validation = bits < np.uint64(math.ldexp(self.fraction, 64))
        return validation if self.side == VALIDATION else ~validation


@dataclass(frozen=True, eq=False)
class Rules:
    """Rules that exclude pairs, beside invalid ones, and what they exclude block by block. Pickles.

    Attributes:
        table: The stores.
        fields: Names of the fields to read.
        finite_fields: Fields in which NaN or infinity excludes a pair.
        skip_damaged: Whether a damaged chunk excludes its pairs; else it is an error.
        excluded_ids: Per reason, ``interrupted`` or ``failed``, the trajectories to exclude for it.
        steps: Steps to include, one range per store; None: all.
        asked_ids: Trajectories to include; None: all. Pairs of other trajectories are not counted
            as excluded.
        motion_ids: Motions to include; None: all. Pairs of other motions are not counted either.
        split: Side of a split to include; None: both. Pairs of the other side are not counted.
        max_pairs: Number of pairs to draw from the rest; None: all.
        seed: Seed of the draw.
        excluded: Bitmaps of the blocks that hold pairs to exclude for their values, once searched.
    """

    table: Table
    fields: Sequence[str] = ()
    finite_fields: Sequence[str] = ()
    skip_damaged: bool = False
    excluded_ids: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    steps: Sequence[range] | None = None
    asked_ids: NDArray[np.int64] | None = None
    motion_ids: NDArray[np.int64] | None = None
    split: Split | None = None
    max_pairs: int | None = None
    seed: int = 0
    excluded: dict[int, NDArray[np.uint8]] = field(default_factory=dict)

    @property
    def looked_at(self) -> Sequence[str]:
        """Fields that must be read to choose pairs."""
        return self.fields if self.skip_damaged else self.finite_fields

    @property
    def cell_nbytes(self) -> int:
        """Size of the cells to read, as of ``Selection``."""
        return 1 if self.skip_damaged else CELL_NBYTES

    @property
    def needs_ids(self) -> bool:
        """Whether trajectory ids, or motion ids, must be read to choose pairs."""
        asked = (self.asked_ids, self.motion_ids, self.split)
        return any(map(len, self.excluded_ids.values())) or any(a is not None for a in asked)

    def __call__(self, block: int) -> Mask:
        """The mask of chosen pairs of a block that was searched."""
        shape, packed = self.table.shape(block), self.excluded.get(block)
        if not self._asked_steps(block).any():
            return np.zeros(shape, np.bool_)
        if packed is None:
            return self.table.read_cell(VALID_MASK, self.table.whole_block(block))
        excluded = np.unpackbits(packed, count=shape[0] * shape[1]).astype(np.bool_)
        return self._mask(block, np.zeros(shape, np.bool_)) & ~excluded.reshape(shape)

    def search(self, block: int) -> tuple[int, int, dict[str, int], NDArray[np.uint8] | None]:
        """Valid pairs of a block, chosen ones, excluded ones per reason, and a bitmap of these."""
        shape, asked_steps = self.table.shape(block), self._asked_steps(block)
        if not asked_steps.any():
            return 0, 0, {}, None
        damaged, nonfinite = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
        valid = self._mask(block, damaged)
        for name in self.looked_at:
            for cell, values in self._read(name, block, damaged):
                if name in self.finite_fields:
                    values = exported(values, np.float32)
                    if not all_finite(values):
                        nonfinite[cell.at] |= ~finite_rows(values)
        asked, of_reason = self._of_trajectories(block, damaged)
        rest, left = asked & asked_steps[:, None], dict[str, int]()
        reasons = {"damaged": damaged, "invalid": ~valid, **of_reason, "nonfinite": nonfinite}
        for reason, excluded in reasons.items():
            left[reason] = int(np.count_nonzero(rest & excluded))
            rest &= ~excluded
        bad = (valid | damaged) & ~rest
        num_valid, num_chosen = (int(np.count_nonzero(mask)) for mask in (valid, rest))
        return num_valid, num_chosen, left, np.packbits(bad) if bad.any() else None

    def _asked_steps(self, block: int) -> Mask:
        """The steps of a block to include. Shape: (steps,)."""
        at, inside = self.table.place(block)
        steps = self.table.parts[at].state.steps_of(inside)
        if self.steps is None:
            return np.ones(len(steps), np.bool_)
        asked = self.steps[at]
        return np.fromiter((step in asked for step in steps), np.bool_, len(steps))

    def _mask(self, block: int, damaged: Mask) -> Mask:
        """The valid mask; False, and marked in ``damaged``, where it is damaged itself."""
        mask = np.zeros_like(damaged)
        for cell, values in self._read(VALID_MASK, block, damaged):
            mask[cell.at] = values
        return mask

    def _of_trajectories(self, block: int, damaged: Mask) -> tuple[Mask, dict[str, Mask]]:
        """The mask of pairs to include, and per reason that of pairs to exclude."""
        of_reason = {reason: np.zeros_like(damaged) for reason in self.excluded_ids}
        if not self.needs_ids:
            return np.ones_like(damaged), of_reason
        part = self.table.part_of(block)
        asked, of_motion = np.zeros_like(damaged), np.zeros_like(damaged)
        for cell, ids in self._read(TRAJECTORY_ID, block, damaged):
            asked[cell.at] = True if self.asked_ids is None else np.isin(ids, self.asked_ids)
            if self.split is not None:
                own = ids - part.numbering.first_id
                asked[cell.at] &= self.split.holds(part.state.identity, own)
            for reason, excluded in self.excluded_ids.items():
                of_reason[reason][cell.at] = np.isin(ids, excluded)
        if self.motion_ids is not None:
            for cell, motions in self._read(MOTION_ID, block, damaged):
                of_motion[cell.at] = np.isin(motions, self.motion_ids)
            asked &= of_motion
        return asked, of_reason

    def _read(self, name: str, block: int, damaged: Mask) -> Iterator[tuple[Cell, NDArray[Any]]]:
        """Yield the cells of a block; damaged ones are marked instead if they may be excluded."""
        for cell in self.table.cells_of(block, [name], self.cell_nbytes):
            try:
                yield cell, self.table.read_cell(name, cell)
            except CorruptStoreError:
                if not self.skip_damaged:
                    raise
                damaged[cell.at] = True


def select(rules: Rules, engine: Engine | None = None) -> tuple[Selection, Left]:
    """Apply the rules: one pass over the mask and over those fields that must be looked into.

    Args:
        rules: Rules that exclude pairs.
        engine: Who looks; None: this thread, or several where fields are looked into.

    Raises:
        CorruptStoreError: A damaged chunk, unless its pairs are to be left out, or a mask that
            contradicts the metadata; compared if all masks were read.
        ClusterError: The cluster cannot do the work.
    """
    engine, table = engine or Engine(None if rules.looked_at else 1), rules.table
    table.check_extent()
    num_valid, left, counts = [0] * len(table.parts), Counter[str](), list[int]()
    blocks = range(table.state.num_blocks)
    searched = engine.map(rules.search, blocks, table.require_seen)
    for block, (valid, chosen, reasons, excluded) in zip(blocks, searched, strict=True):
        num_valid[table.place(block)[0]] += valid
        counts.append(chosen)
        left.update(reasons)
        if excluded is not None:
            rules.excluded[block] = excluded
    is_partly_read = left["damaged"] or rules.steps is not None
    for part, found in zip(table.parts, num_valid, strict=True):
        if not is_partly_read and found != part.state.num_valid:
            raise CorruptStoreError(
                f"{part.address}: valid_mask holds {found} valid pairs, the metadata "
                f"says {part.state.num_valid}"
            )
    if rules.max_pairs is None or rules.max_pairs >= sum(counts):
        return Selection(table, rules, counts, rules.cell_nbytes), Left(**left)
    draw = Draw(counts, rules.max_pairs, rules.seed)
    drawn = Selection(table, partial(_drawn, draw, rules), draw.counts, rules.cell_nbytes)
    return drawn, Left(**left, not_drawn=sum(counts) - drawn.num_pairs)


def _drawn(draw: Draw, rules: Rules, block: int) -> Mask:
    return draw.drawn(block, rules(block))


def chosen_fields(schema: Schema, names: Sequence[str] | None) -> list[Field]:
    """By name and in the store's order; by default MOSAIC's if it has observations, else all.

    Raises:
        InputError: No such field, or none but the mask.
    """
    if names is None:
        ours = [f for f in schema.fields if f.name in MOSAIC_FIELDS]
        is_mosaics = not {"observations", "student_observations"}.isdisjoint(schema.names)
        return ours if is_mosaics else [schema[name] for name in schema.names]
    for name in names:
        schema[name]
    if not set(names) - {VALID_MASK}:
        raise InputError("fields: expected at least one, got none")
    return [f for f in schema.stored if f.name in names]


def nonfinite_fields(
    table: Table, fields: Sequence[Field], engine: Engine | None = None
) -> dict[str, int]:
    """Per field that holds any: pairs with NaN or infinity, as an export has them."""
    counts = {f.name: table.state.nonfinite.get(f.name, 0) for f in fields}
    # float64 turns infinite beyond float32's range, which the store's own counts do not tell.
    for name in [f.name for f in fields if f.dtype == "float64"]:
        count = partial(_count_nonfinite, table, name)
        blocks = range(table.state.num_blocks)
        counts[name] = sum((engine or Engine()).map(count, blocks, table.require_seen))
    return {name: count for name, count in counts.items() if count}


def _count_nonfinite(table: Table, name: str, block: int) -> int:
    cells = table.cells_of(block, [name])
    parts = (exported(table.read_cell(name, cell), np.float32) for cell in cells)
    return sum(map(nonfinite_pairs, parts))


class Draw:
    """A uniform random choice of ``k`` candidate pairs.

    Two equal keys of 64 bits, which no store will see, would choose one pair more.

    Args:
        counts: Number of candidates per block.
        k: Number of pairs to draw, at most the number of candidates.
        seed: Seed of the keys.

    Attributes:
        counts: Number of drawn pairs per block.
    """

    def __init__(self, counts: Sequence[int], k: int, seed: int) -> None:
        self._seed = seed
        histogram = np.zeros(1 << _BITS, np.int64)
        for block, count in enumerate(counts):
            leading = (self._keys(block, count) >> _SHIFT).astype(np.int64)
            histogram += np.bincount(leading, minlength=1 << _BITS)
        # The leading bits of the k-th smallest key, and the number of keys with smaller ones.
        least = int(np.searchsorted(np.cumsum(histogram), k))
        before = int(histogram[:least].sum())
        each = (self._keys(block, count) for block, count in enumerate(counts))
        keys = np.concatenate([own[own >> _SHIFT == np.uint64(least)] for own in each])
        self._threshold = np.partition(keys, k - before - 1)[k - before - 1]
        self.counts = [int(np.count_nonzero(self._are_drawn(b, n))) for b, n in enumerate(counts)]

    def drawn(self, block: int, candidates: Mask) -> Mask:
        """The mask of drawn pairs among the candidates of a block."""
        out = np.zeros_like(candidates)
        out[candidates] = self._are_drawn(block, int(np.count_nonzero(candidates)))
        return out

    def _are_drawn(self, block: int, count: int) -> Mask:
        return np.asarray(self._keys(block, count) <= self._threshold)

    def _keys(self, block: int, count: int) -> NDArray[np.uint64]:
        generator = np.random.Generator(np.random.PCG64([self._seed, block]))
        return generator.integers(0, 2**64, size=count, dtype=np.uint64)
