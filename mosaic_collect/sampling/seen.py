"""What a sampler sees of its stores, which may grow: it looks when it is told to."""

from __future__ import annotations

from collections.abc import Sequence

from mosaic_collect.errors import InputError
from mosaic_collect.reading.tiles import Tiles
from mosaic_collect.sampling.options import EPOCHS, SamplerOptions
from mosaic_collect.sampling.share import Share
from mosaic_collect.sampling.snapshot import PoolPlan, Stores, look, open_datasets


class Seen:
    """The steps of stores that are drawn from, and their tiles; the same until it looks again.

    Args:
        stores: As ``Sampler``'s.
        options: As ``Sampler``'s.

    Attributes:
        datasets: The stores.
        tiles: Of what is asked for.
        is_stale: Whether it is to look again.

    Raises:
        InputError: No pair is left, or too few for the pool or the ranks.
        StoreMismatchError: The stores' fields differ.
        StoreError: A store cannot be read.
    """

    tiles: Tiles

    def __init__(self, stores: Stores, options: SamplerOptions) -> None:
        self.datasets, self._options = open_datasets(stores), options
        self.is_stale = False
        self._wanted: Sequence[int] | None = None
        self.look(None)

    @property
    def committed(self) -> list[int]:
        """Steps of each store that are seen."""
        return self._there() if self._committed is None else list(self._committed)

    def share(self) -> Share:
        """The rank's of an epoch."""
        o = self._options
        return Share.of_rank(self.tiles.num_pairs, o.rank, o.world_size, o.batch_size, o.drop_last)

    def ask(self, committed: Sequence[int] | None) -> None:
        """Have it look again when nothing is being drawn: at so many steps, or at all."""
        self.is_stale, self._wanted = True, committed

    def look_again(self) -> None:
        """See what was asked for.

        Raises:
            InputError: There are fewer steps.
        """
        for dataset in self.datasets:
            dataset.refresh()
        wanted, self._wanted, self.is_stale = self._wanted, None, False
        self.look(wanted, "committed")

    def look(self, committed: Sequence[int] | None, name: str = "committed") -> None:
        """See so many steps of each store, or all.

        Args:
            committed: Steps.
            name: What they are called where they are not there.

        Raises:
            InputError: There are fewer, or fewer stores.
        """
        there = self._there()
        wanted = there if committed is None else list(committed)
        if len(wanted) != len(there) or any(w > t for w, t in zip(wanted, there, strict=True)):
            raise InputError(f"{name}: is of stores of {wanted} steps, these have {there}")
        self._committed = None if wanted == there else wanted
        self.tiles = look(self.datasets, self._options, self._committed)
        PoolPlan.of(self.tiles, self._options.pool_nbytes)
        if self._options.mode == EPOCHS:
            self.share()

    def _there(self) -> list[int]:
        return [dataset.num_steps for dataset in self.datasets]
