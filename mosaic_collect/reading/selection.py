"""Which pairs enter an export: the same answer for every field, block by block.

Memory: one number a block, and a bitmap for those blocks that hold a pair to leave out for its
values. Everything else is worked out again from the mask, which compresses to almost nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import CorruptStoreError
from mosaic_collect.passes.engine import Engine, Threads
from mosaic_collect.passes.kept import Kept
from mosaic_collect.reading.draw import Draw
from mosaic_collect.reading.part import Slab
from mosaic_collect.reading.union import Source, exported
from mosaic_collect.store.counts import all_finite, finite_rows
from mosaic_collect.store.schema import TRAJECTORY_ID, VALID_MASK

Mask = NDArray[np.bool_]
Choose: TypeAlias = Callable[[int], Mask]
_KEPT_BLOCKS = 8  # masks, for who writes a block in several pieces


@dataclass(frozen=True)
class Left:
    """Pairs left out, each counted once, under the first reason that holds."""

    damaged: int = 0
    invalid: int = 0
    truncated: int = 0
    failed: int = 0
    nonfinite: int = 0
    not_drawn: int = 0


class Selection:
    """Chosen pairs.

    Args:
        source: The stores.
        choose: Gives a block's chosen pairs, ``(steps of the block, N)``; pickles.
        engine: Who counts them.

    Attributes:
        block: Gives a block's chosen pairs, not to be changed; the last few blocks' are kept.
        first_rows: Per block, how many pairs were chosen before it; one more entry at the end.
    """

    def __init__(self, source: Source, choose: Choose, engine: Engine) -> None:
        self.block = Kept(choose, _KEPT_BLOCKS)
        blocks = range(source.num_blocks)
        counts = engine.map(partial(_num_chosen, choose), blocks, source.require_seen)
        self.first_rows: NDArray[np.int64] = np.cumsum([0, *counts], dtype=np.int64)

    @property
    def counts(self) -> list[int]:
        """Chosen pairs of each block."""
        counts: list[int] = np.diff(self.first_rows).tolist()
        return counts

    @property
    def num_pairs(self) -> int:
        """Chosen pairs."""
        return int(self.first_rows[-1])


def _num_chosen(choose: Choose, block: int) -> int:
    return int(np.count_nonzero(choose(block)))


def every_pair(source: Source) -> Selection:
    """All pairs, valid or not."""
    return Selection(source, partial(_all_of_block, source), Threads(1))


def _all_of_block(source: Source, block: int) -> Mask:
    return np.ones(source.shape(block), np.bool_)


@dataclass(frozen=True)
class Rules:
    """What to leave out beside invalid pairs.

    Attributes:
        fields: Fields of the export.
        finite_fields: Those in which NaN or infinity excludes a pair.
        skip_damaged: Whether a damaged chunk excludes its pairs; else it is an error.
        truncated_ids: Trajectories to leave out because they never ended, ascending.
        failed_ids: Trajectories to leave out because they failed, ascending.
        steps: Per store, those that are asked for; None: all.
        asked_ids: Trajectories that are asked for; None: all. What is not asked for is not
            counted as left out either.
        max_pairs: Draw that many of the rest; None: all.
        seed: Of the draw.
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
        """Fields whose values must be read to know which pairs are chosen."""
        return self.fields if self.skip_damaged else self.finite_fields


def select(source: Source, rules: Rules, engine: Engine | None = None) -> tuple[Selection, Left]:
    """Apply the rules: one pass over the mask and over those fields that must be looked into.

    Args:
        source: The stores.
        rules: What to leave out.
        engine: Who looks; None: this thread, or several where fields are looked into.

    Raises:
        CorruptStoreError: A damaged chunk, unless its pairs are to be left out, or a mask that
            contradicts the metadata.
        ClusterError: Of the engine.
    """
    engine = engine or Threads(None if rules.looked_at else 1)
    search = _Search(source, rules, engine)
    chosen = Selection(source, search.candidates, engine)
    if rules.max_pairs is None or rules.max_pairs >= chosen.num_pairs:
        return chosen, search.left
    draw = Draw(chosen.counts, rules.max_pairs, rules.seed)
    drawn = Selection(source, partial(_drawn, draw, search.candidates), engine)
    return drawn, replace(search.left, not_drawn=chosen.num_pairs - drawn.num_pairs)


def _drawn(draw: Draw, candidates: Choose, block: int) -> Mask:
    return draw.drawn(block, candidates(block))


class _Search:
    """Finds the pairs to leave out, and remembers them as bitmaps of the blocks that hold any."""

    def __init__(self, source: Source, rules: Rules, engine: Engine) -> None:
        self._bad: dict[int, NDArray[np.uint8]] = {}
        self._num_valid: Counter[str] = Counter()
        self._look = _Look(source, rules)
        blocks, counts = range(source.num_blocks), Counter[str]()
        found = engine.map(self._look, blocks, source.require_seen)
        for block, seen in zip(blocks, found, strict=True):
            self._num_valid[source.place(block)[0].path] += seen.num_valid
            counts.update(seen.left)
            if seen.bad is not None:
                self._bad[block] = seen.bad
        self.left = Left(**counts)
        self._check_mask(source, rules)

    @property
    def candidates(self) -> Choose:
        """Gives the pairs of a block that nothing speaks against."""
        return partial(_candidates, self._look, self._bad)

    def _check_mask(self, source: Source, rules: Rules) -> None:
        """Hold the masks against the metadata, where all of them were read."""
        unread = self.left.damaged or rules.steps is not None
        for part in () if unread else source.parts:
            found, expected = self._num_valid[part.path], part.state.num_valid
            if found != expected:
                raise CorruptStoreError(
                    f"{part.path}: valid_mask holds {found} valid pairs, the metadata says "
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

    def __init__(self, source: Source, rules: Rules) -> None:
        self._source, self._rules = source, rules

    def __call__(self, block: int) -> _Seen:
        """Search one block."""
        shape, asked_steps = self._source.shape(block), self._asked_steps(block)
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
        shape, asked_steps = self._source.shape(block), self._asked_steps(block)
        if not asked_steps.any():
            return np.zeros(shape, np.bool_)
        if packed is None:
            return self._source.mask(block)
        bad = np.unpackbits(packed, count=shape[0] * shape[1]).astype(np.bool_).reshape(shape)
        return self._mask(block, bad) & ~bad

    def _asked_steps(self, block: int) -> Mask:
        """Which of a block's steps are asked for, ``(steps,)``."""
        part, inside = self._source.place(block)
        steps = part.state.steps_of(inside)
        if self._rules.steps is None:
            return np.ones(len(steps), np.bool_)
        asked = self._rules.steps[self._source.parts.index(part)]
        return np.fromiter((step in asked for step in steps), np.bool_, len(steps))

    def _mask(self, block: int, damaged: Mask) -> Mask:
        """The mask; where it is damaged itself, False, and noted in ``damaged``."""
        mask = np.zeros_like(damaged)
        for slab in self._source.slabs(VALID_MASK, block):
            values = self._read(VALID_MASK, block, slab, damaged)
            if values is not None:
                mask[slab.at] = values
        return mask

    def _look_at(self, name: str, block: int, damaged: Mask, nonfinite: Mask) -> None:
        for slab in self._source.slabs(name, block):
            values = self._read(name, block, slab, damaged)
            if values is not None and name in self._rules.finite_fields:
                values = exported(values, np.float32)
                if not all_finite(values):
                    nonfinite[slab.at] |= ~finite_rows(values)

    def _of_trajectories(self, ids: NDArray[np.int64] | None, block: int, damaged: Mask) -> Mask:
        """Pairs of the trajectories of these ids."""
        found = np.zeros_like(damaged)
        if ids is None or not len(ids):
            return found
        for slab in self._source.slabs(TRAJECTORY_ID, block):
            values = self._read(TRAJECTORY_ID, block, slab, damaged)
            if values is not None:
                found[slab.at] = np.isin(values, ids)
        return found

    def _read(self, name: str, block: int, slab: Slab, damaged: Mask) -> NDArray[Any] | None:
        """Values of a slab; None, and noted in ``damaged``, where they may be left out."""
        try:
            return self._source.read(name, block, slab)
        except CorruptStoreError:
            if not self._rules.skip_damaged:
                raise
            damaged[slab.at] = True
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
