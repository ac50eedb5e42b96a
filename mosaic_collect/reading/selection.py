"""Which pairs are chosen: the same answer for every field, export and loader, block by block.

Memory: one number per block, and a bitmap for those blocks that hold a pair to leave out for its
values. Everything else is worked out again from the mask, which compresses to almost nothing.

A draw takes a uniform random subset without an index array. Every candidate pair gets a random
64-bit key from ``(seed, block)``, and the pairs of the smallest keys win. That is exactly uniform
without replacement, needs memory for one block and one histogram only, and draws are nested: with
one seed, a larger draw contains the pairs of a smaller one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import CorruptStoreError, InputError
from mosaic_collect.passes.engine import Cached, Engine, Threads
from mosaic_collect.reading.ends import failed_ids, truncated_ids
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
_BITS = 16  # of a key, for the histogram of a draw
Choose: TypeAlias = Callable[[int], Mask]
_KEPT_BLOCKS = 8  # masks, for who writes a block in several pieces


@dataclass(frozen=True)
class Left:
    """Numbers of excluded pairs; each is counted once, under the first reason that applies."""

    damaged: int = 0
    invalid: int = 0
    truncated: int = 0
    failed: int = 0
    nonfinite: int = 0
    not_drawn: int = 0


class Selection:
    """Chosen pairs.

    Args:
        table: The stores.
        choose: Returns the mask of chosen pairs of a block, ``(steps of the block, N)``; pickles.
        engine: Counts the pairs.
        skip_damaged: Whether damaged chunks hold no chosen pair, so that readers go around them.

    Attributes:
        block: Returns the mask of chosen pairs of a block, read-only; the last few are cached.
        first_rows: Per block, the number of pairs chosen before it; one more entry at the end.
    """

    def __init__(
        self, table: Table, choose: Choose, engine: Engine, skip_damaged: bool = False
    ) -> None:
        self._table, self._cell_nbytes = table, _cell_nbytes(skip_damaged)
        self.block = Cached(choose, _KEPT_BLOCKS)
        blocks = range(table.state.num_blocks)
        counts = engine.map(partial(_num_chosen, choose), blocks, table.require_seen)
        self.first_rows: NDArray[np.int64] = np.cumsum([0, *counts], dtype=np.int64)

    @property
    def counts(self) -> list[int]:
        """Number of chosen pairs per block."""
        counts: list[int] = np.diff(self.first_rows).tolist()
        return counts

    @property
    def num_pairs(self) -> int:
        """Number of chosen pairs."""
        return int(self.first_rows[-1])

    def mask(self, cell: Cell) -> Mask:
        """The mask of chosen pairs of a cell, ``(steps, envs)``, read-only."""
        return self.block(cell.block)[cell.at]

    def cells_of(self, block: int, field: str) -> Iterator[Cell]:
        """The cells in which to read the chosen pairs of a block: each whole, or not at all."""
        return self._table.cells_of(block, [field], self._cell_nbytes)


def _num_chosen(choose: Choose, block: int) -> int:
    return int(np.count_nonzero(choose(block)))


def _cell_nbytes(skip_damaged: bool) -> int:
    """Damage is gone around chunk by chunk."""
    return 1 if skip_damaged else CELL_NBYTES


def exported(values: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Values as exports hold them, C-contiguous; float64 too large for float32 becomes infinite."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype)


def every_pair(table: Table) -> Selection:
    """All pairs, valid or not."""
    return Selection(table, partial(_all_of_block, table), Threads(1))


def _all_of_block(table: Table, block: int) -> Mask:
    return np.ones(table.shape(block), np.bool_)


@dataclass(frozen=True)
class Rules:
    """Rules that exclude pairs, beside invalid ones.

    Attributes:
        fields: Names of the fields to read.
        finite_fields: Fields in which NaN or infinity excludes a pair.
        skip_damaged: Whether a damaged chunk excludes its pairs; else it is an error.
        truncated_ids: Trajectories to exclude because they never ended, ascending.
        failed_ids: Trajectories to exclude because they failed, ascending.
        steps: Steps to include, one range per store; None: all.
        asked_ids: Trajectories to include; None: all. Pairs of other trajectories are not counted
            as excluded.
        max_pairs: Number of pairs to draw from the rest; None: all.
        seed: Seed of the draw.
    """

    fields: Sequence[str] = ()
    finite_fields: Sequence[str] = ()
    skip_damaged: bool = False
    truncated_ids: NDArray[np.int64] | None = None
    failed_ids: NDArray[np.int64] | None = None
    steps: Sequence[range] | None = None
    asked_ids: NDArray[np.int64] | None = None
    max_pairs: int | None = None
    seed: int = 0

    @property
    def looked_at(self) -> Sequence[str]:
        """Fields that must be read to choose pairs."""
        return self.fields if self.skip_damaged else self.finite_fields


def select(table: Table, rules: Rules, engine: Engine | None = None) -> tuple[Selection, Left]:
    """Apply the rules: one pass over the mask and over those fields that must be looked into.

    Args:
        table: The stores.
        rules: What to leave out.
        engine: Who looks; None: this thread, or several where fields are looked into.

    Raises:
        CorruptStoreError: A damaged chunk, unless its pairs are to be left out, or a mask that
            contradicts the metadata.
        ClusterError: Of the engine.
    """
    engine = engine or Threads(None if rules.looked_at else 1)
    table.check_extent()
    search = _Search(table, rules, engine)
    chosen = Selection(table, search.candidates, engine, rules.skip_damaged)
    if rules.max_pairs is None or rules.max_pairs >= chosen.num_pairs:
        return chosen, search.left
    draw = Draw(chosen.counts, rules.max_pairs, rules.seed)
    choose = partial(_drawn, draw, search.candidates)
    drawn = Selection(table, choose, engine, rules.skip_damaged)
    return drawn, replace(search.left, not_drawn=chosen.num_pairs - drawn.num_pairs)


def _drawn(draw: Draw, candidates: Choose, block: int) -> Mask:
    return draw.drawn(block, candidates(block))


class _Search:
    """Finds the pairs to leave out, and remembers them as bitmaps of the blocks that hold any."""

    def __init__(self, table: Table, rules: Rules, engine: Engine) -> None:
        self._bad: dict[int, NDArray[np.uint8]] = {}
        self._num_valid: Counter[int] = Counter()
        self._look = _Look(table, rules)
        blocks, counts = range(table.state.num_blocks), Counter[str]()
        found = engine.map(self._look, blocks, table.require_seen)
        for block, seen in zip(blocks, found, strict=True):
            self._num_valid[table.place(block)[0]] += seen.num_valid
            counts.update(seen.left)
            if seen.bad is not None:
                self._bad[block] = seen.bad
        self.left = Left(**counts)
        self._check_mask(table, rules)

    @property
    def candidates(self) -> Choose:
        """Gives the pairs of a block that nothing speaks against."""
        return partial(_candidates, self._look, self._bad)

    def _check_mask(self, table: Table, rules: Rules) -> None:
        """Hold the masks against the metadata, where all of them were read."""
        unread = self.left.damaged or rules.steps is not None
        for number, part in enumerate(() if unread else table.parts):
            found, expected = self._num_valid[number], part.state.num_valid
            if found != expected:
                raise CorruptStoreError(
                    f"{part.address}: valid_mask holds {found} valid pairs, the metadata says "
                    f"{expected}"
                )


def _candidates(look: _Look, bad: Mapping[int, NDArray[np.uint8]], block: int) -> Mask:
    return look.candidates(block, bad.get(block))


class _Seen(NamedTuple):
    """What was found in a block: valid pairs, those left out by reason, and their bitmap."""

    num_valid: int = 0
    left: Mapping[str, int] = {}
    bad: NDArray[np.uint8] | None = None


class _Look:
    """Looks at one block by the rules; pickles."""

    def __init__(self, table: Table, rules: Rules) -> None:
        self._table, self._rules = table, rules

    def __call__(self, block: int) -> _Seen:
        """Search one block."""
        shape, asked_steps = self._table.shape(block), self._asked_steps(block)
        if not asked_steps.any():
            return _Seen()
        damaged, nonfinite = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
        valid = self._mask(block, damaged)
        for name in self._rules.looked_at:
            self._look_at(name, block, damaged, nonfinite)
        truncated = self._of_trajectories(self._rules.truncated_ids, block, damaged)
        failed = self._of_trajectories(self._rules.failed_ids, block, damaged)
        asked = np.broadcast_to(asked_steps[:, None], shape)
        if self._rules.asked_ids is not None:
            asked = asked & self._of_trajectories(self._rules.asked_ids, block, damaged)
        return _seen(asked, valid, damaged, truncated, failed, nonfinite)

    def candidates(self, block: int, packed: NDArray[np.uint8] | None) -> Mask:
        """Pairs of a block that nothing speaks against, given the bitmap of the others."""
        shape, asked_steps = self._table.shape(block), self._asked_steps(block)
        if not asked_steps.any():
            return np.zeros(shape, np.bool_)
        if packed is None:
            return self._table.read_cell(VALID_MASK, self._table.whole_block(block))
        bad = np.unpackbits(packed, count=shape[0] * shape[1]).astype(np.bool_).reshape(shape)
        return self._mask(block, bad) & ~bad

    def _asked_steps(self, block: int) -> Mask:
        """Which of a block's steps are asked for, ``(steps,)``."""
        at, inside = self._table.place(block)
        steps = self._table.parts[at].state.steps_of(inside)
        if self._rules.steps is None:
            return np.ones(len(steps), np.bool_)
        asked = self._rules.steps[at]
        return np.fromiter((step in asked for step in steps), np.bool_, len(steps))

    def _mask(self, block: int, damaged: Mask) -> Mask:
        """The mask; where it is damaged itself, False, and noted in ``damaged``."""
        mask = np.zeros_like(damaged)
        for cell in self._cells(block, VALID_MASK):
            values = self._read(VALID_MASK, cell, damaged)
            if values is not None:
                mask[cell.at] = values
        return mask

    def _cells(self, block: int, name: str) -> Iterator[Cell]:
        return self._table.cells_of(block, [name], _cell_nbytes(self._rules.skip_damaged))

    def _look_at(self, name: str, block: int, damaged: Mask, nonfinite: Mask) -> None:
        for cell in self._cells(block, name):
            values = self._read(name, cell, damaged)
            if values is not None and name in self._rules.finite_fields:
                values = exported(values, np.float32)
                if not all_finite(values):
                    nonfinite[cell.at] |= ~finite_rows(values)

    def _of_trajectories(self, ids: NDArray[np.int64] | None, block: int, damaged: Mask) -> Mask:
        """Pairs of the trajectories of these ids."""
        found = np.zeros_like(damaged)
        if ids is None or not len(ids):
            return found
        for cell in self._cells(block, TRAJECTORY_ID):
            values = self._read(TRAJECTORY_ID, cell, damaged)
            if values is not None:
                found[cell.at] = np.isin(values, ids)
        return found

    def _read(self, name: str, cell: Cell, damaged: Mask) -> NDArray[Any] | None:
        """Values of a cell; None, and marked in ``damaged``, where damage may be left out."""
        try:
            return self._table.read_cell(name, cell)
        except CorruptStoreError:
            if not self._rules.skip_damaged:
                raise
            damaged[cell.at] = True
            return None


def _seen(
    asked: Mask, valid: Mask, damaged: Mask, truncated: Mask, failed: Mask, nonfinite: Mask
) -> _Seen:
    bad = damaged | truncated | failed | nonfinite | ~asked
    whole = valid & ~damaged
    reasons = {
        "damaged": damaged,
        "invalid": ~valid & ~damaged,
        "truncated": whole & truncated,
        "failed": whole & ~truncated & failed,
        "nonfinite": whole & ~truncated & ~failed & nonfinite,
    }
    left = {name: int(np.count_nonzero(mask & asked)) for name, mask in reasons.items()}
    return _Seen(int(np.count_nonzero(valid)), left, np.packbits(bad) if bad.any() else None)


def chosen_fields(schema: Schema, names: Sequence[str] | None) -> list[Field]:
    """By name and in the store's order; by default MOSAIC's, or all if the store has none.

    Raises:
        InputError: No such field, or none but the mask.
    """
    if names is None:
        ours = [f for f in schema.fields if f.name in MOSAIC_FIELDS]
        return ours or [schema[name] for name in schema.names]
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
        counts[name] = sum((engine or Threads()).map(count, blocks, table.require_seen))
    return {name: count for name, count in counts.items() if count}


def make_rules(
    table: Table,
    fields: Sequence[Field],
    nonfinite: dict[str, int],
    *,
    skip_damaged: bool = False,
    exclude_truncated: bool = False,
    exclude_failed: bool = False,
    engine: Engine | None = None,
    **others: Any,
) -> Rules:
    """The rules for the pairs of these fields.

    Args:
        table: The stores.
        fields: What is to be read.
        nonfinite: Those of them that hold NaN or infinity.
        skip_damaged: Whether a damaged chunk excludes its pairs; else it is an error.
        exclude_truncated: Whether to leave out trajectories that never ended.
        exclude_failed: Whether to leave out those that failed.
        engine: Who finds those; None: this thread.
        others: As ``Rules``'s.

    Raises:
        InputError: A store does not say how its trajectories ended.
    """
    floats = [f.name for f in fields if f.is_float]
    return Rules(
        fields=[f.name for f in fields],
        finite_fields=floats if skip_damaged else list(nonfinite),
        skip_damaged=skip_damaged,
        truncated_ids=truncated_ids(table) if exclude_truncated else None,
        failed_ids=failed_ids(table, engine) if exclude_failed else None,
        **others,
    )


def _count_nonfinite(table: Table, name: str, block: int) -> int:
    cells = table.cells_of(block, [name])
    parts = (exported(table.read_cell(name, cell), np.float32) for cell in cells)
    return sum(map(nonfinite_pairs, parts))


class Draw:
    """``k`` of all candidate pairs.

    Args:
        counts: Per block, how many pairs may be drawn.
        k: How many; at most as many as there are.
        seed: Of the keys.
    """

    def __init__(self, counts: Sequence[int], k: int, seed: int) -> None:
        self._seed = seed
        cut, before = self._cut_bin(counts, k)
        self._threshold, self._ties = self._cut(counts, cut, k - before)

    def drawn(self, block: int, candidates: Mask) -> Mask:
        """The drawn ones among a block's candidates, same shape."""
        keys = self._keys(block, int(np.count_nonzero(candidates)))
        chosen = keys < self._threshold
        # Equal keys are all but impossible; if they happen, the earlier pair wins.
        ties = np.flatnonzero(keys == self._threshold)[: self._ties.get(block, 0)]
        chosen[ties] = True
        out = np.zeros_like(candidates)
        out[candidates] = chosen
        return out

    def _keys(self, block: int, count: int) -> NDArray[np.uint64]:
        generator = np.random.Generator(np.random.PCG64([self._seed, block]))
        return generator.integers(0, 2**64, size=count, dtype=np.uint64)

    def _cut_bin(self, counts: Sequence[int], k: int) -> tuple[int, int]:
        """The bin of leading bits in which the k-th smallest key lies, and the keys before it."""
        histogram = np.zeros(1 << _BITS, np.int64)
        for block, count in enumerate(counts):
            leading = (self._keys(block, count) >> np.uint64(64 - _BITS)).astype(np.int64)
            histogram += np.bincount(leading, minlength=1 << _BITS)
        cut = int(np.searchsorted(np.cumsum(histogram), k))
        return cut, int(histogram[:cut].sum())

    def _cut(self, counts: Sequence[int], cut: int, rest: int) -> tuple[np.uint64, dict[int, int]]:
        """The k-th smallest key, and per block how many pairs of just that key are in."""
        found, blocks = [], []
        for block, count in enumerate(counts):
            keys = self._keys(block, count)
            keys = keys[keys >> np.uint64(64 - _BITS) == np.uint64(cut)]
            found.append(keys)
            blocks.append(np.full(len(keys), block))
        keys, owners = np.concatenate(found), np.concatenate(blocks)
        order = np.argsort(keys, kind="stable")[:rest]
        threshold = keys[order[-1]]
        tied = owners[order[keys[order] == threshold]]
        return threshold, dict(Counter(tied.tolist()))
