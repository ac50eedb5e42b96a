"""Commands that make one thing of another: ``export``, ``store``, ``import`` and ``copy``."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any

from mosaic_collect.checks import local_path
from mosaic_collect.commands.options import ARGUMENT
from mosaic_collect.commands.shared import (
    ENGINE,
    Json,
    Paths,
    add_resume,
    answer,
    bar,
    engine_of,
    engine_options,
    resumable,
    store_stem,
)
from mosaic_collect.errors import InputError
from mosaic_collect.export import ExportReport, Options, export_npy, plan_export
from mosaic_collect.export.plan import FORMATS, NPY, export, format_of
from mosaic_collect.export.store import export_store
from mosaic_collect.export.target import check_target
from mosaic_collect.importing import import_file, import_npy
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.store_set import ALIKE
from mosaic_collect.reading.verify import verify_store
from mosaic_collect.recording.signals import termination_as_exit
from mosaic_collect.store.codec import COMPRESSORS
from mosaic_collect.store.copying import copy_store
from mosaic_collect.store.ranks import addresses_of
from mosaic_collect.store.view import Resume
from mosaic_collect.text import pace_of

#: Parameters of exports and imports that are no options, or are the command's own.
_OWN = ("store", "stores", "npy", "path", "metadata", "resume", "progress", "engine", "subset")
#: The options that choose a subset.
_SUBSET: dict[str, Any] = {
    "of": export_npy,
    "but": _OWN,
    "more": {
        "steps": {"metavar": "START:STOP"},
        "trajectories": {"metavar": "ID"},
        "allow_different": {"metavar": "NAME", "choices": ALIKE},
    },
}
#: The options of a new store's writer.
_WRITER = {
    "but": _OWN,
    "group": "tuning",
    "more": {"compressor": {"choices": COMPRESSORS, "metavar": None}},
}


def run_export(
    paths: Paths,
    *,
    format: Annotated[str | None, {"choices": FORMATS, "metavar": None}] = None,  # noqa: A002  as of export
    fps: float | None = None,
    state: Annotated[str | None, {"metavar": "FIELD"}] = None,
    video: bool = False,
    json: Json = False,
    **options: Annotated[Any, ENGINE, _SUBSET],
) -> None:
    """Write a store, or several as one, in a format that other libraries read.

    .npy is the dict that MOSAIC loads, .hdf5 or .h5 the layout of robomimic and Isaac Lab, .parquet
    a table of one row per pair; LeRobot's dataset is a folder. Memory is bounded.

    Args:
        paths: Store, or several with the same fields, followed by the file to write. With one store
            the file may be left out: an .npy file goes next to the store, by its name.
        format: Format of the file (default: by the ending of its name).
        fps: Steps per second of a LeRobot dataset (default: the store's control rate).
        state: Field that a LeRobot dataset names observation.state (default: observations).
        video: Encode color images of a LeRobot dataset as videos, which are small and lossy.

    Example:
        mosaic-collect export expert.zarr expert.npy
            --fields student_observations actions action_mean action_sigma
    """
    names, path = _stores_and_target(paths)
    processes = engine_options(options)
    own = {"fps": fps, "state": state, "video": video or None}
    own = {name: value for name, value in own.items() if value is not None}
    form = format_of(path, format)
    if own or form != NPY:
        if processes:
            raise InputError(f"{form} has one writer: expected no scheduler or workers")
        with bar("export", leave=True) as progress:
            report = export(names, path, format, progress=progress.update, **options, **own)
    else:
        asked, path = Options(**options), check_target(path, addresses_of(names))
        with engine_of(**processes) as engine:
            plan = plan_export(names, asked, engine)
            if not json:
                print(plan.size_text, flush=True)
            with bar("export", total=plan.arrays_nbytes, leave=True) as progress:
                report = plan.write(path, progress.update, engine)
    answer(json, report, *_export_lines(report))


def _stores_and_target(paths: Sequence[str]) -> tuple[list[str], str]:
    """The last path is the file, unless it is the only one."""
    *stores, last = paths
    if stores:
        return stores, last
    if last.endswith(".npy"):
        raise InputError(f"{last}: expected a store before the file's name, got none")
    if glob.has_magic(last) and not os.path.lexists(last):
        raise InputError(f"{last}: expected the file's name behind a pattern, got none")
    # Beside the store, by its name.
    return [last], f"{store_stem([last])}.npy"


def _export_lines(report: ExportReport) -> Iterator[str]:
    left = {k: v for k, v in asdict(report.left_out).items() if v}
    reasons = ", ".join(f"{v:,} {k.replace('_', ' ')}" for k, v in left.items())
    pace = pace_of(report.file_nbytes, report.seconds)
    yield f"{report.path}: {report.num_pairs:,} valid pairs, {report.layout}, {pace}"
    yield f"left out: {reasons or 'nothing'}"
    yield from (f"note: {note}" for note in report.notes)


def run_store(
    paths: Paths,
    *,
    json: Json = False,
    **options: Annotated[
        Any,
        {**_SUBSET, "but": (*_OWN, "layout", "allow_nonfinite")},
        {**_WRITER, "of": export_store},
    ],
) -> None:
    """Write a subset of a store, or of several, as one new store; also merges and recompresses.

    Each trajectory stays whole and in its order. The new store has trajectory ids of its own. It
    keeps metadata, masks and ends. Use "copy" to move a store to another place as it is.

    Args:
        paths: Store, or several with the same fields, followed by the new store.

    Example:
        mosaic-collect store ranks/ good.zarr --exclude-failed
    """
    *names, target = paths
    if not names:
        raise InputError(f"{target}: expected a store before the new store's name, got none")
    with termination_as_exit(), bar("store", leave=True) as progress:
        report = export_store(names, target, progress=progress.update, **options)
    answer(json, report, *_export_lines(report))


def run_import(
    path: Annotated[str, ARGUMENT, {"metavar": "FILE"}],
    store: Annotated[str, ARGUMENT],
    *,
    resume: Annotated[Resume, {"add": add_resume}] = False,
    json: Json = False,
    **writer: Annotated[Any, {**_WRITER, "of": import_npy}],
) -> None:
    """Make a store of a file of MOSAIC's own collector, of an export, or of another recorder.

    .npy is MOSAIC's dict, .hdf5 or .h5 robomimic's layout, .parquet a table of one row per pair.
    The file is neither unpickled nor loaded whole.

    Args:
        path: The file.
        store: The store to make, a folder or a URL.
        resume: Continue an interrupted run of the same command.

    Example:
        mosaic-collect import expert.npy expert.zarr
    """
    total = 2 * os.path.getsize(local_path(path, "path"))
    with resumable(store), bar("import", total=total, leave=True) as progress:
        report = import_file(path, store, resume=resume, progress=progress.update, **writer)
    steps = f"{report.num_steps:,} steps x {report.num_envs:,} envs"
    pairs = f"{report.num_valid:,} valid pairs, {report.num_trajectories:,} ended trajectories"
    answer(
        json,
        report,
        f"{report.store}: {steps}, {pairs}, from {pace_of(report.file_nbytes, report.seconds)}",
        f"fields: {', '.join(report.shapes)}",
        *(f"note: {note}" for note in report.notes),
    )


def run_copy(
    source: Annotated[str, ARGUMENT],
    target: Annotated[str, ARGUMENT],
    *,
    threads: int | None = None,
    verify: bool = False,
    json: Json = False,
) -> bool:
    """Copy a store or a multi-rank dataset between folders and object storage.

    Checksums are checked on the way, and the root document is written last. The same command
    continues an interrupted copy, and updates an older one.

    Args:
        source: Store, or multi-rank dataset.
        target: Path or URL of the copy: nothing is there, or an earlier copy of the same store.
        threads: Number of copying threads (default: the processors, at most 4).
        verify: Read the copy back and check all of it.

    Example:
        mosaic-collect copy expert.zarr s3://bucket/expert.zarr --verify
    """
    views = [part.view for part in TrajectoryDataset(source).parts]
    shards = sum(view.state.num_blocks * len(view.grids) for view in views)
    with bar("copy", " shards", shards, leave=True) as progress:
        report = copy_store(source, target, threads, progress.update)
    problems: tuple[str, ...] = ()
    if verify:
        with bar("verify", " shards", shards) as progress:
            problems = verify_store(report.target, progress.update).problems
    pace = pace_of(report.nbytes, report.seconds)
    copied = f"{report.copied:,} shards copied, {pace}, {report.kept:,} were there"
    answer(
        json,
        report,
        f"{report.target}: {report.num_steps:,} steps; {copied}",
        *(f"note: {note}" for note in report.notes),
        *(f"  problem: {problem}" for problem in problems),
        ok=not problems,
        problems=problems,
    )
    return not problems
