"""A store as an ``xarray.Dataset`` with coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mosaic_collect.reading.terms import Term
from mosaic_collect.store.metadata import StoreState


def with_coordinates(data: Any, state: StoreState, terms: Mapping[str, tuple[Term, ...]]) -> Any:
    """The dataset with ``step`` and ``env``, and the terms' names where they are known.

    A field ``f`` with terms gets the coordinates ``f_term``, of which ``sel`` picks columns by
    names, and ``f_frame``: 0 for the newest frame of a term, -1 for the one before, and so on.

    Args:
        data: The ``xarray.Dataset`` of the store.
        state: Of the store.
        terms: By fields.
    """
    steps, envs = np.arange(state.committed_steps), np.arange(state.num_envs)
    data = data.assign_coords(step=("step", steps), env=("env", envs))
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
