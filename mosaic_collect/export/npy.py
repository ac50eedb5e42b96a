"""``export_npy``: a store, or several, as the single ``.npy`` dict that MOSAIC loads."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from mosaic_collect.checks import thread_count
from mosaic_collect.dataset import TrajectoryDataset
from mosaic_collect.errors import MosaicCollectError, WriteError
from mosaic_collect.export.merging import check_distinct
from mosaic_collect.export.options import Options
from mosaic_collect.export.plan import ExportPlan, plan_export
from mosaic_collect.export.selection import Left
from mosaic_collect.export.stream import ArrayStream, pwrite_all
from mosaic_collect.export.target import Target, check_target
from mosaic_collect.schema import TRAJECTORY_ID
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
        device_nbytes: What MOSAIC moves to the training device, on every rank.
        seconds: It took.
        notes: What the reader of the file should know.
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
    store: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    layout: str = "auto",
    fields: Sequence[str] | None = None,
    max_pairs: int | None = None,
    seed: int = 0,
    *,
    allow_incomplete: bool = False,
    allow_nonfinite: bool = False,
    exclude_truncated: bool = False,
    exclude_failed: bool = False,
    skip_damaged: bool = False,
    progress: bool | None = None,
) -> ExportReport:
    """Write a store's pairs as one ``.npy`` file, in bounded memory.

    After a return the file is whole and survives a power cut; after an error or a kill a file
    that had the name before is still there, untouched.

    Args:
        store: The store, or several that hold the same fields: their pairs follow one another in
            the order named. Their numbers of environments may differ. A trajectory id is raised
            by the number of ids that the stores before have used, so each stays unique.
        path: The file, ``*.npy``; one of that name is replaced.
        layout: ``grid``: every pair, ``[T, N, D]``, with ``valid_mask`` if one was given or a
            pair is invalid. ``compact``: only valid, finite pairs, ``[M, 1, D]``, ordered by step,
            then environment. ``auto``: grid if every pair is valid and finite, else compact,
            because MOSAIC ignores the mask and would train on invalid rows. Several stores are
            compact unless a grid is asked for, in which their steps follow one another; it needs
            one number of environments in all.
        fields: Which to keep; None: MOSAIC's. Others, ``trajectory_id`` too, by name. Of several
            stores these must be alike in all; their other fields may differ.
        max_pairs: Draw that many pairs uniformly, for a compact file.
        seed: Of the draw; with one seed, a larger draw contains the smaller.
        allow_incomplete: Export a store that is still collecting.
        allow_nonfinite: Let a grid hold NaN or infinity.
        exclude_truncated: Leave out trajectories that never ended.
        exclude_failed: Leave out trajectories that failed, by a fall for one, from their first row
            on. They are found in a pass of its own over ``trajectory_end``; takes 8 bytes of memory
            each.
        skip_damaged: Leave out pairs whose bytes are damaged, instead of refusing.
        progress: Show a bar on stderr; None: if it is a terminal.

    Raises:
        InputError: A bad argument or target, or ``exclude_failed`` of a store that does not say how
            its trajectories ended.
        StoreNotFoundError, NewerFormatError, CorruptStoreError: Of a store.
        StoreMismatchError: The stores' fields differ, or a grid's numbers of environments.
        IncompleteStoreError: Still collecting.
        ExportError: No pair is left to export; NonFiniteError: NaN in a grid.
        SpaceError: Not enough disk; WriteError: The file cannot be written.
    """
    target, paths = os.fspath(path), store_paths(store)
    check_target(target, paths)
    options = Options(
        layout=layout,
        fields=fields,
        max_pairs=max_pairs,
        seed=seed,
        allow_incomplete=allow_incomplete,
        allow_nonfinite=allow_nonfinite,
        exclude_truncated=exclude_truncated,
        exclude_failed=exclude_failed,
        skip_damaged=skip_damaged,
    )
    return run_export(plan_export([TrajectoryDataset(p) for p in paths], options), target, progress)


def store_paths(store: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    """The paths of one store or several.

    Raises:
        InputError: None, or one of them twice.
    """
    several = [store] if isinstance(store, (str, os.PathLike)) else store
    paths = [os.fspath(path) for path in several]
    check_distinct(paths)
    return paths


def run_export(plan: ExportPlan, path: str, progress: bool | None = None) -> ExportReport:
    """Write a planned export; errors as ``export_npy``'s."""
    start = time.monotonic()
    _log.info("%s", size_text(plan))
    shown = sys.stderr.isatty() if progress is None else progress
    try:
        with (
            Target(path, plan.file.nbytes) as target,
            tqdm(
                total=plan.arrays_nbytes,
                unit="B",
                unit_scale=True,
                disable=not shown,
                desc="export",
            ) as bar,  # fmt: skip
        ):
            _write(plan, target.fd, bar)
    except MosaicCollectError:
        raise
    except OSError as error:
        raise WriteError(f"{path}: writing failed, nothing was left there: {error}") from error
    return _report(plan, path, time.monotonic() - start)


def size_text(plan: ExportPlan) -> str:
    """What loading the file will take, in words."""
    size = size_of(plan.arrays_nbytes)
    return (
        f"{plan.selection.num_pairs:,} pairs, {plan.layout}: {size} on disk, as much RAM for "
        "np.load, and as much on the training device of every rank"
    )


def _write(plan: ExportPlan, fd: int, bar: Any) -> None:
    for offset, data in plan.file.pieces:
        pwrite_all(fd, memoryview(data), offset)
    stream = ArrayStream(plan.source, plan.selection, fd, plan.check_finite, bar.update)
    with ThreadPoolExecutor(thread_count(), "mosaic-export") as pool:
        for name, spec in plan.arrays.items():
            stream.write(name, spec.dtype, plan.file.offsets[name], pool)


def _report(plan: ExportPlan, path: str, seconds: float) -> ExportReport:
    return ExportReport(
        path=path,
        layout=plan.layout,
        num_pairs=int(plan.metadata["num_steps"]),
        shapes={name: spec.shape for name, spec in plan.arrays.items()},
        left_out=plan.left,
        file_nbytes=plan.file.nbytes,
        device_nbytes=plan.arrays_nbytes,
        seconds=seconds,
        notes=tuple(_notes(plan)),
    )


def _notes(plan: ExportPlan) -> list[str]:
    source, notes = plan.source, _id_notes(plan)
    if plan.layout == "grid" and source.num_valid < source.num_pairs:
        notes.append("MOSAIC ignores valid_mask and trains on the invalid rows of this grid")
    missing = {"actions", "action_mean", "action_sigma"} - set(plan.arrays)
    if missing:
        notes.append(f"MOSAIC's loss also reads {', '.join(sorted(missing))}, left out here")
    if {"observations", "student_observations"} <= set(plan.arrays):
        notes.append("MOSAIC loads observations, but trains on student_observations only")
    if not {"observations", "student_observations"} & set(plan.arrays):
        notes.append("MOSAIC cannot train on it: no observations")
    return notes


def _id_notes(plan: ExportPlan) -> list[str]:
    """How far each store's trajectory ids were raised."""
    if TRAJECTORY_ID not in plan.arrays:
        return []
    return [
        f"trajectory_id: those of {part.path} are its own and {part.first_id} more, to be unique"
        for part in plan.source.parts[1:]
    ]
