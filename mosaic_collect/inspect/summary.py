"""What a store or an exported ``.npy`` holds, without loading it and without unpickling."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from typing import Any
from zipfile import is_zipfile

from mosaic_collect.checks import local_path
from mosaic_collect.errors import CorruptStoreError
from mosaic_collect.npyfile.provenance import metadata_of, of_mosaic, provenance
from mosaic_collect.npyfile.scan import scan_npy
from mosaic_collect.passes.engine import Engine
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.ends import count_failed, truncated_ids
from mosaic_collect.reading.sizes import stored_nbytes
from mosaic_collect.store.address import Addresses
from mosaic_collect.store.grid import FieldGrid
from mosaic_collect.store.metadata import StoreState
from mosaic_collect.store.schema import VALID_MASK
from mosaic_collect.store.urls import is_url
from mosaic_collect.text import shown

_MOST_STORES = 20


@dataclass(frozen=True)
class FieldSummary:
    """One array: shape, dtype, uncompressed and stored bytes, pairs with NaN or infinity.

    Files that an array shares with one before it count there: they are stored once.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    raw_nbytes: int
    stored_nbytes: int
    nonfinite: int | None


@dataclass(frozen=True)
class Summary:
    """A store or an export.

    Attributes:
        path: Where.
        kind: ``store`` or ``export``.
        fields: Its arrays.
        facts: (what, value) in words, in the order to be shown.
        figures: The same for programs: numbers and names, of an export also what it tells of its
            making.
        metadata: The user's own, or MOSAIC's of an export.
    """

    path: str
    kind: str
    fields: tuple[FieldSummary, ...]
    facts: tuple[tuple[str, str], ...]
    figures: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def raw_nbytes(self) -> int:
        """Of all arrays, uncompressed."""
        return sum(f.raw_nbytes for f in self.fields)

    @property
    def stored_nbytes(self) -> int:
        """Of all arrays, as stored."""
        return sum(f.stored_nbytes for f in self.fields)


def summarize(path: Addresses, engine: Engine | None = None) -> Summary:
    """Summarise a store (a folder), several as one, or an export (a file).

    Args:
        path: Of either.
        engine: Who counts failed trajectories; None: this thread.

    Raises:
        FileNotFoundError, StoreError, CorruptExportError: It is neither, or damaged.
        InputError: A URL, or a zip archive.
        ClusterError: Of the engine.
    """
    if isinstance(path, (str, os.PathLike)) and not is_url(path):
        name = local_path(path, "path")
        if os.path.isfile(name) and not is_zipfile(name):
            return _export(name)
    return _store(TrajectoryDataset(path), engine)


def _store(dataset: TrajectoryDataset, engine: Engine | None) -> Summary:
    path = dataset.path
    if not dataset.num_envs:
        unborn = (("status", "killed before its first commit: zero steps"),)
        return Summary(path, "store", (), unborn, {"status": "unborn", "num_steps": 0})
    state = dataset.state
    ranks = _parts(dataset)
    stored = stored_nbytes(dataset.view)
    fields = tuple(_field(state, grid, stored) for grid in state.grids().values())
    failed = _failed(dataset, engine)
    open_last = max((run.started for run in state.runs), default="never")
    facts = (
        ("status", state.status),
        *ranks,
        ("steps", _steps(dataset)),
        ("pairs", f"{state.num_pairs:,}, of them {state.num_valid:,} valid ({_share(state)})"),
        ("trajectories", _ends(dataset, failed)),
        ("block", f"{state.block_steps} steps, {state.num_blocks} blocks"),
        ("compressor", f"{state.compressor.name}, level {state.compressor.level}"),
        ("runs", f"{len(state.runs)}, the last from {open_last}"),
        ("written by", _versions(state.runs[-1].versions if state.runs else {})),
    )
    figures = _figures(state, failed)
    if ranks:
        told = [{"path": p.path, "status": p.status, **_size(p)} for p in dataset.parts]
        figures |= {"parts": told, "missing": dataset.missing}
    return Summary(path, "store", fields, facts, figures, dataset.metadata)


def _parts(dataset: TrajectoryDataset) -> list[tuple[str, str]]:
    """A fact a store, where there are several."""
    parts = dataset.parts
    if parts == (dataset,):
        return []
    told = [("part", f"{_name(p.path)}: {p.status}, {_steps(p)}") for p in parts[:_MOST_STORES]]
    told += [("part", f"{len(parts) - len(told)} more")] if len(parts) > len(told) else []
    told += [("missing", f"{_name(path)}: joined, and is not there") for path in dataset.missing]
    told += [("never joined", _name(path)) for path in dataset.never_joined]
    return [("parts", f"{len(parts)}"), *told]


def _steps(dataset: TrajectoryDataset) -> str:
    widths = {part.num_envs for part in dataset.parts}
    most = f"{max(widths):,} envs"
    return f"{dataset.num_steps:,} x {most if len(widths) == 1 else f'{min(widths):,} to {most}'}"


def _size(dataset: TrajectoryDataset) -> dict[str, int]:
    return {
        "num_steps": dataset.num_steps,
        "num_envs": dataset.num_envs,
        "num_valid": dataset.num_valid,
    }


def _name(path: str) -> str:
    return os.path.basename(os.path.normpath(path))


def _figures(state: StoreState, failed: int | str | None) -> dict[str, Any]:
    return {
        "status": state.status,
        "num_steps": state.committed_steps,
        "num_envs": state.num_envs,
        "num_pairs": state.num_pairs,
        "num_valid": state.num_valid,
        "num_trajectories": state.num_trajectories,
        "num_failed": failed,
        "block_steps": state.block_steps,
        "num_blocks": state.num_blocks,
        "compressor": asdict(state.compressor),
        "runs": [run.told() for run in state.runs],
    }


#: By what is known of how trajectories ended: nothing, how many failed, that it is damaged.
_FAILED = {type(None): "", int: ", {:,} of them failed", str: ", how is {}"}


def _ends(dataset: TrajectoryDataset, failed: int | str | None) -> str:
    words = f"{dataset.state.num_trajectories:,} ended{_FAILED[type(failed)].format(failed)}"
    try:
        return f"{words}, {len(truncated_ids(dataset.view)):,} without an end"
    except CorruptStoreError:
        return words


def _failed(dataset: TrajectoryDataset, engine: Engine | None) -> int | str | None:
    """How many failed, where the store says so: one pass over its smallest field."""
    if not dataset.schema.has_ends:
        return None
    try:
        return count_failed(dataset.view, engine)
    except CorruptStoreError:
        return "damaged"


def _field(state: StoreState, grid: FieldGrid, stored: dict[str, int]) -> FieldSummary:
    name = grid.field.name
    shape = (state.committed_steps, state.num_envs, *grid.field.row_shape)
    raw = state.num_pairs * grid.field.row_nbytes
    return FieldSummary(name, shape, grid.field.dtype, raw, stored[name], state.nonfinite.get(name))


def _export(path: str) -> Summary:
    file = scan_npy(path)
    fields = tuple(
        FieldSummary(name, a.shape, str(a.dtype), a.nbytes, a.nbytes, None)
        for name, a in file.arrays.items()
    )
    told, ours = metadata_of(file), provenance(file)
    facts = [
        ("valid pairs", shown(told.get("num_steps", "not said"))),
        ("trajectories", shown(told.get("num_trajectories", "not said"))),
        ("valid_mask", "yes" if VALID_MASK in file.arrays else "no: every row counts"),
    ]
    if ours:
        facts += [
            ("layout", shown(ours.get("layout"))),
            ("left out", _left_out(ours.get("left_out"))),
            *(("from", store) for store in _origins(ours)),
        ]
    figures = {
        "num_valid": told.get("num_steps"),
        "num_trajectories": told.get("num_trajectories"),
        "has_valid_mask": VALID_MASK in file.arrays,
        "provenance": ours,
    }
    return Summary(path, "export", fields, tuple(facts), figures, of_mosaic(told))


def _origins(ours: dict[str, Any]) -> list[str]:
    """What is told of the store, or of each of several."""
    stores = ours.get("stores")
    if not isinstance(stores, list):
        return [_size_told(ours)]
    told = [
        f"{_size_told(store)}: {shown(store.get('path'))}"
        if isinstance(store, dict)
        else shown(store)
        for store in stores[:_MOST_STORES]
    ]
    more = len(stores) - len(told)
    return [*told, f"{more} more"] if more else told


def _size_told(store: dict[str, Any]) -> str:
    return f"{shown(store.get('store_steps'))} steps x {shown(store.get('store_envs'))} envs"


def _left_out(told: Any) -> str:
    if not isinstance(told, dict):
        return shown(told)
    return ", ".join(f"{shown(v)} {shown(k)}" for k, v in told.items() if v) or "nothing"


def _share(state: Any) -> str:
    return f"{state.num_valid / state.num_pairs:.1%}" if state.num_pairs else "none yet"


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items()) or "not said"
