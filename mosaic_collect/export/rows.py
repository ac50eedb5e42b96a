"""Chosen rows, trajectory by trajectory, in bounded memory: what every format but ``.npy`` writes.

A trajectory lies in one environment, so rows that are ordered by store, environment and step have
each trajectory in one piece. How many rows lie before a cell is known before it is read:

    block          0          1          2
    env 0    | a a a a  | a b b b  | b b c c  |    rows  0..3    4..7    8..11
    env 1    | d d d d  | d d d d  | e e e e  |         12..15  16..19  20..23

So cells are read in any order, by several threads, and go where they belong: to their places in a
file, or into batches of whole trajectories. A trajectory that is too long for a batch is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.passes.engine import Engine
from mosaic_collect.reading.numbering import MOTION_ID
from mosaic_collect.reading.selection import Selection, Split
from mosaic_collect.reading.table import Cell, Part, Table
from mosaic_collect.reading.trajectories import Ints, Traced, trace
from mosaic_collect.store.schema import TRAJECTORY_END, TRAJECTORY_ID, Field
from mosaic_collect.store.workers import WorkerPool, in_order

Array = NDArray[Any]
#: A field, a cell of it, and the number of each environment's first row in the cell's block.
_Request = tuple[str, Cell, Ints]
#: Takes consecutive rows of a field: its name, the number of the first row, the rows.
Put = Callable[[str, int, Array], object]
#: Bytes of rows in a batch, at most; and of a file's part that is written at a time.
BATCH_NBYTES, _WINDOW_NBYTES = 64 << 20, 1 << 30
_STEP = ""  # the name of no field
_STATES = ("qpos", "qvel", "env_origin")
_BESIDE = (MOTION_ID, TRAJECTORY_END, TRAJECTORY_ID, "motion_frame")
_BESIDE_NBYTES = 64  # of a row's numbers and ends


class Batch(NamedTuple):
    """Consecutive rows.

    Attributes:
        first: Number of the first row.
        steps: Steps in the store, ``(M,)``.
        fields: Field -> its rows, ``(M, ...)``.
    """

    first: int
    steps: Ints
    fields: dict[str, Array]

    def put(self, field: str, row: int, rows: Array) -> None:
        """Copy rows to their place."""
        values = self.steps if field == _STEP else self.fields[field]
        values[row - self.first : row - self.first + len(rows)] = rows


@dataclass(frozen=True)
class TrajectoryRows:
    """Chosen rows of all trajectories; iterating reads them, each trajectory's one after the other.

    Attributes:
        trajectories: The trajectories with chosen pairs, in the order of the rows; ``valid`` counts
            these.
    """

    table: Table
    selection: Selection
    fields: tuple[Field, ...]
    trajectories: Traced

    @classmethod
    def of(cls, table: Table, selection: Selection, fields: Sequence[Field]) -> TrajectoryRows:
        """Find the trajectories: a pass over ids and ends."""
        traced = trace(table, selection=selection)
        firsts = [part.numbering.first_step for part in table.parts]
        store = np.searchsorted(firsts, traced["first"], side="right")
        traced = traced[np.lexsort((traced["first"], traced["env"], store))]
        # A damaged chunk that is left out may cut a trajectory in two.
        starts = np.flatnonzero(np.diff(traced["id"], prepend=-1))
        stops = np.append(starts[1:], len(traced)) - 1
        joined = traced[starts]
        joined["valid"] = np.add.reduceat(traced["valid"], starts)
        joined["last"], joined["end"] = traced["last"][stops], traced["end"][stops]
        return cls(table, selection, tuple(fields), joined)

    @cached_property
    def starts(self) -> Ints:
        """Number of each trajectory's first row, and of all rows."""
        return np.cumsum(np.append(0, self.trajectories["valid"]))

    @property
    def row_nbytes(self) -> int:
        """Bytes of a row of all fields."""
        return sum(f.row_nbytes for f in self.fields)

    def places(self, batch: Batch) -> tuple[Ints, Ints]:
        """Per row, the index of its trajectory, and the number of rows before it there."""
        number = np.arange(batch.first, batch.first + len(batch.steps))
        owner = np.searchsorted(self.starts, number, side="right") - 1
        return owner, number - self.starts[owner]

    def __iter__(self) -> Iterator[Batch]:
        batches = self._batches(BATCH_NBYTES, [*(f.name for f in self.fields), _STEP])
        with WorkerPool(1, "mosaic-batch") as pool:  # fills one while the reader encodes another
            yield from in_order(partial(pool.submit, self._filled), batches, 1)

    def place(self, put: Put) -> Iterator[int]:
        """Read all rows in any order; yield the bytes after each piece.

        Args:
            put: Called from several threads.
        """
        names = [f.name for f in self.fields]
        requests = (one for _, each in self._batches(_WINDOW_NBYTES, names) for one in each)
        return Engine().map(partial(self._read, put), requests)

    def on_side(self, split: Split) -> NDArray[np.bool_]:
        """Whether each trajectory is on a side of a split."""
        found, chosen = self.trajectories, np.zeros(len(self.trajectories), np.bool_)
        for part in self.table.parts:
            mine, own_ids = self._in_store(part), found["id"] - part.numbering.first_id
            chosen[mine] = split.holds(part.state.identity, own_ids[mine])
        return chosen

    def _in_store(self, part: Part) -> NDArray[np.bool_]:
        """Whether each trajectory is of a store."""
        first = part.numbering.first_step
        behind = first + part.state.committed_steps
        return (self.trajectories["first"] >= first) & (self.trajectories["first"] < behind)

    def _filled(self, what: tuple[range, list[_Request]]) -> Batch:
        rows, requests = what
        values = {f.name: np.empty((len(rows), *f.row_shape), f.dtype) for f in self.fields}
        batch = Batch(rows.start, np.empty(len(rows), np.int64), values)
        for request in requests:
            self._read(batch.put, request)
        return batch

    def _batches(self, nbytes: int, names: Sequence[str]) -> Iterator[tuple[range, list[_Request]]]:
        """Cut the rows into whole trajectories of a number of bytes, at most where that can be."""
        most = max(1, nbytes // (self.row_nbytes + _BESIDE_NBYTES))
        widest = max(self.fields, key=lambda f: f.row_nbytes).name
        first = 0
        for part in self.table.parts:
            found, mine = self.trajectories, self._in_store(part)
            counts = np.zeros(part.state.num_envs, np.int64)
            np.add.at(counts, found["env"][mine], found["valid"][mine])
            rows = first + np.cumsum(counts) - counts
            for envs in _groups(counts, most, part.grids[widest].chunk_envs):
                requests: list[_Request] = []
                for block in range(part.state.num_blocks):
                    block += part.numbering.first_block
                    here = self.selection.block(block)[:, envs.start : envs.stop].sum(axis=0)
                    if here.any():
                        requests += self._requests(block, envs, names, rows)
                        rows[envs.start : envs.stop] += here
                    stop = int(rows[envs.stop - 1])
                    if len(envs) == 1 and stop - first >= most:
                        yield range(first, stop), requests
                        first, requests = stop, []
                if requests:
                    yield range(first, stop), requests
                    first = stop

    def _requests(
        self, block: int, envs: range, names: Sequence[str], rows: Ints
    ) -> Iterator[_Request]:
        whole = self.table.whole_block(block)
        for name in names:
            for cell in [whole] if name == _STEP else self.selection.cells_of(block, name):
                start, stop = max(cell.envs.start, envs.start), min(cell.envs.stop, envs.stop)
                if start < stop:
                    mine = Cell(block, cell.steps, range(start, stop))
                    yield name, mine, rows[start:stop].copy()

    def _read(self, put: Put, request: _Request) -> int:
        """Put the chosen rows of a cell, environment by environment; return their bytes."""
        name, cell, rows = request
        chosen = self.selection.block(cell.block)[:, cell.envs.start : cell.envs.stop].T
        mask = np.ascontiguousarray(chosen[:, cell.steps.start : cell.steps.stop])
        counts = np.count_nonzero(mask, axis=1)
        if not counts.any():
            return 0
        if name == _STEP:
            steps = self.table.state.steps_of(cell.block)
            values = np.broadcast_to(np.arange(steps.start, steps.stop), mask.shape)
        else:
            values = self.table.read_cell(name, cell, env_major=True).swapaxes(0, 1)
        rows += np.count_nonzero(chosen[:, : cell.steps.start], axis=1)
        for env in np.flatnonzero(counts).tolist():
            is_whole = counts[env] == len(cell.steps)
            put(name, int(rows[env]), values[env] if is_whole else values[env][mask[env]])
        return int(counts.sum()) * (values.nbytes // mask.size)


def _groups(counts: Ints, most: int, chunk: int) -> Iterator[range]:
    """Cut environments into groups of whole chunks that hold a number of rows, if they can."""
    start = 0
    while start < len(counts):
        stop = start + max(1, int(np.searchsorted(np.cumsum(counts[start:]), most, side="right")))
        whole = stop - stop % chunk
        stop = whole if start < whole and stop < len(counts) else stop
        yield range(start, stop)
        start = stop


def key_of(name: str) -> str:
    """Place of a field in robomimic's layout: under ``obs``, under ``states``, or beside them."""
    if name in _STATES:
        return f"states/{name}"
    return name if name.startswith("action") or name in _BESIDE else f"obs/{name}"
