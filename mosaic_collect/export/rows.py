"""Chosen rows, trajectory by trajectory, in bounded memory: what every format but ``.npy`` writes.

A store is cut by steps and environments, and a trajectory lies in one environment. Environments are
read in groups, block by block; rows wait until their trajectory is whole.

    block          0          1          2
    env 0    | a a a a  | a b b b  | b b c c  |  group 0:  a, d, b, c, e
    env 1    | d d d d  | d d d d  | e e e e  |
    env 2    | f f f f  | f f f f  | f f f f  |  group 1:  f, as it is read

A group is as wide as its longest trajectories let fit into memory. A trajectory that alone is too
long is a group of one environment, whose rows need not wait.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, tee
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.export.options import Options
from mosaic_collect.passes.engine import Threads
from mosaic_collect.reading.selection import Selection, Split
from mosaic_collect.reading.table import Cell, Table
from mosaic_collect.reading.trajectories import Traced, trace
from mosaic_collect.store.schema import Field

Array = NDArray[Any]
Ints = NDArray[np.int64]
#: Bytes of rows that wait for the end of their trajectory, at most.
WAITING_NBYTES = 128 << 20


class Segment(NamedTuple):
    """Consecutive rows of one trajectory.

    Attributes:
        trajectory: Index of the trajectory into ``TrajectoryRows.trajectories``.
        first: Number of rows of the trajectory before these.
        steps: Steps in the store.
        fields: Field -> its rows, in pieces.
    """

    trajectory: int
    first: int
    steps: Ints
    fields: dict[str, list[Array]]

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return sum(piece.nbytes for pieces in self.fields.values() for piece in pieces)


class _Request(NamedTuple):
    """A cell of one field, restricted to a group of environments."""

    group: range
    field: str
    cell: Cell


class _Waiting(NamedTuple):
    """Rows of a trajectory that is not whole yet."""

    steps: list[Ints]
    fields: dict[str, list[Array]]


@dataclass(frozen=True)
class TrajectoryRows:
    """Chosen rows of all trajectories; iterating reads them, each trajectory's one after the other.

    Attributes:
        table: The stores.
        selection: Chosen pairs.
        fields: Fields to read.
        trajectories: The trajectories with chosen pairs; ``valid`` counts these.
    """

    table: Table
    selection: Selection
    fields: tuple[Field, ...]
    trajectories: Traced

    @classmethod
    def of(cls, table: Table, selection: Selection, fields: list[Field]) -> TrajectoryRows:
        """Find the trajectories: a pass over ids and ends."""
        traced = trace(table, selection=selection)
        traced = traced.chosen(np.lexsort((traced.first, traced.env)))
        # A damaged chunk that is left out may cut a trajectory in two.
        starts = np.flatnonzero(np.diff(traced.id, prepend=-1))
        stops = np.append(starts[1:], len(traced.id)) - 1
        joined = replace(
            traced.chosen(starts),
            valid=np.add.reduceat(traced.valid, starts),
            last=traced.last[stops],
            end=traced.end[stops],
        )
        return cls(table, selection, tuple(fields), joined)

    def __iter__(self) -> Iterator[Segment]:
        waiting: dict[int, _Waiting] = {}
        written: dict[int, int] = {}
        pieces, done = tee(self._pieces())
        found = zip(done, Threads().map(self._read, pieces), strict=True)
        for (group, _), block in groupby(found, lambda one: (one[0].group, one[0].cell.block)):
            for request, segments in block:
                for index, steps, rows in segments:
                    rest = waiting.setdefault(index, _Waiting([], {}))
                    rest.fields.setdefault(request.field, []).append(rows)
                    if request.field == self.fields[0].name:
                        rest.steps.append(steps)
            for index in sorted(waiting):
                first = written.pop(index, 0)
                count = first + sum(map(len, waiting[index].steps))
                is_whole = count == self.trajectories.valid[index]
                if is_whole or len(group) == 1:
                    rest = waiting.pop(index)
                    yield Segment(index, first, np.concatenate(rest.steps), rest.fields)
                if not is_whole and len(group) == 1:
                    written[index] = count

    def on_side(self, split: Split) -> NDArray[np.bool_]:
        """Whether each trajectory is on a side of a split."""
        found, chosen = self.trajectories, np.zeros(len(self.trajectories.id), np.bool_)
        for at, part in enumerate(self.table.parts):
            mine, own_ids = self._in_store(at), found.id - self.table.numberings[at].first_id
            chosen[mine] = split.holds(part.state.identity, own_ids[mine])
        return chosen

    def _in_store(self, at: int) -> NDArray[np.bool_]:
        """Whether each trajectory is of a store."""
        first = self.table.first_steps[at]
        behind = first + self.table.parts[at].state.committed_steps
        return (self.trajectories.first >= first) & (self.trajectories.first < behind)

    def _pieces(self) -> Iterator[_Request]:
        for at, part in enumerate(self.table.parts):
            blocks = range(part.state.num_blocks)
            for group in self._groups(at):
                for block in (self.table.first_blocks[at] + number for number in blocks):
                    if not self.selection.block(block)[:, group.start : group.stop].any():
                        continue
                    for field in self.fields:
                        for cell in self.selection.cells_of(block, field.name):
                            start = max(cell.envs.start, group.start)
                            envs = range(start, min(cell.envs.stop, group.stop))
                            if envs:
                                yield _Request(group, field.name, Cell(block, cell.steps, envs))

    def _groups(self, at: int) -> Iterator[range]:
        """Environments of a store to read together."""
        part, found = self.table.parts[at], self.trajectories
        count, mine = part.state.num_envs, self._in_store(at)
        longest = np.zeros(count, np.int64)
        np.maximum.at(longest, found.env[mine], (found.last - found.first)[mine] + 1)
        # While a trajectory is open, the blocks that it lies in stay in memory.
        waiting = (longest + 2 * part.state.block_steps) * sum(f.row_nbytes for f in self.fields)
        chunk = part.grids[max(self.fields, key=lambda f: f.row_nbytes).name].chunk_envs
        start = 0
        while start < count:
            widths = np.arange(1, count - start + 1)
            fits = widths * np.maximum.accumulate(waiting[start:]) <= WAITING_NBYTES
            stop = start + max(1, int(np.count_nonzero(fits)))
            whole = stop - stop % chunk
            stop = whole if start < whole and stop < count else stop
            yield range(start, stop)
            start = stop

    def _read(self, request: _Request) -> list[tuple[int, Ints, Array]]:
        """Chosen rows of a piece by trajectory: its index, the steps and the rows."""
        cell = request.cell
        mask = self.selection.mask(cell).T
        if not mask.any():
            return []
        values = self.table.read_cell(request.field, cell)
        env, step = np.nonzero(mask)
        rows = values.reshape(-1, *values.shape[2:]).take(step * len(cell.envs) + env, axis=0)
        step += self.table.state.steps_of(cell.block)[cell.steps.start]
        index = self._owners(env + cell.envs.start, step)
        starts = np.flatnonzero(np.diff(index, prepend=-1)).tolist()
        spans = zip(starts, [*starts[1:], len(index)], strict=True)
        return [(int(index[a]), step[a:b], rows[a:b]) for a, b in spans]

    def _owners(self, env: Ints, step: Ints) -> Ints:
        """Index of the trajectory of each pair."""
        keys = env * self.table.state.committed_steps + step
        return np.asarray(np.searchsorted(self._keys, keys, side="right") - 1, np.int64)

    @cached_property
    def _keys(self) -> Ints:
        found = self.trajectories
        return found.env * self.table.state.committed_steps + found.first


class RowFormat:
    """A file format that holds one trajectory after the other; subclasses are its options."""

    #: Name of the format, and the endings of its files; a folder has none.
    name: ClassVar[str]
    endings: ClassVar[tuple[str, ...]] = ()

    def check(self, table: Table, fields: Sequence[Field]) -> None:
        """Refuse fields and options before anything is read or written.

        Raises:
            InputError: Naming the field that the format cannot hold.
            MissingDependencyError: The format's library is not installed.
        """

    def write(
        self, path: str, rows: TrajectoryRows, options: Options, about: dict[str, Any]
    ) -> Iterator[int]:
        """Write the file; yield the bytes of values after each part.

        Args:
            path: File or folder to write.
            rows: Rows of the fields.
            options: Options of the export.
            about: Provenance of the file, plain JSON.
        """
        raise NotImplementedError
