"""What a sampler sees of its stores, which may grow: it looks when it is told to."""

from __future__ import annotations

from collections.abc import Sequence

from mosaic_collect.checks import whole
from mosaic_collect.errors import InputError
from mosaic_collect.sampling.options import EPOCHS, SamplerOptions
from mosaic_collect.sampling.share import Share
from mosaic_collect.sampling.snapshot import PoolPlan, Stores, look, named, open_views
from mosaic_collect.sampling.tiles import Tiles
from mosaic_collect.store.view import StoreView


class Seen:
    """The steps of stores that are drawn from, and their tiles; the same until it looks again.

    Args:
        stores: As ``Sampler``'s.
        options: As ``Sampler``'s.

    Attributes:
        views: The stores, in folders of ranks those that have steps.
        committed: Steps of each that are seen.
        tiles: Of what is asked for.
        is_stale: Whether it is to look again.

    Raises:
        InputError: No pair is left, or too few for the pool or the ranks.
        StoreMismatchError: The stores' fields differ.
        StoreError: A store cannot be read.
    """

    views: list[StoreView]
    committed: list[int]
    tiles: Tiles

    def __init__(self, stores: Stores, options: SamplerOptions) -> None:
        self._named, self._options = named(stores), options
        self.is_stale = False
        self._wanted: Sequence[int] | None = None
        self._see(open_views(self._named), None, "committed")

    def share(self) -> Share:
        """The rank's of an epoch."""
        return self._share_of(self.tiles)

    def ask(self, committed: Sequence[int] | None) -> None:
        """Have it look again when nothing is being drawn: at so many steps, or at all."""
        self.is_stale, self._wanted = True, committed

    def look_again(self) -> None:
        """See what was asked for, also in stores of ranks that had no step yet.

        Raises:
            InputError: There are fewer steps.
        """
        wanted, self._wanted, self.is_stale = self._wanted, None, False
        self._see(open_views(self._named, refreshed=True), wanted, "committed")

    def look(self, committed: Sequence[int], name: str) -> None:
        """See so many steps of each store, of those that there were when it last looked.

        Args:
            committed: Steps.
            name: What they are called where they are not there.

        Raises:
            InputError: There are fewer, or fewer stores.
        """
        self._see(self.views, committed, name)

    def _see(self, views: list[StoreView], committed: Sequence[int] | None, name: str) -> None:
        there = [view.state.committed_steps for view in views]
        wanted = there if committed is None else [whole(steps, name, 0) for steps in committed]
        if len(wanted) != len(there) or any(w > t for w, t in zip(wanted, there, strict=True)):
            raise InputError(f"{name}: is of stores of {wanted} steps, these have {there}")
        tiles = look(views, self._options, None if wanted == there else wanted)
        PoolPlan.of(tiles, self._options.pool_nbytes)
        if self._options.mode == EPOCHS:
            self._share_of(tiles)
        self.views, self.committed, self.tiles = views, wanted, tiles

    def _share_of(self, tiles: Tiles) -> Share:
        o = self._options
        return Share.of_rank(tiles.num_pairs, o.rank, o.world_size, o.batch_size, o.drop_last)
