"""One store as an exporter walks it: block by block, in slabs of bounded size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.dataset import TrajectoryDataset
from mosaic_collect.ends import failed_ids
from mosaic_collect.reading import read_ranges
from mosaic_collect.schema import TRAJECTORY_ID
from mosaic_collect.truncation import truncated_ids


class StorePart:
    """The committed steps of a store.

    Args:
        dataset: A snapshot; it is not refreshed meanwhile.
        slab_nbytes: Of a slab, about; at least one chunk. To go around damaged chunks, 1.
        first_id: Added to every trajectory id, so that none is another store's, too.
    """

    def __init__(self, dataset: TrajectoryDataset, slab_nbytes: int, first_id: int = 0) -> None:
        self._dataset, self._slab_nbytes = dataset, slab_nbytes
        self.first_id = first_id
        self.path = dataset.path
        self.state = dataset.state
        self.num_envs = self.state.num_envs
        self.num_blocks = self.state.num_blocks
        self._codec = self.state.compressor.encoder()

    def step_range(self, block: int) -> range:
        """Committed steps of a block."""
        size = self.state.block_steps
        return range(block * size, min((block + 1) * size, self.state.committed_steps))

    def slabs(self, field: str) -> list[range]:
        """Environments cut into whole chunks of about ``slab_nbytes`` a block."""
        grid = self.state.grid(field)
        chunks = max(1, self._slab_nbytes // grid.chunk_nbytes)
        width = chunks * grid.chunk_envs
        return [range(e, min(e + width, self.num_envs)) for e in range(0, self.num_envs, width)]

    def read(self, field: str, block: int, envs: range) -> NDArray[Any]:
        """Rows of one block, ``(steps of the block, len(envs)[, dim])``.

        Raises:
            CorruptStoreError: A damaged chunk.
        """
        grid = self.state.grid(field)
        rows = read_ranges(self.path, grid, self._codec, None, self.step_range(block), envs)
        return rows + self.first_id if field == TRAJECTORY_ID and self.first_id else rows

    def truncated_ids(self) -> NDArray[np.int64]:
        """Ids of trajectories that never ended, ascending, as ``read`` gives them."""
        dataset = self._dataset
        found = truncated_ids(self.state, lambda s: dataset.read(TRAJECTORY_ID, s, s + 1)[0])
        return found + self.first_id

    def failed_ids(self) -> NDArray[np.int64]:
        """Ids of trajectories that failed, ascending, as ``read`` gives them.

        Raises:
            InputError: The store does not say how its trajectories ended.
        """
        return failed_ids(self.path, self.state) + self.first_id
