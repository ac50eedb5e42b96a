"""``export_npy``: a store, or several, as the single ``.npy`` dict that MOSAIC loads.

An export is decided before its first byte: ``plan_export`` opens the stores, chooses the pairs and
lays out the file; ``ExportPlan.write`` writes it, or nothing.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from mosaic_collect.errors import (
    CorruptStoreError,
    ExportError,
    IncompleteStoreError,
    MosaicCollectError,
    WriteError,
)
from mosaic_collect.export.layouts import (
    LAYOUTS,
    Compact,
    automatic_layout,
    check_rows,
    is_flattened,
)
from mosaic_collect.export.options import AUTO, LayoutName, Options
from mosaic_collect.export.stream import Progress, fill
from mosaic_collect.export.target import Target, check_target
from mosaic_collect.npyfile.layout import AXES, COMPACT, OURS, FilePlan, plan_file
from mosaic_collect.passes.engine import Engine
from mosaic_collect.reading.numbering import MOTION_ID
from mosaic_collect.reading.selection import (
    Left,
    Selection,
    Side,
    chosen_fields,
    every_pair,
    nonfinite_fields,
    select,
)
from mosaic_collect.reading.store_set import StoreSet, alike_notes, check_mergeable
from mosaic_collect.reading.table import Table
from mosaic_collect.store.metadata import COLLECTING, COMPLETE, StoreState
from mosaic_collect.store.ranks import Addresses, Place
from mosaic_collect.store.schema import TRAJECTORY_ID, VALID_MASK, Field
from mosaic_collect.store.view import StoreView
from mosaic_collect.text import reason, size_of

_log = logging.getLogger(__name__)
#: Entries of a store's metadata under "acting" whose presence means that actions were perturbed.
_PERTURBING = {"action_noise", "act_by"}


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
        layout: How the pairs lie.
        options: Options of the export.
        selection: Chosen pairs, in the file's order.
        left: Numbers of pairs left out.
        metadata: MOSAIC's dict, with ours under ``mosaic_collect``.
        file: Place of everything in the file.
    """

    table: Table
    layout: Compact
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
            f"{self.selection.num_pairs:,} pairs, {self.layout.name}: {size} on disk, as much RAM "
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
        may_be_nonfinite = self.layout.holds_every_pair and self.options.allow_nonfinite
        try:
            with Target(name, self.file.nbytes) as target, naming_skip_damaged(self.options):
                fill(
                    target,
                    self.file,
                    self.table,
                    self.selection,
                    check_finite=not may_be_nonfinite,
                    progress=progress or (lambda nbytes: None),
                    engine=engine,
                )
        except MosaicCollectError:
            raise
        except OSError as error:
            raise WriteError(
                f"{name}: writing failed, nothing was left there: {reason(error)}"
            ) from error
        return ExportReport(
            path=name,
            layout=self.layout.name,
            num_pairs=self.num_valid,
            shapes={name: spec.shape for name, spec in self.file.arrays.items()},
            left_out=self.left,
            file_nbytes=self.file.nbytes,
            device_nbytes=self.arrays_nbytes,
            seconds=time.monotonic() - start,
            notes=tuple(_notes(self.table, self.layout, self.file.arrays)),
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
    if options.layout != AUTO:
        LAYOUTS[options.layout].check_stores(table)
    check_rows(fields)
    layout, selection, left = choose(table, fields, options, engine)
    arrays = layout.arrays(table, fields, selection.num_pairs)
    num_valid = _num_valid(table, layout, selection)
    ours = {"layout": layout.name, "options": options.as_json(), "left_out": asdict(left)}
    metadata = _metadata(table, arrays, num_valid, ours, options.metadata or {})
    file = plan_file(arrays, {"metadata": metadata})
    return ExportPlan(table, layout, options, selection, left, metadata, file)


def choose(
    table: Table, fields: Sequence[Field], options: Options, engine: Engine | None = None
) -> tuple[Compact, Selection, Left]:
    """Choose the layout and the pairs, and count the pairs left out; at least one must be left."""
    # Around damage every field is looked into anyway, and cannot be counted before.
    nonfinite = {} if options.skip_damaged else nonfinite_fields(table, fields, engine)
    excludes = bool(options.excluding)
    layout = LAYOUTS.get(options.layout) or automatic_layout(table, nonfinite, excludes)
    layout.check_fields(options.fields or (), nonfinite, options.allow_nonfinite)
    if layout.holds_every_pair:
        selection, left = every_pair(table), Left()
    else:
        drawn = {"max_pairs": options.max_pairs, "seed": options.seed}
        selection, left = select(options.rules(table, fields, nonfinite, engine, **drawn), engine)
    if not selection.num_pairs:
        reasons = [f"{count} {name}" for name, count in asdict(left).items() if count]
        told = ", ".join(reasons) or "there is none"
        raise ExportError(f"{table.address}: no pair is left to export: {told}")
    return layout, selection, left


def _num_valid(table: Table, layout: Compact, selection: Selection) -> int:
    return table.state.num_valid if layout.holds_every_pair else selection.num_pairs


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


# -- the file's metadata -----------------------------------------------------------------------


def _metadata(
    table: Table,
    arrays: Collection[str],
    num_valid: int,
    ours: dict[str, Any],
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """MOSAIC's ``metadata``, and the export's provenance in it."""
    fields = table.state.schema.fields
    widths = {f.name: None if f.dim is None else f.width for f in fields}
    axes = {f.name: list(f.row_shape) for f in fields if f.name in arrays and is_flattened(f)}
    return {
        "num_trajectories": table.state.num_trajectories,
        "num_steps": num_valid,
        "obs_dim_dict": {n: width for n, width in widths.items() if n.endswith("observations")},
        "action_dim": widths.get("actions"),
        "has_valid_mask": VALID_MASK in arrays,
        **more,
        OURS: {**ours, **describe_stores(table), **({AXES: axes} if axes else {})},
    }


def describe_stores(table: Table) -> dict[str, Any]:
    """Describe the stores; of several also their paths, and the new numbers of their ids."""
    if len(table.parts) == 1:
        return _store(table.parts[0].state)
    stores = [
        {
            "path": part.address,
            "first_trajectory_id": numbering.first_id,
            "motion_ids": list(numbering.motions),
            **_store(part.state),
        }
        for part, numbering in zip(table.parts, table.numberings, strict=True)
    ]
    return {"stores": stores}


def _store(state: StoreState) -> dict[str, Any]:
    return {
        "store_status": state.status,
        "store_steps": state.committed_steps,
        "store_envs": state.num_envs,
        "runs": [run.told() for run in state.runs],
        "metadata": state.metadata,
    }


# -- notes -------------------------------------------------------------------------------------


def _notes(table: Table, layout: Compact, names: Collection[str]) -> Iterator[str]:
    """What the reader of a file with these arrays should know, one sentence each."""
    yield from alike_notes({p.address: p.state.metadata for p in table.parts})
    if len(table.parts) > 1:
        yield from _notes_of_ids(table, names)
    yield from layout.notes(table)
    for field in filter(is_flattened, table.state.schema.fields):
        if field.name in names:
            yield f"{field.name}: its axes {field.dim} became one of {field.width}, in C order"
    missing = {"actions", "action_mean", "action_sigma"} - set(names)
    if missing:
        yield f"MOSAIC's loss also reads {', '.join(sorted(missing))}, left out here"
    yield from _notes_of_labels(table, names)
    if {"observations", "student_observations"} <= set(names):
        yield "MOSAIC loads observations, but trains on student_observations only"
    if not {"observations", "student_observations"} & set(names):
        yield "MOSAIC cannot train on it: no observations"


def _notes_of_ids(table: Table, names: Collection[str]) -> Iterator[str]:
    """Note how the ids of several stores became unique."""
    numbered = [(p.address, n) for p, n in zip(table.parts, table.numberings, strict=True)]
    if TRAJECTORY_ID in names:
        for address, numbering in numbered[1:]:
            raised = f"its own and {numbering.first_id} more, to be unique"
            yield f"{TRAJECTORY_ID}: those of {address} are {raised}"
    if MOTION_ID not in names:
        return
    if any(numbering.changes(MOTION_ID) for numbering in table.numberings):
        yield (
            f"{MOTION_ID}: numbered through {table.numberings[0].num_motions} motions of all "
            "stores; the file's metadata hold the new ids of each store under motion_ids"
        )
    unnamed = [address for address, numbering in numbered if not numbering.motions]
    if unnamed:
        yield (
            f"{MOTION_ID}: the metadata of {', '.join(unnamed)} name no motions, so one id of "
            "theirs may mean several motions"
        )


def _notes_of_labels(table: Table, names: Collection[str]) -> Iterator[str]:
    """Note which labels a trainer gets, if ``actions`` were perturbed."""
    told = (part.state.metadata.get("acting") for part in table.parts)
    disturbed = any(isinstance(acting, dict) and _PERTURBING & set(acting) for acting in told)
    if "actions" not in names or not disturbed:
        return
    if "action_mean" in names:
        yield "MOSAIC learns from action_mean; actions are what was executed, disturbed on purpose"
    else:
        yield (
            "WARNING: the labels left are actions, which were disturbed on purpose, and MOSAIC "
            "would learn the disturbance: export action_mean, too"
        )
