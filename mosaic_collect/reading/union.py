"""What an exporter walks: the blocks of one store, or of several, one store behind the other.

    store    a.zarr, N = 4        b.zarr, N = 2
    block    0     1     2        3     4            numbered through
    ids      as stored            renumbered: see reading/numbering.py

Nothing behind this module knows how many stores there are: a block has its steps, its number of
environments and its slabs, and that is all.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.passes.engine import Engine
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.numbering import number_stores
from mosaic_collect.reading.part import Slab, StorePart
from mosaic_collect.reading.trajectories import failed_ids, truncated_ids
from mosaic_collect.store.schema import VALID_MASK, Schema

#: Bytes of one slab to aim at; a worker holds a slab, its selected rows, and one chunk.
SLAB_NBYTES = 8 << 20


class Source:
    """The committed steps of stores that hold the same fields.

    Args:
        datasets: Snapshots, at least one; they are not refreshed meanwhile.
        slab_nbytes: Of a slab, about; at least one chunk. To go around damaged chunks, 1.

    Attributes:
        parts: One a store.
        num_blocks: Of all of them.
    """

    def __init__(
        self, datasets: Sequence[TrajectoryDataset], slab_nbytes: int = SLAB_NBYTES
    ) -> None:
        numberings = number_stores([dataset.state for dataset in datasets])
        self.parts = tuple(
            StorePart(dataset.view, slab_nbytes, numbering)
            for dataset, numbering in zip(datasets, numberings, strict=True)
        )
        self._firsts = list(accumulate((p.state.num_blocks for p in self.parts), initial=0))
        self.num_blocks = self._firsts.pop()

    @property
    def path(self) -> str:
        """All stores' paths."""
        return ", ".join(p.path for p in self.parts)

    @property
    def schema(self) -> Schema:
        """The first store's."""
        return self.parts[0].state.schema

    @property
    def num_pairs(self) -> int:
        """Committed pairs, valid or not."""
        return sum(p.state.num_pairs for p in self.parts)

    @property
    def num_valid(self) -> int:
        """Pairs with a true mask, as the stores say."""
        return sum(p.state.num_valid for p in self.parts)

    @property
    def num_trajectories(self) -> int:
        """Trajectories that were ended."""
        return sum(p.state.num_trajectories for p in self.parts)

    @property
    def has_mask(self) -> bool:
        """Whether a mask was given at some step, or must have been."""
        return any(p.state.has_mask for p in self.parts) or self.num_valid < self.num_pairs

    def nonfinite(self, field: str) -> int:
        """Pairs in which the field holds NaN or infinity, as the stores say."""
        return sum(p.state.nonfinite.get(field, 0) for p in self.parts)

    def truncated_ids(self) -> NDArray[np.int64]:
        """Ids of trajectories that never ended, ascending."""
        return np.concatenate([truncated_ids(p.view) + p.numbering.first_id for p in self.parts])

    def failed_ids(self, engine: Engine | None = None) -> NDArray[np.int64]:
        """Ids of trajectories that failed, ascending; found by the engine, or here.

        Raises:
            InputError: A store does not say how its trajectories ended.
        """
        return np.concatenate(
            [failed_ids(p.view, engine) + p.numbering.first_id for p in self.parts]
        )

    def require_seen(self) -> None:
        """Errors as ``StoreView.require_seen``'s, of each store."""
        for part in self.parts:
            part.view.require_seen()

    def place(self, block: int) -> tuple[StorePart, int]:
        """The store that a block is of, and the block's number there."""
        at = bisect_right(self._firsts, block) - 1
        return self.parts[at], block - self._firsts[at]

    def shape(self, block: int) -> tuple[int, int]:
        """A block's steps and environments."""
        part, inside = self.place(block)
        return len(part.state.steps_of(inside)), part.state.num_envs

    def slabs(self, field: str, block: int) -> list[Slab]:
        """A block cut into whole chunks of about ``slab_nbytes``."""
        part, inside = self.place(block)
        return part.slabs(field, inside)

    def read(self, field: str, block: int, slab: Slab) -> NDArray[Any]:
        """Rows of one block, ``(len(slab.steps), len(slab.envs)[, dim])``.

        Raises:
            CorruptStoreError: A damaged chunk.
        """
        part, inside = self.place(block)
        return part.read(field, inside, slab)

    def mask(self, block: int) -> NDArray[np.bool_]:
        """Valid pairs of a block, ``(steps of the block, N)``."""
        return self.read(VALID_MASK, block, Slab._make(map(range, self.shape(block))))


def exported(values: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Values as the file has them, C-contiguous; float64 beyond float32's range turns infinite."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype)
