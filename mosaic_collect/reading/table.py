"""Stores as one table of rows: everything that reads stores reads a table.

    store    rank-00000, T = 5    rank-00001, T = 3
    step     0  1  2  3  4        5  6  7             counted through all stores
    block    0        1           2                   counted through; of 3 steps at most
    env      0 .. 3               0 .. 1              N is the greatest, here 4

One store is a table of one part. Trajectory ids and motion ids are renumbered, so that each has one
meaning. Where a store has fewer environments than another, its missing rows are fill value: not
valid, and of no trajectory.

A cell is a region of one block in whole chunks, of bounded size. Exports, selections, statistics
and loaders walk the cells of a table.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import CorruptStoreError
from mosaic_collect.reading.numbering import Numbering, join_motions, number_stores
from mosaic_collect.store.blobs import Version
from mosaic_collect.store.metadata import COLLECTING, COMPLETE, StoreState
from mosaic_collect.store.schema import VALID_MASK
from mosaic_collect.store.view import StoreView

#: Bytes of a cell to aim at: a thread holds a cell, its selected rows, and one chunk.
CELL_NBYTES = 8 << 20
_PLAUSIBLE_BLOCKS = 1000  # per shard that is there, most of which may be missing


class Cell(NamedTuple):
    """Some steps and environments of one block.

    Attributes:
        block: Number of the block, counted through all stores.
        steps: Steps, counted from the block's first.
        envs: Environments.
    """

    block: int
    steps: range
    envs: range

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of a mask of the cell, ``(steps, envs)``."""
        return len(self.steps), len(self.envs)

    @property
    def at(self) -> tuple[slice, slice]:
        """Place of the cell in an array of its block, ``(steps of the block, N)``."""
        return slice(self.steps.start, self.steps.stop), slice(self.envs.start, self.envs.stop)


class Part(StoreView):
    """Snapshot of one store of a table, with its ``numbering`` there."""

    numbering: Numbering

    def __init__(self, view: StoreView, numbering: Numbering) -> None:
        vars(self).update(vars(view), numbering=numbering)  # its grids are not made anew


class Table:
    """Immutable snapshot of one or several stores; decodes only the chunks that are read. Pickles.

    Args:
        views: Snapshots of the stores, at least one.
        address: Name of all stores together, for errors; default: their addresses.
        is_whole: Whether no store is missing beside them.

    Attributes:
        parts: The stores, in order.
        address: Name of all stores together.
        state: State of the store, or of several as one.
        grids: Cutting of each field in the first store; the others may be cut in another way.
    """

    def __init__(
        self, views: Sequence[StoreView], address: str | None = None, is_whole: bool = True
    ) -> None:
        numberings = number_stores([view.state for view in views])
        self.parts = tuple(map(Part, views, numberings))
        self.address = address or ", ".join(view.address for view in views)
        self.grids, self.state = views[0].grids, views[0].state
        if len(views) > 1 or not is_whole:
            self.state = _joined_state([view.state for view in views], numberings, is_whole)

    @property
    def has_one_width(self) -> bool:
        """Whether all stores have as many environments."""
        return len({part.state.num_envs for part in self.parts}) == 1

    @property
    def has_mask(self) -> bool:
        """Whether a mask was given at some step, or must have been."""
        return self.state.has_mask or self.state.num_valid < self.state.num_pairs

    def require_seen(self) -> None:
        """Make sure that this process sees the stores; errors as of ``StoreView.require_seen``."""
        for part in self.parts:
            part.require_seen()

    def check_extent(self) -> None:
        """Refuse metadata that claim far more blocks than there are shards.

        Whoever lists blocks before reading them calls this first. Missing shards are found later.

        Raises:
            CorruptStoreError: Naming the store and both numbers.
        """
        for part in self.parts:
            blocks = part.state.num_blocks
            if blocks <= _PLAUSIBLE_BLOCKS:
                continue  # so that a store of usual length costs no listing
            shards = sum(n.startswith("c.") for n in part.blobs.names(VALID_MASK))
            if blocks > _PLAUSIBLE_BLOCKS * (1 + shards):
                raise CorruptStoreError(
                    f"{part.address}: the metadata claim {blocks} blocks, and {shards} shards of "
                    f"{VALID_MASK} are there"
                )

    def place(self, block: int) -> tuple[int, int]:
        """The number of the store that a block is in, and the block's number there."""
        at = bisect_right(self.parts, block, key=lambda part: part.numbering.first_block) - 1
        return at, block - self.parts[at].numbering.first_block

    def part_of(self, block: int) -> Part:
        """The store that a block is in."""
        return self.parts[self.place(block)[0]]

    def shape(self, block: int) -> tuple[int, int]:
        """Committed steps of a block, and environments of its store."""
        at, inside = self.place(block)
        state = self.parts[at].state
        return len(state.steps_of(inside)), state.num_envs

    def find(self, field: str, block: int) -> Version | None:
        """What the shard of a field and block is; None if it is not there."""
        at, inside = self.place(block)
        return self.parts[at].find(field, inside)

    def versions(self, field: str) -> list[Version]:
        """What a field's shards are, those that are there."""
        return [version for part in self.parts for version in part.versions(field)]

    def read(
        self, field: str, steps: range, envs: range, pool: Executor | None = None
    ) -> NDArray[Any]:
        """Rows of some committed steps and environments, as of ``StoreView.read``.

        Rows that a store of fewer environments does not have are fill value.
        """
        if len(self.parts) == 1:
            return self.parts[0].read(field, steps, envs, pool)
        found = self.grids[field].field
        out = np.full((len(steps), len(envs), *found.row_shape), found.fill_value, found.dtype)
        for part in self.parts:
            first = part.numbering.first_step
            low = bisect_left(steps, first)
            high = bisect_left(steps, first + part.state.committed_steps)
            there = envs[: bisect_left(envs, part.state.num_envs)]
            if low < high:
                values = part.read(field, _shifted(steps[low:high], -first), there, pool)
                out[low:high, : len(there)] = part.numbering.apply(field, values)
        return out

    def cells_of(
        self, block: int, names: Sequence[str], nbytes: int = CELL_NBYTES
    ) -> Iterator[Cell]:
        """The rows of one block in whole chunks; its steps are cut only where chunks cut them.

        Args:
            block: Number of the block.
            names: Fields to be read.
            nbytes: Size of a cell to aim at, in bytes of these fields; at least one chunk.
        """
        (count, num_envs), part = self.shape(block), self.part_of(block)
        grids = [part.grids[name] for name in names]
        width, length = max(g.chunk_envs for g in grids), max(g.chunk_steps for g in grids)
        row_nbytes = sum(g.field.row_nbytes for g in grids)
        chunks = max(1, nbytes // (row_nbytes * width * length))
        if length < part.state.block_steps:
            length *= chunks
        else:
            width *= chunks
        for steps, envs in product(_ranges(count, length), _ranges(num_envs, width)):
            yield Cell(block, steps, envs)

    def whole_block(self, block: int) -> Cell:
        """All rows of a block."""
        return Cell(block, *map(range, self.shape(block)))

    def read_cell(self, field: str, cell: Cell, *, env_major: bool = False) -> NDArray[Any]:
        """Rows of a cell, ``(steps, envs[, dim])``; ``env_major`` as of ``StoreView.read``.

        Raises:
            CorruptStoreError: A chunk is damaged.
        """
        at, inside = self.place(cell.block)
        part = self.parts[at]
        steps = part.state.steps_of(inside)[cell.steps.start : cell.steps.stop]
        rows = part.read(field, steps, cell.envs, env_major=env_major)
        return part.numbering.apply(field, rows)


@dataclass(frozen=True, kw_only=True)
class JoinedState(StoreState):
    """The states of several stores as one: sums, the greatest N, and else the first store's.

    Attributes:
        parts: The states, in order, each with its numbering.
    """

    parts: tuple[tuple[StoreState, Numbering], ...]

    @property
    def num_pairs(self) -> int:
        return sum(state.num_pairs for state, _ in self.parts)

    @property
    def num_blocks(self) -> int:
        return sum(state.num_blocks for state, _ in self.parts)

    def steps_of(self, block: int) -> range:
        at = bisect_right(self.parts, block, key=lambda part: part[1].first_block) - 1
        state, numbering = self.parts[at]
        return _shifted(state.steps_of(block - numbering.first_block), numbering.first_step)

    def block_of(self, step: int) -> int:
        at = bisect_right(self.parts, step, key=lambda part: part[1].first_step) - 1
        state, numbering = self.parts[at]
        return numbering.first_block + state.block_of(step - numbering.first_step)


def _joined_state(
    parts: Sequence[StoreState], numberings: Sequence[Numbering], is_whole: bool
) -> JoinedState:
    """The states of several stores, or of one beside which others are missing, as one."""
    totals = ("committed_steps", "num_valid", "num_trajectories", "next_trajectory_id")
    counted = dict.fromkeys(name for part in parts for name in part.nonfinite)
    widths = {part.num_envs for part in parts}
    complete = is_whole and all(part.status == COMPLETE for part in parts)
    own = {
        **{name: sum(getattr(part, name) for part in parts) for name in totals},
        "num_envs": max(widths),
        "nonfinite": {n: sum(p.nonfinite.get(n, 0) for p in parts) for n in counted},
        "has_mask": any(part.has_mask for part in parts) or len(widths) > 1,
        "status": COMPLETE if complete else COLLECTING,
        "metadata": _joined_metadata([part.metadata for part in parts]),
        "identity": "",
        "runs": tuple(
            replace(run, first_step=run.first_step + numbering.first_step)
            for part, numbering in zip(parts, numberings, strict=True)
            for run in part.runs
        ),
        "parts": tuple(zip(parts, numberings, strict=True)),
    }
    return JoinedState(**{**vars(parts[0]), **own})


def _joined_metadata(each: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The entries that are equal in all stores, and all motions of any."""
    first, *others = each
    same = {k: v for k, v in first.items() if all(k in o and o[k] == v for o in others)}
    return {**same, **join_motions(each)}


def _ranges(length: int, size: int) -> list[range]:
    return [range(at, min(at + size, length)) for at in range(0, length, size)]


def _shifted(steps: range, by: int) -> range:
    return range(steps.start + by, steps.stop + by, steps.step)
