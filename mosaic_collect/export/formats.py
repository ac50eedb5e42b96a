"""``export``: a store, or several, in the format of another library.

A format is one module, and its name and endings here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from importlib import import_module
from typing import Any

from mosaic_collect.errors import InputError
from mosaic_collect.export.contents import describe_stores
from mosaic_collect.export.npy import (
    ExportReport,
    choose,
    join_stores,
    naming_skip_damaged,
    open_stores,
    plan_export,
)
from mosaic_collect.export.options import Options
from mosaic_collect.export.rows import RowFormat, TrajectoryRows
from mosaic_collect.export.target import check_target, opened_target
from mosaic_collect.npyfile.layout import GRID
from mosaic_collect.reading.numbering import MOTION_ID
from mosaic_collect.store.ranks import Addresses
from mosaic_collect.store.schema import TRAJECTORY_END, TRAJECTORY_ID
from mosaic_collect.text import shown

NPY = "npy"
#: Endings of each format's files; a folder has none.
_ENDINGS = {NPY: (".npy",), "hdf5": (".hdf5", ".h5"), "parquet": (".parquet",), "lerobot": ()}
FORMATS = tuple(_ENDINGS)
#: Classes of formats of one trajectory after the other, each in the module of the format's name.
_CLASSES = {"hdf5": "Hdf5", "parquet": "Parquet", "lerobot": "LeRobot"}


def format_of(path: str, name: str | None = None) -> str:
    """Name of the format of a file.

    Raises:
        InputError: An unknown format, or no name and a file of unknown ending.
    """
    found = name or next((f for f, ends in _ENDINGS.items() if path.endswith(ends)), None)
    if found is None:
        endings = ", ".join(end for ends in _ENDINGS.values() for end in ends)
        raise InputError(f"{path}: expected a name ending in {endings}, or the format's name")
    if found not in FORMATS:
        *names, last = FORMATS
        raise InputError(f"format: expected {', '.join(names)} or {last}, got {shown(name)}")
    return found


def export(
    store: Addresses,
    path: str | os.PathLike[str],
    format: str | None = None,  # noqa: A002  the command line's name
    *,
    progress: Callable[[int], object] | None = None,
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
    form: type[RowFormat] | None = None
    if name != NPY:  # imported when it is used
        form = getattr(import_module(f"mosaic_collect.export.{name}"), _CLASSES[name])
    taken = set(getattr(form, "__dataclass_fields__", ()))
    shared = {f.name for f in fields(Options)}
    if unknown := set(options) - taken - shared:
        raise InputError(f"{', '.join(sorted(unknown))}: no option of an export to {name}")
    own = {key: value for key, value in options.items() if key in taken}
    asked = Options(**{key: value for key, value in options.items() if key in shared})
    if form is None:
        return plan_export(store, asked).write(path, progress)
    return _write(store, path, name, form(**own), asked, progress or (lambda nbytes: None))


def _write(
    store: Addresses,
    path: str | os.PathLike[str],
    name: str,
    form: RowFormat,
    options: Options,
    progress: Callable[[int], object],
) -> ExportReport:
    """Write one trajectory after the other, each with its rows in the order of time."""
    start, endings = time.monotonic(), _ENDINGS[name]
    if options.layout == GRID:
        raise InputError(f"layout: {name} holds no grid, but one trajectory after the other")
    check_target(path, (), endings)
    options = replace(options, layout="compact")
    views, folders = open_stores(store, options)
    target = check_target(path, folders, endings)
    with naming_skip_damaged(options):
        table, chosen = join_stores(views, options)
        form.check(table, chosen)
        # Where an id or an end is damaged, nobody knows whose the pair is.
        known = (TRAJECTORY_ID, TRAJECTORY_END, MOTION_ID)
        more = [grid.field for key, grid in table.grids.items() if key in known]
        _, selection, left = choose(
            table, [*chosen, *(f for f in more if f not in chosen)], options
        )
        rows = TrajectoryRows.of(table, selection, chosen)
        nbytes = selection.num_pairs * sum(f.row_nbytes for f in chosen)
        about = {
            "fields": [{"name": f.name, "dim": f.dim, "dtype": f.dtype} for f in chosen],
            "options": options.as_json(),
            "left_out": asdict(left),
            **describe_stores(table),
        }
        with opened_target(target, nbytes, is_folder=not endings) as opened:
            for count in form.write(opened.temp_path, rows, options, about):
                progress(count)
    return ExportReport(
        path=target,
        layout=name,
        num_pairs=selection.num_pairs,
        shapes={f.name: (selection.num_pairs, *f.row_shape) for f in chosen},
        left_out=left,
        file_nbytes=_size(target),
        device_nbytes=nbytes,
        seconds=time.monotonic() - start,
        notes=(f"{len(rows.trajectories)} trajectories, one after the other",),
    )


def _size(path: str) -> int:
    """Bytes of a file, or of all files of a folder."""
    if os.path.isfile(path):
        return os.path.getsize(path)
    return sum(os.path.getsize(os.path.join(d, n)) for d, _, names in os.walk(path) for n in names)
