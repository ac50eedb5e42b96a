"""``export``: a store, or several, in the format of another library.

A format is one module and one entry here.
"""

from __future__ import annotations

import os
from typing import Any

from mosaic_collect.errors import InputError
from mosaic_collect.export import hdf5
from mosaic_collect.export.npy import ExportReport, plan_export
from mosaic_collect.export.options import Options
from mosaic_collect.export.stream import Progress
from mosaic_collect.store.ranks import Addresses
from mosaic_collect.text import shown

#: Endings of each format's files.
FORMATS = {"npy": (".npy",), "hdf5": hdf5.ENDINGS}


def export(
    store: Addresses,
    path: str | os.PathLike[str],
    format: str | None = None,  # noqa: A002  the command line's name
    *,
    valid_share: float = 0.0,
    progress: Progress | None = None,
    **options: Any,
) -> ExportReport:
    """Write a store's pairs in a format; see ``export_npy`` for the options and errors.

    Args:
        store: The stores.
        path: The file; one of that name is replaced, in one.
        format: ``npy`` or ``hdf5``; None: by the ending of the path.
        valid_share: Share of the trajectories to hold out for validation, in HDF5.
        progress: Called with the bytes written since the last call.
        options: Further arguments of ``export_npy``.

    Raises:
        InputError: An unknown format or option.
    """
    name = os.fspath(path)
    found = format or next((f for f, ends in FORMATS.items() if name.endswith(ends)), None)
    if found not in FORMATS:
        endings = ", ".join(end for ends in FORMATS.values() for end in ends)
        raise InputError(
            f"format: expected {' or '.join(FORMATS)}, or a name ending in one of {endings}; got "
            f"{shown(format or name)}"
        )
    try:
        asked = Options(**options)
    except TypeError as error:
        raise InputError(f"export: {error}") from error
    if found == "hdf5":
        return hdf5.export_hdf5(store, path, asked, valid_share=valid_share, progress=progress)
    if valid_share:
        raise InputError("valid_share: a .npy file holds no split of trajectories")
    return plan_export(store, asked).write(path, progress)
