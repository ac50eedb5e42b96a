"""A store as an ``xarray.Dataset`` with coordinates."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from mosaic_collect.checks import analysis_by
from mosaic_collect.reading.numbering import IDS, Numbering
from mosaic_collect.reading.table import Table
from mosaic_collect.reading.terms import Term
from mosaic_collect.store.metadata import StoreState
from mosaic_collect.store.view import StoreView


def open_labelled(
    view: StoreView, terms: Mapping[str, tuple[Term, ...]], chunks: Any, among_others: bool = False
) -> Any:
    """A store's arrays, lazily, with ``step``, ``env`` and the terms' names as coordinates.

    Args:
        view: Of the store.
        terms: By fields.
        chunks: As ``xarray.open_dataset`` takes them.
        among_others: Leave out third-party arrays without a step axis, which cannot be joined with
            those of other stores.

    Raises:
        MissingDependencyError: xarray, or dask for chunks, is not installed.
    """
    with analysis_by("xarray"):
        import xarray
    with analysis_by("dask"):
        data = xarray.open_dataset(
            view.blobs.for_zarr(),
            engine="zarr",
            consolidated=True,
            zarr_format=3,
            chunks=chunks,
            drop_variables=_unfit(view.state, among_others),
        )
    # A writer may have gone on since this snapshot.
    return _labelled(data.isel(step=slice(view.state.committed_steps)), view.state, terms)


def join_labelled(datasets: Sequence[Any], view: Table) -> Any:
    """Datasets of stores, of dask arrays, as one along their steps, numbered as the view does."""
    import xarray

    numbered = [
        data.assign({name: _renumbered(data[name], numbering) for name in IDS if name in data})
        for data, numbering in zip(datasets, view.numberings, strict=True)
    ]
    names = {"data_vars": "minimal", "coords": "minimal", "compat": "override", "join": "override"}
    joined = xarray.concat(numbered, "step", combine_attrs="drop_conflicts", **names)
    return joined.assign_coords(step=np.arange(view.state.committed_steps))


def _renumbered(array: Any, numbering: Numbering) -> Any:
    return array.copy(data=array.data.map_blocks(partial(numbering.apply, array.name)))


def tree_of(datasets: Mapping[str, Any]) -> Any:
    """Datasets by paths as a ``DataTree``, by the last part of their paths where that tells.

    Raises:
        MissingDependencyError: xarray is not installed.
    """
    with analysis_by("xarray"):
        import xarray
    names = [os.path.basename(os.path.normpath(path)) for path in datasets]
    if len(set(names)) < len(names):
        names = [f"{number}-{name}" for number, name in enumerate(names)]
    return xarray.DataTree.from_dict(dict(zip(names, datasets.values(), strict=True)))


def _unfit(state: StoreState, among_others: bool) -> list[str]:
    """Third-party arrays that are shorter than the store has become, or that cannot be joined."""
    missing = None if among_others else state.committed_steps
    found = []
    for name, array in state.foreign.arrays.items():
        axes = dict(zip(array.get("dimension_names") or (), array.get("shape", ()), strict=False))
        if axes.get("step", missing) != state.committed_steps:
            found.append(name)
    return found


def _labelled(data: Any, state: StoreState, terms: Mapping[str, tuple[Term, ...]]) -> Any:
    """The dataset with its coordinates.

    A field ``f`` with terms gets the coordinates ``f_term``, of which ``sel`` picks columns by
    names, and ``f_frame``: 0 for the newest frame of a term, -1 for the one before, and so on.
    """
    steps, envs = np.arange(state.committed_steps), np.arange(state.num_envs)
    numbers = {"step": ("step", steps), "env": ("env", envs)}
    # A field may have such a name, too.
    data = data.assign_coords({k: v for k, v in numbers.items() if k not in data.variables})
    for field, found in terms.items():
        if field not in data:
            continue
        along = data[field].dims[-1]
        names = np.repeat([t.name for t in found], [t.dim * t.frames for t in found])
        frames = np.concatenate([np.repeat(np.arange(1 - t.frames, 1), t.dim) for t in found])
        data = data.assign_coords({f"{field}_term": (along, names)})
        data = data.assign_coords({f"{field}_frame": (along, frames)})
        data = data.set_xindex(f"{field}_term")
    return data
