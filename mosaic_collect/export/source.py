"""A store as an exporter walks it: block by block, in slabs of bounded size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.dataset import TrajectoryDataset
from mosaic_collect.grid import FieldGrid
from mosaic_collect.reading import read_ranges
from mosaic_collect.schema import VALID_MASK

#: Bytes of one slab to aim at; a worker holds a slab, its selected rows, and one chunk.
SLAB_NBYTES = 8 << 20


class Source:
    """The committed steps of a store.

    Args:
        dataset: A snapshot; it is not refreshed meanwhile.
        slab_nbytes: Of a slab, about; at least one chunk. To go around damaged chunks, 1.
    """

    def __init__(self, dataset: TrajectoryDataset, slab_nbytes: int = SLAB_NBYTES) -> None:
        self._slab_nbytes = slab_nbytes
        self.path = dataset.path
        self.state = dataset.state
        self.num_envs = self.state.num_envs
        self.num_blocks = self.state.num_blocks
        self._codec = self.state.compressor.encoder()

    def step_range(self, block: int) -> range:
        """Committed steps of a block."""
        size = self.state.block_steps
        return range(block * size, min((block + 1) * size, self.state.committed_steps))

    def slabs(self, grid: FieldGrid) -> list[range]:
        """Environments cut into whole chunks of about ``slab_nbytes`` a block."""
        chunks = max(1, self._slab_nbytes // grid.chunk_nbytes)
        width = chunks * grid.chunk_envs
        return [range(e, min(e + width, self.num_envs)) for e in range(0, self.num_envs, width)]

    def read(self, field: str, block: int, envs: range) -> NDArray[Any]:
        """Rows of one block, ``(steps of the block, len(envs)[, dim])``.

        Raises:
            CorruptStoreError: A damaged chunk.
        """
        grid = self.state.grid(field)
        return read_ranges(self.path, grid, self._codec, None, self.step_range(block), envs)

    def mask(self, block: int) -> NDArray[np.bool_]:
        """Valid pairs of a block, ``(steps of the block, N)``."""
        return self.read(VALID_MASK, block, range(self.num_envs))


def exported(values: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Values as the file has them, C-contiguous; float64 beyond float32's range turns infinite."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype)
