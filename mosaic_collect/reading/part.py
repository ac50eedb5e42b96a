"""One store as an exporter walks it: block by block, in slabs of bounded size."""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

from numpy.typing import NDArray

from mosaic_collect.reading.numbering import Numbering
from mosaic_collect.store.view import StoreView


class Slab(NamedTuple):
    """Some steps of a block and some environments.

    Attributes:
        steps: Counted from the block's first.
        envs: Columns.
    """

    steps: range
    envs: range

    @property
    def shape(self) -> tuple[int, int]:
        """Of a mask of it."""
        return len(self.steps), len(self.envs)

    @property
    def at(self) -> tuple[slice, slice]:
        """Where it lies in an array of the block, ``(steps of the block, N)``."""
        steps, envs = self
        return slice(steps.start, steps.stop), slice(envs.start, envs.stop)


class StorePart:
    """The committed steps of a store.

    Args:
        view: Of the store.
        slab_nbytes: Of a slab, about; at least one chunk. To go around damaged chunks, 1.
        numbering: Ids of the store among those of several.
    """

    def __init__(self, view: StoreView, slab_nbytes: int, numbering: Numbering) -> None:
        self.view, self.state, self.numbering = view, view.state, numbering
        self._slab_nbytes = slab_nbytes

    @property
    def path(self) -> str:
        """Where the store lies."""
        return self.view.address

    def slabs(self, field: str, block: int) -> list[Slab]:
        """A block cut into whole chunks of about ``slab_nbytes``; its steps only if theirs are."""
        grid, count = self.view.grids[field], len(self.state.steps_of(block))
        chunks = max(1, self._slab_nbytes // grid.chunk_nbytes)
        envs, steps = (1, chunks) if grid.chunk_steps < grid.block_steps else (chunks, 1)
        pieces = product(
            _pieces(count, steps * grid.chunk_steps),
            _pieces(self.state.num_envs, envs * grid.chunk_envs),
        )
        return list(map(Slab._make, pieces))

    def read(self, field: str, block: int, slab: Slab) -> NDArray[Any]:
        """Rows of one block, ``(len(slab.steps), len(slab.envs)[, dim])``.

        Raises:
            CorruptStoreError: A damaged chunk.
        """
        of_block = self.state.steps_of(block)
        steps = of_block[slab.steps.start : slab.steps.stop]
        rows = self.view.read(field, steps, slab.envs)
        return self.numbering.apply(field, rows)


def _pieces(length: int, size: int) -> list[range]:
    return [range(at, min(at + size, length)) for at in range(0, length, size)]
