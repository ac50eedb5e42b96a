"""One pass over the valid pairs of a store, or over an even part of them, in bounded memory.

blocks ▶   ┌────┬────┬────┬────┐
envs ▼     │ ██ │    │ ██ │    │     A part: cells of one block and some environments, drawn
│    │ ██ │    │ ██ │     at random over the whole run, so that it is seen from
└────┴────┴────┴────┘     beginning to end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial, reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import thread_count, whole
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.terms import usable_terms
from mosaic_collect.stats.measures import FieldStatistics, StoreStatistics
from mosaic_collect.stats.moments import Moments
from mosaic_collect.stats.sample import Sample
from mosaic_collect.store.address import Address
from mosaic_collect.store.schema import TRAJECTORY_END, TRAJECTORY_ID, VALID_MASK
from mosaic_collect.store.view import StoreView

SAMPLE_ROWS = 10_000
_SAMPLE_NBYTES = 64 << 20
_KEPT = (VALID_MASK, TRAJECTORY_ID, TRAJECTORY_END)  # the writer's own


def store_statistics(
    path: Address | TrajectoryDataset,
    fields: Sequence[str] | None = None,
    max_pairs: int | None = None,
    progress: Callable[[int], object] | None = None,
    threads: int | None = None,
) -> StoreStatistics:
    """Measure fields of a store over its valid pairs, feature by feature.

    Args:
        path: The store, which may still be written to, or a dataset of it.
        fields: Their names; None: all but those that the writer keeps.
        max_pairs: Read an even part of about that many pairs, valid or not; None: all.
        progress: Told the pairs read since the last call.
        threads: That decode; default: the processors, at most 4.

    Raises:
        InputError: No such field, or a bad number.
        StoreNotFoundError: No store there, or one without a step's fields.
        CorruptStoreError: A damaged chunk.
    """
    begun = time.monotonic()
    dataset = path if isinstance(path, TrajectoryDataset) else TrajectoryDataset(path)
    schema = dataset.schema
    names = [n for n in dataset if n not in _KEPT] if fields is None else list(fields)
    scan = _Scan(dataset, [schema[name].name for name in names])
    cells = _cells(dataset.view, names, max_pairs)
    with ThreadPoolExecutor(thread_count(threads), "mosaic-stats") as pool:
        for cell in cells:
            scan.add(cell, pool)
            if progress is not None:
                progress(len(cell.steps) * len(cell.envs))
    return scan.close(time.monotonic() - begun)


def part_pairs(dataset: TrajectoryDataset, max_pairs: int | None) -> int:
    """How many pairs a pass will read, for a bar."""
    cells = _cells(dataset.view, list(dataset), max_pairs)
    return sum(len(cell.steps) * len(cell.envs) for cell in cells)


class _Cell(NamedTuple):
    """Steps of one block, and some environments."""

    block: int
    steps: range
    envs: range


def _cells(view: StoreView, names: Sequence[str], max_pairs: int | None) -> list[_Cell]:
    state, blocks = view.state, range(view.state.num_blocks)
    if max_pairs is None or whole(max_pairs, "max_pairs", 1) >= state.num_pairs:
        return [_Cell(b, state.steps_of(b), range(state.num_envs)) for b in blocks]
    # As wide as the widest chunk of rows with many values: narrower ones lie within, about.
    width = max(
        (view.grids[n].chunk_envs for n in names if view.grids[n].field.row_shape),
        default=state.num_envs,
    )
    columns = [range(e, min(e + width, state.num_envs)) for e in range(0, state.num_envs, width)]
    count = max(1, round(max_pairs / (state.block_steps * width)))
    drawn = np.random.default_rng(0).permutation(len(blocks) * len(columns))[:count]
    places = (divmod(int(cell), len(columns)) for cell in np.sort(drawn))
    return [_Cell(block, state.steps_of(block), columns[at]) for block, at in places]


class _Scan:
    """Gathers what the cells hold."""

    def __init__(self, dataset: TrajectoryDataset, names: list[str]) -> None:
        self._view, self._names = dataset.view, names
        self._terms = usable_terms(dataset.schema, dataset.metadata)
        fields = [dataset.schema[name] for name in names]
        row_nbytes = sum(f.row_nbytes for f in fields)
        size = max(1, min(SAMPLE_ROWS, _SAMPLE_NBYTES // max(row_nbytes, 1)))
        self._sample = Sample(size)
        self._moments = {f.name: Moments.nothing(_width(f.row_shape)) for f in fields}
        self._rows = {f.name: np.zeros((size, _width(f.row_shape)), f.dtype) for f in fields}
        self._num_read = 0

    def add(self, cell: _Cell, pool: ThreadPoolExecutor) -> None:
        """Read a cell of all fields."""
        mask = self._view.read(VALID_MASK, cell.steps, cell.envs, pool)
        steps, envs = np.nonzero(mask)
        entering, slots = self._sample.choose(len(steps), cell.block, cell.envs.start)
        at = _Entering(slots, steps[entering], envs[entering])
        for name in self._names:
            cuts = list(self._cuts(name, cell))
            parts = pool.map(partial(self._look, name, cell, mask, at), cuts)
            self._moments[name] = reduce(Moments.__add__, parts, self._moments[name])
        self._num_read += len(steps)

    def close(self, seconds: float) -> StoreStatistics:
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

    def _cuts(self, name: str, cell: _Cell) -> Iterator[range]:
        """The cell's environments, by the chunks that hold them."""
        for chunk in self._view.columns(name):
            envs = range(max(chunk.start, cell.envs.start), min(chunk.stop, cell.envs.stop))
            if envs:
                yield envs

    def _look(
        self, name: str, cell: _Cell, mask: NDArray[np.bool_], at: _Entering, envs: range
    ) -> Moments:
        """Moments of a chunk's valid rows; its rows that enter the sample are put there."""
        first = envs.start - cell.envs.start
        values = self._view.read(name, cell.steps, envs)
        rows = values.reshape(*values.shape[:2], -1)
        here = (at.envs >= first) & (at.envs < first + len(envs))
        self._rows[name][at.slots[here]] = rows[at.steps[here], at.envs[here] - first]
        valid = mask[:, first : first + len(envs)]
        return Moments.of(rows.reshape(-1, rows.shape[2]) if valid.all() else rows[valid])


class _Entering(NamedTuple):
    """Pairs of a cell that enter the sample: their slots, and where in the cell they are."""

    slots: NDArray[Any]
    steps: NDArray[Any]
    envs: NDArray[Any]


def _width(row_shape: tuple[int, ...]) -> int:
    return int(np.prod(row_shape, dtype=int))
