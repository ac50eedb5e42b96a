"""A store as an ``xarray.Dataset`` with coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mosaic_collect.errors import MissingDependencyError
from mosaic_collect.reading.terms import Term
from mosaic_collect.store.metadata import StoreState
from mosaic_collect.store.view import StoreView


def open_labelled(view: StoreView, terms: Mapping[str, tuple[Term, ...]], chunks: Any) -> Any:
    """A store's arrays, lazily, with ``step``, ``env`` and the terms' names as coordinates.

    Args:
        view: Of the store.
        terms: By fields.
        chunks: As ``xarray.open_dataset`` takes them.

    Raises:
        MissingDependencyError: xarray, or dask for chunks, is not installed.
    """
    try:
        import xarray
    except ImportError as error:
        raise missing_package("xarray") from error
    try:
        data = xarray.open_dataset(
            view.blobs.for_zarr(),
            engine="zarr",
            consolidated=True,
            zarr_format=3,
            chunks=chunks,
            drop_variables=_outgrown(view.state),
        )
    except ImportError as error:
        raise missing_package("dask") from error
    # A writer may have gone on since this snapshot.
    return _labelled(data.isel(step=slice(view.state.committed_steps)), view.state, terms)


def _outgrown(state: StoreState) -> list[str]:
    """Arrays of others over fewer steps than there are by now."""
    found = []
    for name, array in state.foreign.arrays.items():
        axes = dict(zip(array.get("dimension_names") or (), array.get("shape", ()), strict=False))
        if axes.get("step", state.committed_steps) != state.committed_steps:
            found.append(name)
    return found


def missing_package(package: str) -> MissingDependencyError:
    """Says which one, and how to get it."""
    return MissingDependencyError(
        f"this call needs {package}: pip install 'mosaic-collect[analysis]' (Python 3.11 or later)"
    )


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
