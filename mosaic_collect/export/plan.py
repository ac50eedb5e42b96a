"""``export``: a store, or several, in a format of other libraries.

An export is decided before its first byte: its options, its format, and the pairs that are chosen.

A format is an ``ExportFormat``: it says which arrays it writes, and writes them. The rest is the
same for all: filters, checks, the atomic file and the report.
"""

from __future__ import annotations

import logging
import operator
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields as dataclass_fields, replace
from functools import cached_property
from importlib import import_module
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from mosaic_collect.checks import is_whole, pythons
from mosaic_collect.errors import (
    CorruptStoreError,
    ExportError,
    IncompleteStoreError,
    InputError,
    NonFiniteError,
)
from mosaic_collect.export.rows import TrajectoryRows
from mosaic_collect.export.target import Target, check_target, opened_target
from mosaic_collect.npyfile.layout import COMPACT, GRID, OURS, FilePlan, StoredArray
from mosaic_collect.passes.engine import Engine
from mosaic_collect.reading.numbering import MOTION_ID
from mosaic_collect.reading.selection import (
    Left,
    Selection,
    chosen_fields,
    every_pair,
    nonfinite_fields,
    select,
)
from mosaic_collect.reading.store_set import StoreSet, check_mergeable
from mosaic_collect.reading.subset import SubsetOptions
from mosaic_collect.reading.table import Table
from mosaic_collect.store.metadata import COLLECTING, COMPLETE, StoreState
from mosaic_collect.store.ranks import Addresses, Place
from mosaic_collect.store.schema import TRAJECTORY_END, TRAJECTORY_ID, VALID_MASK, Field
from mosaic_collect.store.view import StoreView
from mosaic_collect.text import shown, size_of

Progress = Callable[[int], object]
NPY = "npy"
#: Per format the class in the module of its name, and the endings of its files; a folder has none.
FORMATS: dict[str, tuple[str, tuple[str, ...]]] = {
    NPY: ("Npy", (".npy",)),
    "hdf5": ("Hdf5", (".hdf5", ".h5")),
    "parquet": ("Parquet", (".parquet",)),
    "lerobot": ("LeRobot", ()),
}
#: Grid if every pair is valid and finite, else compact.
LayoutName = Literal["auto", "grid", "compact"]
LAYOUT_NAMES = get_args(LayoutName)
AUTO = LAYOUT_NAMES[0]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Options(SubsetOptions):
    """Arguments of ``export_npy``, which documents them, and one more.

    Attributes:
        metadata: Entries for the file's ``metadata``; they replace the export's own of one name.

    Raises:
        InputError: Names all bad values, and options that exclude each other.
    """

    layout: LayoutName = "auto"
    max_pairs: int | None = None
    seed: int = 0
    allow_nonfinite: bool = False
    metadata: Mapping[str, str | int | float | bool | None] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("seed", operator.index(self.seed))
        if self.max_pairs is not None:
            self._set("max_pairs", operator.index(self.max_pairs))
        if self.metadata is not None:
            self._set("metadata", {key: pythons(value) for key, value in self.metadata.items()})

    def as_json(self) -> dict[str, Any]:
        """The options as a file holds them: ``Options(**as_json)`` are the same."""
        told = super().as_json()
        metadata = told.pop("metadata")
        return told if metadata is None else {**told, "metadata": dict(metadata)}

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values, in words."""
        if self.layout not in LAYOUT_NAMES:
            *names, last = LAYOUT_NAMES
            yield self.wrong("layout", f"{', '.join(names)} or {last}")
        yield from super().problems()
        for name, least in (("max_pairs", 1), ("seed", 0)):
            value = getattr(self, name)
            if not is_whole(value, least) and not (name == "max_pairs" and value is None):
                yield self.wrong(name, f"a whole number from {least}")
        yield from _metadata_problems(self.metadata)
        if self.layout == GRID and self.excluding:
            asked = ", ".join(self.excluding)
            yield f"{asked}: a {self.layout} holds every pair; use layout='compact'"


def _metadata_problems(metadata: Any) -> Iterator[str]:
    """Require flat entries, so that a file's options cannot stand for more than its bytes."""
    if metadata is None:
        return
    if not isinstance(metadata, Mapping) or not all(isinstance(key, str) for key in metadata):
        yield f"metadata: expected entries with names, got {shown(metadata)}"
        return
    if OURS in metadata:
        yield f"metadata: {OURS} is what the export says of itself"
    plain = (str, int, float, type(None))
    wrong = [key for key, value in metadata.items() if not isinstance(pythons(value), plain)]
    if wrong:
        yield f"metadata: expected texts and numbers, got others for {shown(wrong)}"


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


class ExportFormat:
    """A file format; subclasses are its options. Most hold one trajectory after the other.

    Attributes:
        name: Name of the format, an entry of ``FORMATS``.
        by_trajectory: Whether the file holds valid pairs alone, trajectory by trajectory.
        load_text: Words on the memory that loading a file takes.
    """

    name: ClassVar[str]
    by_trajectory: ClassVar[bool] = True
    load_text: ClassVar[str] = ""

    def check(self, table: Table, fields: Sequence[Field], options: Options) -> None:
        """Refuse fields and options before any row is read.

        Raises:
            InputError: Naming the field that the format cannot hold.
            StoreMismatchError: The format cannot hold all stores in one file.
            MissingDependencyError: The format's library is not installed.
        """

    def lay_out(self, plan: ExportPlan) -> FilePlan:
        """Arrays to write, and the bytes to take from the disk; a library knows the places."""
        count, fields = plan.selection.num_pairs, plan.fields
        arrays = {
            f.name: StoredArray(0, count * f.row_nbytes, (count, *f.row_shape), np.dtype(f.dtype))
            for f in fields
        }
        return FilePlan((), arrays, sum(array.nbytes for array in arrays.values()))

    def write(self, target: Target, plan: ExportPlan, engine: Engine | None) -> Iterator[int]:
        """Write the file or folder; yield the bytes of values after each part."""
        raise NotImplementedError

    def notes(self, plan: ExportPlan) -> Iterator[str]:
        """Yield facts that a reader of the file should know, one sentence each."""
        yield f"{len(plan.rows.trajectories)} trajectories, one after the other"


@dataclass(frozen=True)
class ExportPlan:
    """A decided export: what is to be written, and how to write it.

    Attributes:
        form: Format of the file.
        table: The stores.
        fields: Fields to write.
        layout: ``grid``, ``compact``, or the name of a format of trajectories.
        options: Options of the export.
        selection: Chosen pairs, in the file's order.
        left: Numbers of pairs left out.
    """

    form: ExportFormat
    table: Table
    fields: Sequence[Field]
    layout: str
    options: Options
    selection: Selection
    left: Left

    @cached_property
    def file(self) -> FilePlan:
        """Arrays of the file; of a ``.npy`` the place of everything in it."""
        return self.form.lay_out(self)

    @cached_property
    def rows(self) -> TrajectoryRows:
        """The chosen rows, trajectory by trajectory; made by a pass over ids and ends."""
        return TrajectoryRows.of(self.table, self.selection, self.fields)

    @property
    def arrays_nbytes(self) -> int:
        """Bytes of all arrays; of a ``.npy`` what MOSAIC moves to the training device."""
        return sum(array.nbytes for array in self.file.arrays.values())

    @property
    def num_valid(self) -> int:
        """Number of valid pairs in the file."""
        return self.table.state.num_valid if self.layout == GRID else self.selection.num_pairs

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the file comes from, as it tells itself: options, pairs left out, stores.

        Several stores are told with their paths, and the new numbers of their ids.
        """
        told = {"options": self.options.as_json(), "left_out": asdict(self.left)}
        if len(self.table.parts) == 1:
            return {**told, **_describe_store(self.table.parts[0].state)}
        stores = [
            {
                "path": part.address,
                "first_trajectory_id": part.numbering.first_id,
                "motion_ids": list(part.numbering.motions),
                **_describe_store(part.state),
            }
            for part in self.table.parts
        ]
        return {**told, "stores": stores}

    @property
    def about(self) -> dict[str, Any]:
        """The provenance, and the fields as they were recorded."""
        told = [{"name": f.name, "dim": f.dim, "dtype": f.dtype} for f in self.fields]
        return {"fields": told, **self.provenance}

    @property
    def size_text(self) -> str:
        """The size of the file, and what loading it will take, in words."""
        pairs = f"{self.selection.num_pairs:,} pairs, {self.layout}"
        return f"{pairs}: {size_of(self.arrays_nbytes)} on disk{self.form.load_text}"

    def write(
        self,
        path: str | os.PathLike[str],
        progress: Progress | None = None,
        engine: Engine | None = None,
    ) -> ExportReport:
        """Write the file: whole under its name, or not there at all.

        Args:
            path: The file, with an ending of the format; one of that name is replaced.
            progress: Called with the bytes written since the last call, ``arrays_nbytes`` in all.
            engine: Writes a ``.npy``; None: threads here.

        Raises:
            InputError: A name that is no place for the file.
            CorruptStoreError: A damaged chunk.
            SpaceError: Not enough disk; WriteError: The file cannot be written.
            ClusterError: The cluster cannot do the work.
        """
        start, endings = time.monotonic(), FORMATS[self.form.name][1]
        name = check_target(path, [part.address for part in self.table.parts], endings)
        _log.info("%s", self.size_text)
        with naming_skip_damaged(self.options):
            notes = tuple(self.form.notes(self))
            with opened_target(name, self.file.nbytes, is_folder=not endings) as target:
                for nbytes in self.form.write(target, self, engine):
                    if progress is not None:
                        progress(nbytes)
        return ExportReport(
            path=name,
            layout=self.layout,
            num_pairs=self.num_valid,
            shapes={name: array.shape for name, array in self.file.arrays.items()},
            left_out=self.left,
            file_nbytes=_size(name),
            device_nbytes=self.arrays_nbytes,
            seconds=time.monotonic() - start,
            notes=notes,
        )


def _size(path: str) -> int:
    """Bytes of a file, or of all files of a folder."""
    if os.path.isfile(path):
        return os.path.getsize(path)
    return sum(os.path.getsize(os.path.join(d, n)) for d, _, names in os.walk(path) for n in names)


def plan_format(
    stores: Addresses,
    form: ExportFormat,
    options: Options,
    path: str | os.PathLike[str] | None = None,
    engine: Engine | None = None,
) -> ExportPlan:
    """Decide an export; a path of the file is checked before the stores and their rows are read."""
    if form.by_trajectory:
        if options.layout == GRID:
            words = "holds no grid, but one trajectory after the other"
            raise InputError(f"layout: {form.name} {words}")
        options = replace(options, layout="compact")
    endings = FORMATS[form.name][1]
    if path is not None:
        check_target(path, (), endings)
    views, folders = open_stores(stores, options)
    if path is not None:
        check_target(path, folders, endings)
    with naming_skip_damaged(options):
        return decide(views, form, options, engine)


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
    views: Sequence[StoreView],
    form: ExportFormat,
    options: Options,
    engine: Engine | None = None,
) -> ExportPlan:
    """Decide an export of open stores, as ``plan_format``."""
    table, fields = join_stores(views, options)
    form.check(table, fields, options)
    read = list(fields)
    if form.by_trajectory:  # where an id or an end is damaged, nobody knows whose the pair is
        known = (TRAJECTORY_ID, TRAJECTORY_END, MOTION_ID)
        more = (grid.field for name, grid in table.grids.items() if name in known)
        read += [field for field in more if field not in fields]
    layout, selection, left = choose(table, read, options, engine)
    layout = form.name if form.by_trajectory else layout
    return ExportPlan(form, table, fields, layout, options, selection, left)


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
        selection, left = select(options.rules(table, fields, nonfinite, engine), engine)
    if not selection.num_pairs:
        reasons = [f"{count} {name}" for name, count in asdict(left).items() if count]
        told = ", ".join(reasons) or "there is none"
        raise ExportError(f"{table.address}: no pair is left to export: {told}")
    return layout, selection, left


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


def _describe_store(state: StoreState) -> dict[str, Any]:
    return {
        "store_status": state.status,
        "store_steps": state.committed_steps,
        "store_envs": state.num_envs,
        "runs": [run.told() for run in state.runs],
        "metadata": state.metadata,
    }


def format_of(path: str, name: str | None = None) -> str:
    """Name of the format of a file.

    Raises:
        InputError: An unknown format, or no name and a file of unknown ending.
    """
    endings = {end: form for form, (_, ends) in FORMATS.items() for end in ends}
    found = name or next((form for end, form in endings.items() if path.endswith(end)), None)
    if found is None:
        known = ", ".join(endings)
        raise InputError(f"{path}: expected a name ending in {known}, or the format's name")
    if found not in FORMATS:
        *names, last = FORMATS
        raise InputError(f"format: expected {', '.join(names)} or {last}, got {shown(name)}")
    return found


def export(
    store: Addresses,
    path: str | os.PathLike[str],
    format: str | None = None,  # noqa: A002  the command line's name
    *,
    progress: Progress | None = None,
    **options: Any,
) -> ExportReport:
    """Write a store's pairs in a format of other libraries, in bounded memory.

    The target is atomic: after an error or a kill, what had its name before is still there.

    Args:
        store: The stores, as ``export_npy`` takes them.
        path: The file; one of that name is replaced. For LeRobot a new folder.
        format: ``npy``, ``hdf5``, ``parquet`` or ``lerobot``; None: by the ending of the path.
        progress: Called with the bytes written since the last call.
        options: Arguments of ``export_npy``; for LeRobot also ``fps``, ``state`` and ``video``.

    Raises:
        InputError: A bad argument or target, an unknown format or option, or a field that the
            format cannot hold.
        MissingDependencyError: The format's library is not installed.
        StoreError, ExportError, SpaceError, WriteError: The same errors as ``export_npy``.
    """
    name = format_of(os.fspath(path), format)
    # Imported when it is used.
    form = getattr(import_module(f"mosaic_collect.export.{name}"), FORMATS[name][0])
    taken = set(getattr(form, "__dataclass_fields__", ()))
    shared = {f.name for f in dataclass_fields(Options)}
    if unknown := set(options) - taken - shared:
        raise InputError(f"{', '.join(sorted(unknown))}: no option of an export to {name}")
    asked = Options(**{key: value for key, value in options.items() if key in shared})
    own = {key: value for key, value in options.items() if key in taken}
    return plan_format(store, form(**own), asked, path).write(path, progress)
