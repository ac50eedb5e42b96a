"""What stores were when they were looked at: which there are, and what they say of themselves."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from mosaic_collect.errors import InputError, StoreNotFoundError
from mosaic_collect.reading.opened import Opened, opened
from mosaic_collect.store.blobs import Blobs
from mosaic_collect.store.metadata import COLLECTING, StoreState
from mosaic_collect.store.place import Place
from mosaic_collect.store.schema import Schema
from mosaic_collect.store.view import StoreView

Of = TypeVar("Of", bound="Snapshot")


class Snapshot:
    """A store, or several as one, as they were at the last ``refresh``.

    Args:
        place: Where they lie.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self.refresh()

    def refresh(self) -> None:
        """Look again."""
        self._see(opened(self._place))

    def _see(self, stores: Opened) -> None:
        self._stores, self._view = stores, stores.view

    @property
    def path(self) -> str:
        """Where the store lies."""
        return self._place.address

    @property
    def parts(self: Of) -> tuple[Of, ...]:
        """The stores one by one, each with this snapshot; of one store that itself."""
        if not self._stores.are_joined:
            return (self,)
        return tuple(self._part(number) for number in range(len(self._stores.views)))

    @property
    def missing(self) -> tuple[str, ...]:
        """In a folder of ranks, the stores of ranks that joined and are not there."""
        return self._stores.missing

    @property
    def never_joined(self) -> tuple[str, ...]:
        """In a folder of ranks, the stores of those that the others know of and that never came."""
        return self._stores.never_joined

    @property
    def blobs(self) -> Blobs:
        """What the store lies on.

        Raises:
            InputError: There are several.
        """
        if self._stores.are_joined:
            raise InputError(f"{self.path}: expected one store; these are several")
        return self._stores.views[0][0]

    @property
    def view(self) -> StoreView:
        """The snapshot itself.

        Raises:
            StoreNotFoundError: The store was killed before it said anything.
        """
        if self._view is None:
            raise StoreNotFoundError(f"{self.path} was killed before its first commit: no fields")
        return self._view

    @property
    def state(self) -> StoreState:
        """All that the root document says.

        Raises:
            StoreNotFoundError: The store was killed before it said anything.
        """
        return self.view.state

    @property
    def num_steps(self) -> int:
        """Committed steps, T."""
        return self._view.state.committed_steps if self._view else 0

    @property
    def num_envs(self) -> int:
        """Environments, N; of several stores the most; 0 for one killed before it said so."""
        return self._view.state.num_envs if self._view else 0

    @property
    def num_valid(self) -> int:
        """Pairs with a true mask."""
        return self._view.state.num_valid if self._view else 0

    @property
    def num_trajectories(self) -> int:
        """Trajectories that were ended."""
        return self._view.state.num_trajectories if self._view else 0

    @property
    def status(self) -> str:
        """``collecting`` or ``complete``."""
        return self._view.state.status if self._view else COLLECTING

    @property
    def schema(self) -> Schema:
        """The caller's fields, without the mask and the trajectory ids."""
        return self.state.schema

    @property
    def metadata(self) -> dict[str, Any]:
        """The user's own metadata; a copy."""
        return dict(self._view.state.metadata) if self._view else {}

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of all stored fields."""
        return tuple(self._view.grids) if self._view else ()

    def _part(self: Of, number: int) -> Of:
        part = copy.copy(self)
        blobs, view = self._stores.views[number]
        part._place = Place.of(blobs)
        part._see(Opened.one(blobs, view))
        return part
