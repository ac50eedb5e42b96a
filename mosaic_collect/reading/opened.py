"""The stores that were named, as they are now."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mosaic_collect.errors import StoreNotFoundError
from mosaic_collect.reading.alike import check_alike
from mosaic_collect.reading.joined import JoinedView
from mosaic_collect.reading.ranks import never_joined
from mosaic_collect.store.blobs import Blobs
from mosaic_collect.store.parts import Parts, rank_of
from mosaic_collect.store.place import Found, Place
from mosaic_collect.store.view import StoreView


@dataclass(frozen=True)
class Opened:
    """What a dataset reads.

    Attributes:
        views: Each store and its snapshot; None for one killed before its first commit.
        view: The snapshot of all together; None where there is nothing but such.
        are_joined: Whether several were meant, be there one or none by now.
        missing: In folders of ranks, the stores of ranks that joined and are not there.
        never_joined: Those of ranks that the others know of and that never came.
    """

    views: tuple[tuple[Blobs, StoreView | None], ...]
    view: StoreView | None
    are_joined: bool = False
    missing: tuple[str, ...] = ()
    never_joined: tuple[str, ...] = ()

    @classmethod
    def one(cls, blobs: Blobs, view: StoreView | None) -> Opened:
        """A single store."""
        return cls(((blobs, view),), view)


def opened(place: Place) -> Opened:
    """Look at all stores of a place; errors as ``TrajectoryDataset``'s."""
    one = _one_store(place)
    if one is not None:
        return one
    found = place.find()
    each = [looked_at(one) for one in found]
    views = tuple(view for looked in each for view in looked)
    missing = tuple(address for one in found for address in one.missing())
    born = [view for _blobs, view in views if view is not None]
    if not born:
        return Opened(views, None, True, missing)
    late = (never_joined(one, _told(looked)) for one, looked in zip(found, each, strict=True))
    told = {view.address: view.state.metadata for view in born}
    check_alike(told, [name for view in born for name in view.grids])
    is_whole = not missing and len(born) == len(views)
    return Opened(views, JoinedView(born, place.address, is_whole), True, missing, sum(late, ()))


def _one_store(place: Place) -> Opened | None:
    """What lies there if it is one store, by no more than its root document where that costs."""
    blobs = place.items[0]
    if not place.is_one or isinstance(blobs, str):
        return None
    try:
        view = StoreView.of(blobs)
    except StoreNotFoundError:
        if Parts.find(blobs) is not None:
            return None
        raise
    if not blobs.guards and any(rank_of(name) is not None for name in blobs.names()):
        place.find()  # says what is wrong
    return Opened.one(blobs, view)


def looked_at(found: Found) -> list[tuple[Blobs, StoreView | None]]:
    """Each store and its snapshot.

    Raises:
        StoreMismatchError: One in a folder of ranks is none of its ranks.
        StoreError: Of a store.
    """
    views = []
    for name, blobs in found.stores.items():
        view = StoreView.of(blobs)
        if view is not None and found.parts is not None:
            found.parts.check(name, view.state)
        views.append((blobs, view))
    return views


def _told(views: Iterable[tuple[Blobs, StoreView | None]]) -> list[dict[str, Any]]:
    return [view.state.metadata for _blobs, view in views if view is not None]
