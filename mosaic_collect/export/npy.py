"""``export_npy``: a store, or several, as the single ``.npy`` dict that MOSAIC loads.

An export is decided before its first byte: ``plan_export`` opens the stores, chooses the pairs and
lays out the file; ``ExportPlan.write`` writes it, or nothing.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from mosaic_collect.errors import (
    CorruptStoreError,
    ExportError,
    IncompleteStoreError,
    InputError,
    NonFiniteError,
    StoreMismatchError,
)
from mosaic_collect.export.contents import (
    arrays_of,
    check_rows,
    file_metadata,
    notes_on,
)
from mosaic_collect.export.options import AUTO, LayoutName, Options
from mosaic_collect.export.stream import Progress, fill
from mosaic_collect.export.target import check_target, opened_target
from mosaic_collect.npyfile.layout import COMPACT, GRID, FilePlan, plan_file
from mosaic_collect.passes.engine import Engine
from mosaic_collect.reading.selection import (
    Left,
    Selection,
    Side,
    chosen_fields,
    every_pair,
    nonfinite_fields,
    select,
)
from mosaic_collect.reading.store_set import StoreSet, check_mergeable
from mosaic_collect.reading.table import Table
from mosaic_collect.store.metadata import COLLECTING, COMPLETE
from mosaic_collect.store.ranks import Addresses, Place
from mosaic_collect.store.schema import VALID_MASK, Field
from mosaic_collect.store.view import StoreView
from mosaic_collect.text import size_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportReport:
    """What was exported.

    Attributes:
        path: The file.
        layout: ``grid`` or ``compact``.
        num_pairs: Valid pairs in the file.
        shapes: Key -> shape.
        left_out: Pairs left out, by reason.
        file_nbytes: Size of the file; np.load needs about as much RAM.
        device_nbytes: Bytes that MOSAIC moves to the training device, on every rank.
        seconds: Duration of the export.
        notes: Facts that a reader of the file should know.
    """

    path: str
    layout: str
    num_pairs: int
    shapes: dict[str, tuple[int, ...]]
    left_out: Left
    file_nbytes: int
    device_nbytes: int
    seconds: float
    notes: tuple[str, ...]


def export_npy(
    store: Addresses,
    path: str | os.PathLike[str],
    layout: LayoutName = "auto",
    fields: Sequence[str] | None = None,
    max_pairs: int | None = None,
    seed: int = 0,
    *,
    allow_incomplete: bool = False,
    allow_nonfinite: bool = False,
    exclude_interrupted: bool = False,
    exclude_failed: bool = False,
    skip_damaged: bool = False,
    steps: slice | range | str | None = None,
    trajectories: Iterable[int] | None = None,
    motions: Sequence[str | int] | None = None,
    split: Side | None = None,
    validation_fraction: float = 0.1,
    split_seed: int = 0,
    allow_different: Sequence[str] = (),
    progress: Callable[[int], object] | None = None,
    engine: Engine | None = None,
) -> ExportReport:
    """Write a store's pairs as one ``.npy`` file, in bounded memory.

    After a return the file is whole and survives a power cut; after an error or a kill a file
    that had the name before is still there, untouched.

    Args:
        store: The store, or several that hold the same fields (a folder of ranks, a pattern, a
            list of these): their pairs follow one another in the order named. Their numbers of
            environments may differ. A trajectory id is raised by the number of ids that the stores
            before have used, so each stays unique; motion ids are numbered through the motions
            of all stores.
        path: The file, ``*.npy``; one of that name is replaced.
        layout: ``grid``: every pair, ``[T, N, D]``, with ``valid_mask`` if one was given or a
            pair is invalid. ``compact``: only valid, finite pairs, ``[M, 1, D]``, ordered by step,
            then environment. ``auto``: grid if every pair is valid and finite, else compact,
            because MOSAIC ignores the mask and would train on invalid rows. Several stores are
            compact unless a grid is asked for, in which their steps follow one another; it needs
            one number of environments in all.
        fields: Fields to export, ``trajectory_id`` among them; by default MOSAIC's (of a new store:
            all). Several stores must have these fields alike; their other fields may differ.
            MOSAIC's fields of several axes become flat rows, in C order; other fields keep their
            axes.
        max_pairs: Draw that many pairs uniformly, for a compact file.
        seed: Seed of the draw; with one seed, a larger draw contains the smaller.
        allow_incomplete: Export a store that is still collecting, or ranks of which one is missing.
        allow_nonfinite: Let a grid hold NaN or infinity.
        exclude_interrupted: Leave out trajectories that never ended.
        exclude_failed: Leave out trajectories that failed, such as by a fall, from their first row
            on. They are found in a separate pass over ``trajectory_end``, which takes 8 bytes of
            memory for each.
        skip_damaged: Leave out pairs whose bytes are damaged, instead of refusing.
        steps: Steps of every store to export: a slice, a range, or a text such as ``100:200``.
        trajectories: Values of ``trajectory_id`` to export, as a dataset of the stores numbers
            them.
        motions: Motions to export: names of their files, with or without ending, or ids.
        split: Side of a split by trajectory to export, ``train`` or ``validation``. A trajectory
            keeps its side when its store grows, is copied, or is read with others. None: both.
        validation_fraction: Expected fraction of the trajectories on the validation side.
        split_seed: Seed of the split; ``BatchLoader`` with the same one draws the same side.
        allow_different: Entries of the metadata that may differ between several stores:
            ``simulator``, ``task``, ``groups`` and ``terms`` (columns of observations, in their
            order), ``observations`` (their settings). The report notes the differences.
        progress: Told the bytes of arrays written since the last call.
        engine: Who reads and writes; None: threads here. A cluster's workers write into the one
            file, which lies, as the stores do, on storage that they share.

    Raises:
        InputError: A bad argument or target, one of MOSAIC's fields that holds images, or
            ``exclude_failed`` of a store that does not say how its trajectories ended.
        StoreNotFoundError, NewerFormatError, CorruptStoreError: A store is missing or cannot be
            read.
        StoreMismatchError: The stores' fields differ, or a grid's numbers of environments; or
            their origins, and that is not allowed.
        IncompleteStoreError: Still collecting, or a rank is missing.
        ExportError: No pair is left to export; NonFiniteError: NaN in a grid.
        SpaceError: Not enough disk; WriteError: The file cannot be written.
        ClusterError: The cluster cannot do the work.
    """
    options = Options(
        layout=layout,
        fields=fields,
        max_pairs=max_pairs,
        seed=seed,
        allow_incomplete=allow_incomplete,
        allow_nonfinite=allow_nonfinite,
        exclude_interrupted=exclude_interrupted,
        exclude_failed=exclude_failed,
        skip_damaged=skip_damaged,
        steps=steps,
        trajectories=trajectories,
        motions=motions,
        split=split,
        validation_fraction=validation_fraction,
        split_seed=split_seed,
        allow_different=allow_different,
    )
    check_target(path, ())  # before any store is read
    views, folders = open_stores(store, options)
    check_target(path, folders)  # before their rows are read
    with naming_skip_damaged(options):
        plan = decide(views, options, engine)
    return plan.write(path, progress, engine)


@dataclass(frozen=True)
class ExportPlan:
    """A decided export: what is to be written, and how to write it.

    Attributes:
        table: The stores.
        layout: ``grid`` or ``compact``.
        options: Options of the export.
        selection: Chosen pairs, in the file's order.
        left: Numbers of pairs left out.
        metadata: MOSAIC's dict, with ours under ``mosaic_collect``.
        file: Place of everything in the file.
    """

    table: Table
    layout: str
    options: Options
    selection: Selection
    left: Left
    metadata: dict[str, Any]
    file: FilePlan

    @property
    def arrays_nbytes(self) -> int:
        """Bytes of all arrays: what MOSAIC moves to the training device, on every rank."""
        return sum(spec.nbytes for spec in self.file.arrays.values())

    @property
    def num_valid(self) -> int:
        """Number of valid pairs in the file."""
        return _num_valid(self.table, self.layout, self.selection)

    @property
    def size_text(self) -> str:
        """What loading the file will take, in words."""
        size = size_of(self.arrays_nbytes)
        return (
            f"{self.selection.num_pairs:,} pairs, {self.layout}: {size} on disk, as much RAM "
            "for np.load, and as much on the training device of every rank"
        )

    def write(
        self,
        path: str | os.PathLike[str],
        progress: Progress | None = None,
        engine: Engine | None = None,
    ) -> ExportReport:
        """Write the file: whole under its name, or not there at all.

        Args:
            path: The file, ``*.npy``; one of that name is replaced.
            progress: Called with the bytes written since the last call, ``arrays_nbytes`` in all.
            engine: Writes; None: threads here.

        Raises:
            InputError: A name that is no place for the file.
            CorruptStoreError: A damaged chunk.
            SpaceError: Not enough disk; WriteError: The file cannot be written.
            ClusterError: The cluster cannot do the work.
        """
        start = time.monotonic()
        name = check_target(path, [part.address for part in self.table.parts])
        _log.info("%s", self.size_text)
        may_be_nonfinite = self.layout == GRID and self.options.allow_nonfinite
        with opened_target(name, self.file.nbytes) as target, naming_skip_damaged(self.options):
            fill(
                target,
                self.file,
                self.table,
                self.selection,
                check_finite=not may_be_nonfinite,
                progress=progress or (lambda nbytes: None),
                engine=engine,
            )
        return ExportReport(
            path=name,
            layout=self.layout,
            num_pairs=self.num_valid,
            shapes={name: spec.shape for name, spec in self.file.arrays.items()},
            left_out=self.left,
            file_nbytes=self.file.nbytes,
            device_nbytes=self.arrays_nbytes,
            seconds=time.monotonic() - start,
            notes=tuple(notes_on(self.table, self.layout, self.file.arrays)),
        )


def plan_export(stores: Addresses, options: Options, engine: Engine | None = None) -> ExportPlan:
    """Decide an export; its plan knows the file's size, and writes the file.

    Args:
        stores: The stores, as ``export_npy`` takes them; it raises the same errors.
        options: Pairs and fields to export, and their layout.
        engine: Reads what must be read for that; None: threads here.
    """
    views, _ = open_stores(stores, options)
    with naming_skip_damaged(options):
        return decide(views, options, engine)


def open_stores(stores: Addresses, options: Options) -> tuple[list[StoreView], list[str]]:
    """Read each root document once; return the snapshots, and folders closed to exports."""
    found = StoreSet.open(Place.of(stores, "store"))
    for store in found.stores:
        if store.view is None and not store.is_rank:
            _check_store(store.blobs.address, COLLECTING, 0, options)
    views = found.with_steps(options.allow_incomplete)
    Table(views).check_extent()
    return views, found.folders


def decide(
    views: Sequence[StoreView], options: Options, engine: Engine | None = None
) -> ExportPlan:
    """Decide an export of open stores, as ``plan_export``."""
    table, fields = join_stores(views, options)
    if options.layout == GRID and not table.has_one_width:
        widths = ", ".join(f"{p.address} has {p.state.num_envs}" for p in table.parts)
        raise StoreMismatchError(
            f"a grid of several stores needs one number of environments in all: {widths}; "
            "use layout='compact'"
        )
    check_rows(fields)
    layout, selection, left = choose(table, fields, options, engine)
    arrays = arrays_of(table, fields, layout, selection.num_pairs)
    num_valid = _num_valid(table, layout, selection)
    ours = {"layout": layout, "options": options.as_json(), "left_out": asdict(left)}
    metadata = file_metadata(table, arrays, num_valid, ours, options.metadata or {})
    file = plan_file(arrays, {"metadata": metadata})
    return ExportPlan(table, layout, options, selection, left, metadata, file)


def choose(
    table: Table, fields: Sequence[Field], options: Options, engine: Engine | None = None
) -> tuple[str, Selection, Left]:
    """Choose the layout and the pairs, and count the pairs left out; at least one must be left."""
    # Around damage every field is looked into anyway, and cannot be counted before.
    nonfinite = {} if options.skip_damaged else nonfinite_fields(table, fields, engine)
    layout: str = options.layout
    if layout == AUTO:  # the columns of a merged grid would be no environment's own time
        every = table.state.num_valid == table.state.num_pairs and not nonfinite
        layout = GRID if len(table.parts) == 1 and every and not options.excluding else COMPACT
    if layout == GRID and nonfinite and not options.allow_nonfinite:
        counts = ", ".join(f"{name}: {count} pairs" for name, count in nonfinite.items())
        raise NonFiniteError(
            f"a grid would hold NaN or infinity ({counts}), and MOSAIC's update crashes on it: "
            "use layout='compact', or allow_nonfinite=True"
        )
    if layout == COMPACT and VALID_MASK in (options.fields or ()):
        raise InputError("fields: a compact export holds no valid_mask, all its pairs are valid")
    if layout == GRID:
        selection, left = every_pair(table), Left()
    else:
        drawn = {"max_pairs": options.max_pairs, "seed": options.seed}
        selection, left = select(options.rules(table, fields, nonfinite, engine, **drawn), engine)
    if not selection.num_pairs:
        reasons = [f"{count} {name}" for name, count in asdict(left).items() if count]
        told = ", ".join(reasons) or "there is none"
        raise ExportError(f"{table.address}: no pair is left to export: {told}")
    return layout, selection, left


def _num_valid(table: Table, layout: str, selection: Selection) -> int:
    return table.state.num_valid if layout == GRID else selection.num_pairs


def join_stores(views: Sequence[StoreView], options: Options) -> tuple[Table, list[Field]]:
    """Join open stores that are alike to one table, and find the fields to export."""
    for view in views:
        state = view.state
        _check_store(view.address, state.status, state.committed_steps, options)
    names = options.fields
    if names is None:  # all that any store would export: they must be alike
        names = [f.name for v in views for f in chosen_fields(v.state.schema, None)]
    check_mergeable(views, names, options.allow_different)
    table = Table(views)
    return table, chosen_fields(table.state.schema, options.fields)


def _check_store(address: str, status: str, steps: int, options: Options) -> None:
    if status != COMPLETE and not options.allow_incomplete:
        raise IncompleteStoreError(
            f"{address} is still collecting ({steps} steps committed): finish "
            "it, or export what is there with allow_incomplete=True"
        )
    if not steps:
        raise ExportError(f"{address}: no committed step, nothing to export")


@contextmanager
def naming_skip_damaged(options: Options) -> Iterator[None]:
    """Name the way around damage in an error of damage, if it is not taken yet."""
    try:
        yield
    except CorruptStoreError as error:
        if options.skip_damaged:
            raise
        into = "the export" if options.layout == COMPACT else "a compact export"
        way = f"skip_damaged=True makes {into} without the pairs whose bytes are damaged"
        if options.exclude_failed or options.exclude_interrupted:
            way += ", if the ids and ends of the trajectories to leave out can be read"
        raise CorruptStoreError(f"{error}; {way}") from error
