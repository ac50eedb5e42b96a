"""``export``: a store, or several, in the format of another library."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from typing import Any

from mosaic_collect.errors import InputError
from mosaic_collect.export.plan import FORMATS, NPY, ExportReport, Options, plan_format
from mosaic_collect.store.ranks import Addresses
from mosaic_collect.text import shown

__all__ = ["FORMATS", "NPY", "export", "format_of"]


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
    # Imported when it is used.
    form = getattr(import_module(f"mosaic_collect.export.{name}"), FORMATS[name][0])
    taken = set(getattr(form, "__dataclass_fields__", ()))
    shared = {f.name for f in fields(Options)}
    if unknown := set(options) - taken - shared:
        raise InputError(f"{', '.join(sorted(unknown))}: no option of an export to {name}")
    asked = Options(**{key: value for key, value in options.items() if key in shared})
    own = {key: value for key, value in options.items() if key in taken}
    return plan_format(store, form(**own), asked, path).write(path, progress)
