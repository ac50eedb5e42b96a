"""One pass over the valid pairs of a store, or over an even part of them, in bounded memory.

blocks ▶   ┌────┬────┬────┬────┐
envs ▼     │ ██ │    │ ██ │    │     A part: cells of one block and some environments, drawn
│    │ ██ │    │ ██ │     at random over the whole run, so that it is seen from
└────┴────┴────┴────┘     beginning to end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import whole
from mosaic_collect.passes.engine import Cached, Engine, Threads
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.moments import Moments
from mosaic_collect.reading.terms import usable_terms
from mosaic_collect.stats.measures import FieldStatistics, StoreStatistics
from mosaic_collect.stats.sample import Sample
from mosaic_collect.store.address import Address
from mosaic_collect.store.metadata import StoreState
from mosaic_collect.store.schema import TRAJECTORY_END, TRAJECTORY_ID, VALID_MASK
from mosaic_collect.store.view import StoreView

SAMPLE_ROWS = 10_000
_SAMPLE_NBYTES = 64 << 20
_KEPT_MASKS, _PARTS = 8, 2
_KEPT = (VALID_MASK, TRAJECTORY_ID, TRAJECTORY_END)  # the writer's own


def store_statistics(
    path: Address | TrajectoryDataset,
    fields: Sequence[str] | None = None,
    max_pairs: int | None = None,
    progress: Callable[[int], object] | None = None,
    threads: int | None = None,
    engine: Engine | None = None,
) -> StoreStatistics:
    """Measure fields of a store over its valid pairs, feature by feature.

    Args:
        path: The store, which may still be written to, or a dataset of it.
        fields: Their names; None: all but those that the writer keeps.
        max_pairs: Read an even part of about that many pairs, valid or not; None: all.
        progress: Told the pairs read since the last call.
        threads: That decode; default: the processors, at most 4.
        engine: Who decodes in their stead.

    Raises:
        InputError: No such field, or a bad number.
        StoreNotFoundError: No store there, or one without a step's fields.
        CorruptStoreError: A damaged chunk.
        ClusterError: Of the engine.
    """
    begun = time.monotonic()
    dataset = path if isinstance(path, TrajectoryDataset) else TrajectoryDataset(path)
    schema = dataset.schema
    names = [n for n in dataset if n not in _KEPT] if fields is None else list(fields)
    scan = _Scan(dataset, [schema[name].name for name in names], max_pairs)
    scan.run(engine or Threads(threads), progress or (lambda pairs: None))
    return scan.report(time.monotonic() - begun)


def part_pairs(dataset: TrajectoryDataset, max_pairs: int | None) -> int:
    """How many pairs a pass will read, for a bar."""
    state = dataset.state
    if max_pairs is None or max_pairs >= state.num_pairs:
        return state.num_pairs
    return sum(cell.num_pairs for cell in _cells(dataset.view, list(dataset), max_pairs))


class _Cell(NamedTuple):
    """Steps of one block, and some environments."""

    block: int
    steps: range
    envs: range

    @property
    def num_pairs(self) -> int:
        """Valid or not."""
        return len(self.steps) * len(self.envs)


class _Blocks(Sequence[_Cell]):
    """All blocks as cells, none of which is made before its turn: a state may claim any number."""

    def __init__(self, state: StoreState) -> None:
        self._state = state

    def __len__(self) -> int:
        return self._state.num_blocks

    def __getitem__(self, block: Any) -> Any:
        if isinstance(block, slice):
            return [self[one] for one in range(*block.indices(len(self)))]
        if block >= len(self):
            raise IndexError(block)
        return _Cell(block, self._state.steps_of(block), range(self._state.num_envs))


def _cells(view: StoreView, names: Sequence[str], max_pairs: int | None) -> Sequence[_Cell]:
    state = view.state
    if max_pairs is None or whole(max_pairs, "max_pairs", 1) >= state.num_pairs:
        return _Blocks(state)
    # As wide as the widest chunk of rows with many values: narrower ones lie within, about.
    width = max(
        (view.grids[n].chunk_envs for n in names if view.grids[n].field.row_shape),
        default=state.num_envs,
    )
    columns = [range(e, min(e + width, state.num_envs)) for e in range(0, state.num_envs, width)]
    count = max(1, round(max_pairs / (state.block_steps * width)))
    most = state.num_blocks * len(columns)
    drawn = np.random.default_rng(0).choice(most, min(count, most), replace=False, shuffle=False)
    places = (divmod(int(cell), len(columns)) for cell in np.sort(drawn))
    return [_Cell(block, state.steps_of(block), columns[at]) for block, at in places]


class _Scan:
    """Gathers what the cells hold."""

    def __init__(self, dataset: TrajectoryDataset, names: list[str], max_pairs: int | None) -> None:
        self._view, self._names = dataset.view, names
        self._cells = _cells(dataset.view, names, max_pairs)
        self._terms = usable_terms(dataset.schema, dataset.metadata)
        fields = [dataset.schema[name] for name in names]
        row_nbytes = sum(f.row_nbytes for f in fields)
        size = max(1, min(SAMPLE_ROWS, _SAMPLE_NBYTES // max(row_nbytes, 1)))
        self._sample = Sample(size)
        self._moments = {f.name: Moments.nothing(f.width) for f in fields}
        self._rows = {f.name: np.zeros((size, f.width), f.dtype) for f in fields}
        self._num_read = 0

    def run(self, engine: Engine, progress: Callable[[int], object]) -> None:
        """Draw the sample, knowing how many pairs are valid, then look at everything once."""
        look = _Look(self._view, self._names, self._cells, self._draw(engine))
        found = engine.map(look, look.pieces, self._view.require_seen)
        for piece, (moments, slots, rows) in zip(look.pieces, found, strict=True):
            at, name, _ = look.place(piece)
            if moments is not None:
                self._moments[name] += moments
                self._rows[name][slots] = rows
            if (piece + 1) % look.pieces_of_cell == 0:
                progress(self._cells[at].num_pairs)

    def _draw(self, engine: Engine) -> dict[int, _Entering]:
        """Per cell that has any: its pairs that are in the sample in the end."""
        owners, pairs = np.full((2, len(self._sample.filled)), -1, np.int64)
        counts = engine.map(partial(_num_valid, self._view), self._cells, self._view.require_seen)
        for at, count in enumerate(counts):
            cell = self._cells[at]
            entering, slots = self._sample.choose(count, cell.block, cell.envs.start)
            owners[slots], pairs[slots] = at, entering
            self._num_read += count
        order = np.argsort(owners, kind="stable")
        cells, firsts = np.unique(owners[order], return_index=True)
        slots_of = zip(cells.tolist(), np.split(order, firsts[1:]), strict=True)
        return {at: _Entering(slots, pairs[slots]) for at, slots in slots_of if at >= 0}

    def report(self, seconds: float) -> StoreStatistics:
        """What was found."""
        state, filled = self._view.state, self._sample.filled
        fields = {name: state.schema[name] for name in self._names}
        return StoreStatistics(
            path=self._view.address,
            num_steps=state.committed_steps,
            num_envs=state.num_envs,
            num_valid=state.num_valid,
            num_read=self._num_read,
            seconds=seconds,
            fields={
                name: FieldStatistics(
                    name=name,
                    dtype=field.dtype,
                    shape=field.row_shape,
                    terms=self._terms.get(name, ()),
                    moments=self._moments[name],
                    sample=self._rows[name][filled],
                )
                for name, field in fields.items()
            },
        )


class _Entering(NamedTuple):
    """Pairs of a cell that are in the sample: their slots, and which of its valid pairs."""

    slots: NDArray[np.int64]
    pairs: NDArray[np.int64]


def _mask(view: StoreView, cell: _Cell) -> NDArray[np.bool_]:
    return view.read(VALID_MASK, cell.steps, cell.envs)


def _num_valid(view: StoreView, cell: _Cell) -> int:
    return int(np.count_nonzero(_mask(view, cell)))


class _Look:
    """Looks at a piece: half of a cell's chunks of one field; pickles."""

    def __init__(
        self,
        view: StoreView,
        names: list[str],
        cells: Sequence[_Cell],
        entering: Mapping[int, _Entering],
    ) -> None:
        self._view, self._names, self._cells, self._entering = view, names, cells, entering
        self._mask = Cached(partial(_mask, view), _KEPT_MASKS)
        self.pieces_of_cell = len(names) * _PARTS
        self.pieces = range(len(cells) * self.pieces_of_cell)

    def place(self, piece: int) -> tuple[int, str, int]:
        """Which cell, field and part."""
        at, inside = divmod(piece, self.pieces_of_cell)
        field, part = divmod(inside, _PARTS)
        return at, self._names[field], part

    def __call__(self, piece: int) -> _Found:
        """Look at it."""
        at, name, part = self.place(piece)
        cell = self._cells[at]
        found = [
            self._look(name, cell, self._mask(cell), self._entering.get(at), envs)
            for envs in self._cuts(name, cell, part)
        ]
        if not found:
            return _Found()
        moments, slots, rows = zip(*found, strict=True)
        return _Found(reduce(Moments.__add__, moments), np.concatenate(slots), np.concatenate(rows))

    def _cuts(self, name: str, cell: _Cell, part: int) -> Iterator[range]:
        """The part's environments, by the chunks that hold them."""
        columns = self._view.columns(name)
        first, stop = (len(columns) * p // _PARTS for p in (part, part + 1))
        for chunk in columns[first:stop]:
            envs = range(max(chunk.start, cell.envs.start), min(chunk.stop, cell.envs.stop))
            if envs:
                yield envs

    def _look(
        self,
        name: str,
        cell: _Cell,
        mask: NDArray[np.bool_],
        entering: _Entering | None,
        envs: range,
    ) -> _Found:
        """At a chunk's valid rows."""
        first = envs.start - cell.envs.start
        values = self._view.read(name, cell.steps, envs)
        rows = values.reshape(*values.shape[:2], -1)
        valid = mask[:, first : first + len(envs)]
        moments = Moments.of(rows.reshape(-1, rows.shape[2]) if valid.all() else rows[valid])
        if entering is None:
            return _Found(moments, np.empty(0, np.int64), rows[0, :0])
        steps, columns = np.divmod(np.flatnonzero(mask)[entering.pairs], len(cell.envs))
        here = (columns >= first) & (columns < first + len(envs))
        return _Found(moments, entering.slots[here], rows[steps[here], columns[here] - first])


class _Found(NamedTuple):
    """What a piece holds: its valid rows' moments, and those rows that are in the sample.

    A field of one chunk has a piece that holds nothing.
    """

    moments: Moments | None = None
    slots: NDArray[np.int64] | None = None
    rows: NDArray[Any] | None = None
