"""Several stores as one view: whoever reads a store reads them alike."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.reading.joined_state import JoinedState, joined_state
from mosaic_collect.reading.numbering import MOTION_ID, number_stores
from mosaic_collect.reading.tracing import Traced, trace
from mosaic_collect.store.blobs import Version
from mosaic_collect.store.schema import TRAJECTORY_ID
from mosaic_collect.store.shard import ShardReader
from mosaic_collect.store.view import StoreView


class JoinedView(StoreView):
    """A snapshot of several stores, whose steps lie one behind the other.

    Trajectory ids and motion ids are renumbered, so that each has one meaning. Where a store has
    fewer environments than another, its missing rows are fill value: not valid, and of no
    trajectory.

    Args:
        views: The stores', at least one.
        address: What was named.
        is_whole: Whether nothing is missing beside them.

    Attributes:
        numberings: Ids of each store among those of all.

    Raises:
        StoreMismatchError: The stores' fields differ.
    """

    state: JoinedState

    def __init__(self, views: Sequence[StoreView], address: str, is_whole: bool = True) -> None:
        self.parts, self._address, self._is_whole = tuple(views), address, is_whole
        states = {view.address: view.state for view in views}
        super().__init__(views[0].blobs, joined_state(states, is_whole))
        self.numberings = number_stores(self.state.parts)

    def __reduce__(self) -> Any:
        return JoinedView, (self.parts, self._address, self._is_whole)

    @property
    def address(self) -> str:
        return self._address

    def require_seen(self) -> None:
        for view in self.parts:
            view.require_seen()

    def shard(self, field: str, block: int) -> ShardReader:
        at, inside = self.state.place(block)
        return self.parts[at].shard(field, inside)

    def find(self, field: str, block: int) -> Version | None:
        at, inside = self.state.place(block)
        return self.parts[at].find(field, inside)

    def versions(self, field: str) -> list[Version]:
        return [version for view in self.parts for version in view.versions(field)]

    def read(
        self, field: str, steps: range, envs: range, pool: ThreadPoolExecutor | None = None
    ) -> NDArray[Any]:
        found = self.grids[field].field
        shape = (len(steps), len(envs), *found.row_shape)
        out = np.full(shape, found.fill_value, found.dtype)
        for at, rows, inside in self._cut(steps):
            there = envs[: bisect_left(envs, self.state.parts[at].num_envs)]
            values = self.parts[at].read(field, inside, there, pool)
            out[rows, : len(there)] = self.numberings[at].apply(field, values)
        return out

    def trace(self, pool: ThreadPoolExecutor | None) -> Traced:
        """All trajectories of all stores, by ascending ids; errors as of ``trace``."""
        found = [trace(view, pool) for view in self.parts]
        columns = {name: [getattr(t, name) for t in found] for name in vars(found[0])}
        for at, first in enumerate(self.state.first_steps):
            columns["first"][at] = columns["first"][at] + first
            columns["last"][at] = columns["last"][at] + first
            for name, field in (("id", TRAJECTORY_ID), ("motion", MOTION_ID)):
                columns[name][at] = self.numberings[at].apply(field, columns[name][at])
        return Traced(**{name: np.concatenate(values) for name, values in columns.items()})

    def _cut(self, steps: range) -> Iterator[tuple[int, slice, range]]:
        """Store, rows of the answer, and steps there."""
        for at, (part, first) in enumerate(
            zip(self.state.parts, self.state.first_steps, strict=True)
        ):
            low = bisect_left(steps, first)
            high = bisect_left(steps, first + part.committed_steps)
            if low < high:
                inside = steps[low:high]
                shifted = range(inside.start - first, inside.stop - first, inside.step)
                yield at, slice(low, high), shifted


def trace_all(view: StoreView, pool: ThreadPoolExecutor | None = None) -> Traced:
    """``trace`` of a store, or of several."""
    return view.trace(pool) if isinstance(view, JoinedView) else trace(view, pool)
