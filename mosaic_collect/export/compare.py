"""Does an exported file hold just what the store holds? Bit by bit, in bounded memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import CorruptExportError, InputError
from mosaic_collect.export.npy import Npy, file_metadata
from mosaic_collect.export.plan import ExportPlan, Options, decide
from mosaic_collect.npyfile.layout import of_mosaic
from mosaic_collect.npyfile.read import NpyFile, scan_npy
from mosaic_collect.passes.engine import Engine
from mosaic_collect.reading.selection import exported
from mosaic_collect.reading.store_set import ALIKE, StoreSet
from mosaic_collect.reading.table import Table
from mosaic_collect.reading.verify import VerifyReport
from mosaic_collect.store.ranks import Addresses, Place
from mosaic_collect.store.view import StoreView
from mosaic_collect.text import shown


def verify_export(
    store: Addresses,
    path: str | os.PathLike[str],
    progress: Callable[[int], object] | None = None,
    engine: Engine | None = None,
) -> VerifyReport:
    """Compare a file that ``export_npy`` wrote with the store that it came from, or the stores.

    The file says with which options it was made; the pairs are chosen again by them, read from the
    store, and compared with the bytes at the place where they belong.

    Args:
        store: The store; of a file of several, all of them in the same order.
        path: The file; nothing in it is executed.
        progress: Told the bytes compared since the last call.
        engine: Who compares; None: threads here.

    Raises:
        CorruptExportError: The file is torn, hostile, or not an export of this package.
        InputError: No store is named, or one twice.
        StoreNotFoundError, CorruptStoreError, NewerFormatError: A store is missing or cannot be
            read.
        ClusterError: The cluster cannot do the work.
    """
    start = time.monotonic()
    views = StoreSet.open(Place.of(store, "store")).with_steps()
    Table(views).check_extent()
    file = scan_npy(path)
    options = _options(file)
    problems = _same_stores(file, views)
    nbytes = 0
    if not problems:
        try:
            plan = decide(views, Npy(), options, engine)
        except InputError as error:
            raise CorruptExportError(f"{file.path}: impossible export options: {error}") from error
        problems = _same_shape(file, plan)
        if not problems:
            done = progress or (lambda count: None)
            problems = _same_values(file, plan, done, engine or Engine())
            nbytes = plan.arrays_nbytes
    seconds = time.monotonic() - start
    return VerifyReport(file.path, tuple(problems), (), len(file.arrays), nbytes, seconds)


def _options(file: NpyFile) -> Options:
    ours = file.provenance or {}
    asked = ours.get("options")
    if not isinstance(asked, dict):
        raise CorruptExportError(f"{file.path}: does not say how it was exported from which store")
    # The layout found, not the one asked for: auto might decide otherwise now.
    found = {"layout": ours.get("layout"), "allow_incomplete": True, "allow_different": ALIKE}
    try:
        return Options(**{**asked, **found})
    except (TypeError, InputError) as error:
        raise CorruptExportError(f"{file.path}: unknown export options: {error}") from error


def _same_stores(file: NpyFile, views: Sequence[StoreView]) -> list[str]:
    """Paths are not compared: a store may have been moved since."""
    ours = file.provenance or {}
    told = ours.get("stores", [ours])
    if not isinstance(told, list) or not all(isinstance(t, dict) for t in told):
        raise CorruptExportError(f"{file.path}: does not say from which stores it was exported")
    if len(told) != len(views):
        return [f"the file was made from {len(told)} stores, {len(views)} given"]
    problems = []
    for entry, view in zip(told, views, strict=True):
        store = f"the store {view.address}" if len(told) > 1 else "the store"
        have = {"steps": view.state.committed_steps, "envs": view.state.num_envs}
        for name, number in have.items():
            made = entry.get(f"store_{name}")
            if made != number:
                made_from = f"the file was made from {shown(made)} {name}"
                problems.append(f"{made_from}, {store} has {number}")
    return problems


def _same_shape(file: NpyFile, plan: ExportPlan) -> list[str]:
    problems = []
    for name in sorted(set(file.arrays) | set(plan.file.arrays)):
        found, expected = (
            (array.shape, str(array.dtype)) if (array := arrays.get(name)) else None
            for arrays in (file.arrays, plan.file.arrays)
        )
        if found != expected:
            problems.append(f"{shown(name)}: expected {expected}, got {found}")
    told, made = of_mosaic(file.metadata), of_mosaic(file_metadata(plan))
    if told != made:
        problems.append(f"metadata: expected {made}, got {shown(told)}")
    return problems


def _same_values(
    file: NpyFile, plan: ExportPlan, progress: Callable[[int], object], engine: Engine
) -> list[str]:
    comparison = _Comparison(replace(file, path=os.path.abspath(file.path)), plan)
    pieces = list(product(file.arrays, range(plan.table.state.num_blocks)))
    problems = []
    found = engine.map(comparison, pieces, comparison.require_seen)
    for (name, block), (wrong, nbytes) in zip(pieces, found, strict=True):
        progress(nbytes)
        if wrong:
            at, inside = plan.table.place(block)
            store = plan.table.parts[at].address
            problems.append(f"{name}, block {inside}: {wrong} rows differ from {store}")
    return problems


@dataclass(frozen=True)
class _Comparison:
    """Compares one array's rows of one block with the store's; pickles."""

    file: NpyFile
    plan: ExportPlan

    def require_seen(self) -> None:
        """Raise if this process does not see the same stores and the same file."""
        self.plan.table.require_seen()
        # By their texts: what a file tells may hold NaN, which equals nothing.
        if repr(scan_npy(self.file.path)) != repr(self.file):
            raise CorruptExportError(f"{self.file.path}: another file lies there")

    def __call__(self, piece: tuple[str, int]) -> tuple[int, int]:
        """Rows that differ, and bytes compared."""
        name, block = piece
        stored, selection = self.file.arrays[name], self.plan.selection
        chosen = selection.block(block)
        # Row numbers in the file, counted pair by pair and not slab by slab as the writer does.
        rows = int(selection.first_rows[block]) + np.cumsum(chosen).reshape(chosen.shape) - 1
        wrong = compared = 0
        with open(self.file.path, "rb") as handle:
            for cell in selection.cells_of(block, name):
                mine, places = chosen[cell.at], rows[cell.at]
                if not mine.any():
                    continue
                values = self.plan.table.read_cell(name, cell)
                for step in np.flatnonzero(mine.any(axis=1)):
                    expected = exported(values[step][mine[step]], stored.dtype)
                    first = int(places[step][mine[step]][0])
                    start = stored.offset + first * stored.row_nbytes
                    found = os.pread(handle.fileno(), expected.nbytes, start)
                    wrong += _rows_off(expected, found)
                    compared += expected.nbytes
        return wrong, compared


def _rows_off(expected: NDArray[Any], found: bytes) -> int:
    if found == expected.tobytes():
        return 0
    bits = np.frombuffer(found, np.uint8).reshape(len(expected), -1)
    return int((bits != expected.view(np.uint8).reshape(len(expected), -1)).any(axis=1).sum())
