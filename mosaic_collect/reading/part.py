"""One store as an exporter walks it: block by block, in slabs of bounded size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.reading.trajectories import failed_ids, truncated_ids
from mosaic_collect.store.schema import TRAJECTORY_ID
from mosaic_collect.store.view import StoreView


class StorePart:
    """The committed steps of a store.

    Args:
        view: Of the store.
        slab_nbytes: Of a slab, about; at least one chunk. To go around damaged chunks, 1.
        first_id: Added to every trajectory id, so that none is another store's, too.
    """

    def __init__(self, view: StoreView, slab_nbytes: int, first_id: int = 0) -> None:
        self.view, self.state, self.first_id = view, view.state, first_id
        self._slab_nbytes = slab_nbytes

    @property
    def path(self) -> str:
        """Where the store lies."""
        return self.view.address

    def slabs(self, field: str) -> list[range]:
        """Environments cut into whole chunks of about ``slab_nbytes`` a block."""
        grid, num_envs = self.view.grids[field], self.state.num_envs
        width = max(1, self._slab_nbytes // grid.chunk_nbytes) * grid.chunk_envs
        return [range(e, min(e + width, num_envs)) for e in range(0, num_envs, width)]

    def read(self, field: str, block: int, envs: range) -> NDArray[Any]:
        """Rows of one block, ``(steps of the block, len(envs)[, dim])``.

        Raises:
            CorruptStoreError: A damaged chunk.
        """
        rows = self.view.read(field, self.state.steps_of(block), envs)
        return rows + self.first_id if field == TRAJECTORY_ID and self.first_id else rows

    def truncated_ids(self) -> NDArray[np.int64]:
        """Ids of trajectories that never ended, ascending, as ``read`` gives them."""
        return truncated_ids(self.view) + self.first_id

    def failed_ids(self) -> NDArray[np.int64]:
        """Ids of trajectories that failed, ascending, as ``read`` gives them.

        Raises:
            InputError: The store does not say how its trajectories ended.
        """
        return failed_ids(self.view) + self.first_id
