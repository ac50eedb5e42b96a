"""One pass over the valid pairs of a store, or over an even part of them, in bounded memory.

blocks ▶   ┌────┬────┬────┬────┐
envs ▼     │ ██ │    │ ██ │    │     A part: regions of one block and some environments, drawn
           │    │ ██ │    │ ██ │     at random over the whole recording, so that it is seen from
           └────┴────┴────┴────┘     beginning to end.

Quantiles are those of a uniform sample of rows, whose size does not grow with their number. They
are exact while it contains all rows; beyond, their ranks are off by at most 1.7 % at 10,000 rows,
99 times of 100 (Dvoretzky, Kiefer and Wolfowitz), and by less in the tails. One sample of pairs
serves all fields, so that what belongs together stays together.

The same pass keeps what findings and charts need: values over time and per environment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby, product
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import whole
from mosaic_collect.look.statistics import FieldStatistics, Mask, StoreStatistics
from mosaic_collect.passes.engine import Cached, Engine
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.moments import Floats, Ints, Moments
from mosaic_collect.reading.table import Cell, Table
from mosaic_collect.reading.terms import column_names, usable_terms
from mosaic_collect.store.ranks import Addresses
from mosaic_collect.store.schema import TRAJECTORY_END, TRAJECTORY_ID, VALID_MASK

SAMPLE_ROWS = 10_000
_SAMPLE_NBYTES = 64 << 20
_CACHED_MASKS = 8
_WRITERS_OWN = (VALID_MASK, TRAJECTORY_ID, TRAJECTORY_END)
_EVERY = 8  # one row of so many is enough for a mean per environment
_WATCHED = 16  # features that show whether an environment stands still


def store_statistics(
    path: Addresses | TrajectoryDataset,
    fields: Sequence[str] | None = None,
    max_pairs: int | None = None,
    progress: Callable[[int], object] | None = None,
    threads: int | None = None,
    engine: Engine | None = None,
    over_time: bool = True,
) -> StoreStatistics:
    """Measure fields of a store over its valid pairs, feature by feature.

    Args:
        path: The store, which may still be written to, or a dataset of it.
        fields: Names of fields; None: all but those that the writer keeps itself.
        max_pairs: Read an even part of about that many pairs, valid or not; None: all.
        progress: Called with the number of pairs read since the last call.
        threads: Number of decoding threads; default: the processors, at most 4.
        engine: Engine that decodes instead of threads.
        over_time: Measure also over time and per environment, which findings and charts need.

    Raises:
        InputError: No such field, or a bad number.
        StoreNotFoundError: No store there, or one without a step's fields.
        CorruptStoreError: A damaged chunk.
        ClusterError: The engine's workers fail.
    """
    dataset = path if isinstance(path, TrajectoryDataset) else TrajectoryDataset(path)
    begun, table = time.monotonic(), dataset.view
    names = [n for n in dataset if n not in _WRITERS_OWN] if fields is None else list(fields)
    found = _nothing_read(dataset, names)
    if over_time:
        found.measure_over_time()
    regions, engine = _draw_regions(table, names, max_pairs), engine or Engine(threads)
    counts = _count_pairs(table, found, _each(table, regions), engine)
    _measure_pairs(table, found, counts, _each(table, regions), engine, progress)
    found.seconds = time.monotonic() - begun
    return found


def _nothing_read(dataset: TrajectoryDataset, names: Sequence[str]) -> StoreStatistics:
    """Statistics of fields before anything was read."""
    table, state = dataset.view, dataset.view.state
    terms = usable_terms(dataset.schema, dataset.metadata)
    return StoreStatistics(
        path=table.address,
        num_steps=state.committed_steps,
        num_envs=state.num_envs,
        num_valid=state.num_valid,
        fields={
            field.name: FieldStatistics(
                name=field.name,
                dtype=field.dtype,
                shape=field.row_shape,
                terms=terms.get(field.name, ()),
                names=tuple(column_names(table, field.name)),
                moments=Moments.nothing(field.width),
                sample=np.empty((0, field.width), field.dtype),
            )
            for field in (state.schema[name] for name in names)
        },
    )


def _count_pairs(
    table: Table, found: StoreStatistics, regions: Iterator[Cell], engine: Engine
) -> dict[Cell, int]:
    """The first pass, over the masks: the number of valid pairs per region."""
    counts: dict[Cell, int] = {}
    count_valid = partial(_count_valid, table, found.width)
    for region, valid, read in engine.map(count_valid, regions, table.require_seen):
        found.count(region, _first_step(table, region), valid=valid, read=read)
        counts[region] = int(valid.sum())
    return counts


def _measure_pairs(
    table: Table,
    found: StoreStatistics,
    counts: Mapping[Cell, int],
    regions: Iterator[Cell],
    engine: Engine,
    progress: Callable[[int], object] | None,
) -> None:
    """The second pass, over the values."""
    fields = found.fields.values()
    row_nbytes = sum(f.sample.itemsize * f.sample.shape[1] for f in fields)
    size = max(1, min(SAMPLE_ROWS, _SAMPLE_NBYTES // max(row_nbytes, 1)))
    for field in fields:
        num_rows = min(size, sum(counts.values()))
        field.sample = np.zeros((num_rows, field.sample.shape[1]), field.dtype)
    strides = {name: field.stride for name, field in found.fields.items()}
    read_region = Cached(partial(_read_region, table, draw_sample(counts, size)), _CACHED_MASKS)
    measure = partial(_measure, table, read_region, strides, found.watched, found.width)
    measured = engine.map(measure, _pieces(table, found.fields, regions), table.require_seen)
    for region, pieces in groupby(measured, key=lambda piece: piece[0]):
        first = _first_step(table, region)
        for _region, name, chunks in pieces:
            for cell, values, *compared in chunks:
                found.fields[name].add(cell, first // found.width, *values)
                found.count(cell, first, **dict(zip(("same", "compared"), compared, strict=False)))
        if progress is not None:
            progress(_num_pairs(region))


def part_pairs(dataset: TrajectoryDataset, max_pairs: int | None) -> int:
    """Number of pairs that a pass will read, for a progress bar."""
    regions = _draw_regions(dataset.view, list(dataset), max_pairs)
    return dataset.state.num_pairs if regions is None else sum(map(_num_pairs, regions))


def draw_sample(
    counts: Mapping[Cell, int], size: int, seed: int = 0
) -> dict[Cell, tuple[Ints, Ints]]:
    """Draw a uniform sample of ``size`` rows of regions, of all if there are fewer.

    Returns:
        Per region with rows in the sample: their places in it, and among the region's rows.
    """
    starts = np.cumsum([0, *counts.values()])
    rng, total = np.random.default_rng(seed), int(starts[-1])
    drawn = np.sort(rng.choice(total, min(size, total), replace=False, shuffle=False))
    cuts = np.searchsorted(drawn, starts)
    return {
        region: (np.arange(begin, end), drawn[begin:end] - start)
        for region, start, begin, end in zip(counts, starts, cuts, cuts[1:], strict=False)
        if begin < end
    }


def _each(table: Table, drawn: list[Cell] | None) -> Iterator[Cell]:
    """Drawn regions, or all blocks, none made before its turn: a state may claim any number."""
    return map(table.whole_block, range(table.state.num_blocks)) if drawn is None else iter(drawn)


def _draw_regions(table: Table, names: Sequence[str], max_pairs: int | None) -> list[Cell] | None:
    """Regions of a part of about ``max_pairs`` pairs; None: all blocks."""
    state = table.state
    if max_pairs is None or whole(max_pairs, "max_pairs", 1) >= state.num_pairs:
        return None
    # As wide as the widest chunk of rows with many values: narrower ones lie within, about.
    grids = [part.grids[name] for part in table.parts for name in names]
    widths = [grid.chunk_envs for grid in grids if grid.field.row_shape]
    width = max(widths, default=state.num_envs)
    starts = range(0, state.num_envs, width)
    count, most = round(max_pairs / (state.block_steps * width)), state.num_blocks * len(starts)
    drawn = np.random.default_rng(0).choice(
        most, min(max(1, count), most), replace=False, shuffle=False
    )
    found = []
    for block, column in (divmod(int(at), len(starts)) for at in np.sort(drawn)):
        steps, num_envs = table.shape(block)
        envs = range(starts[column], min(starts[column] + width, num_envs))
        if envs:
            found.append(Cell(block, range(steps), envs))
    return found


def _num_pairs(cell: Cell) -> int:
    return len(cell.steps) * len(cell.envs)


def _first_step(table: Table, cell: Cell) -> int:
    return table.state.steps_of(cell.block).start


def _count_valid(table: Table, width: int, region: Cell) -> tuple[Cell, Ints, Ints]:
    """Valid pairs, and all, of each environment of a region, in bins of ``width`` steps."""
    mask, first = table.read_cell(VALID_MASK, region), _first_step(table, region)
    valid, read = (_count_in_bins(m, first, width) for m in (mask, np.ones_like(mask)))
    return region, valid, read


def _count_in_bins(where: Mask, first_step: int, width: int) -> Ints:
    """Count true values, ``(steps, envs)``, in bins of ``width`` steps: ``(envs, bins)``."""
    starts = [0, *range(width - first_step % width, len(where), width)]
    return np.add.reduceat(where, starts, 0, np.int64).T


#: A cell of one field, in a region.
_Piece: TypeAlias = tuple[Cell, str, Cell]


def _pieces(table: Table, names: Iterable[str], regions: Iterator[Cell]) -> Iterator[_Piece]:
    for region, name in product(regions, names):
        for cell in table.cells_of(region.block, [name]):
            first = max(cell.envs.start, region.envs.start)
            envs = range(first, min(cell.envs.stop, region.envs.stop))
            if envs:
                yield region, name, cell._replace(envs=envs)


def _read_region(
    table: Table, chosen: Mapping[Cell, tuple[Ints, Ints]], region: Cell
) -> tuple[Mask, Ints]:
    """The mask of a region, and the places of its pairs in the sample, -1 for most."""
    mask = table.read_cell(VALID_MASK, region)
    slots = np.full(mask.shape, -1, np.int64)
    if region in chosen:
        drawn, pairs = chosen[region]
        slots.flat[np.flatnonzero(mask)[pairs]] = drawn
    return mask, slots


def _measure(
    table: Table,
    read_region: Callable[[Cell], tuple[Mask, Ints]],
    strides: Mapping[str, int],
    watched: str | None,
    width: int,
    piece: _Piece,
) -> tuple[Cell, str, list[Any]]:
    """Measure the chunks of a piece one by one.

    Found are per chunk its cell, what ``FieldStatistics.add`` takes, and the counts of rows that
    equal the one before, if the field is watched.
    """
    (region, name, whole), found = piece, []
    (mask, chosen), first = read_region(region), region.envs.start
    grid, first_step = table.part_of(whole.block).grids[name], _first_step(table, whole)
    chunks = _aligned(whole.steps, grid.chunk_steps), _aligned(whole.envs, grid.chunk_envs)
    for steps, envs in product(*chunks):
        cell = Cell(whole.block, steps, envs)
        rows = table.read_cell(name, cell).reshape(*cell.shape, -1)
        at = cell.at[0], slice(envs.start - first, envs.stop - first)
        valid, slots = mask[at], chosen[at]
        sample, stride = (slots[slots >= 0], rows[slots >= 0]), strides[name]
        of_envs = _sum_of_envs(rows[::_EVERY, :, ::stride], valid[::_EVERY]) if stride else None
        compared = _compare(rows, valid) if name == watched else ()
        counts = (_count_in_bins(where, first_step, width) for where in compared)
        found.append((cell, (Moments.of(rows, valid), sample, of_envs), *counts))
    return region, name, found


def _sum_of_envs(rows: NDArray[Any], valid: Mask) -> tuple[Ints, Floats]:
    """Number of rows per environment that are valid and finite, and their sums."""
    with np.errstate(over="ignore", invalid="ignore"):
        sums = rows.sum(axis=0, dtype=np.float64)
    if not (valid.all() and np.isfinite(sums).all()):
        values = rows.astype(np.float64)
        valid = valid & np.isfinite(values).all(axis=2)
        sums = np.where(valid[..., None], values, 0).sum(axis=0)
    return valid.sum(axis=0), sums


def _aligned(places: range, size: int) -> Iterator[range]:
    """Parts of a range, cut at multiples of a chunk's size."""
    for at in range(places.start - places.start % size, places.stop, size):
        yield range(max(at, places.start), min(at + size, places.stop))


def _compare(rows: NDArray[Any], valid: Mask) -> tuple[Mask, Mask]:
    """Masks of valid rows that equal the valid row before them, and of those that follow one."""
    watched = rows[:, :, :: max(1, rows.shape[2] // _WATCHED)]
    same, both = np.zeros((2, *valid.shape), np.bool_)
    both[1:] = valid[1:] & valid[:-1]
    same[1:] = both[1:] & (watched[1:] == watched[:-1]).all(axis=2)
    return same, both
