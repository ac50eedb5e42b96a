"""Where a writer records: a store of its own, or a rank's in a folder of ranks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mosaic_collect.checks import whole
from mosaic_collect.errors import StoreExistsError, StoreMismatchError
from mosaic_collect.store.blobs import Blobs
from mosaic_collect.store.metadata import StoreState
from mosaic_collect.store.parts import CLAIMS, MAX_RANK, PART, Parts, is_ours, part_name
from mosaic_collect.store.root import read_state


@dataclass(frozen=True)
class Member:
    """A place to record into.

    Attributes:
        whole: The blobs of the store, or of the folder of ranks.
        rank: The rank's number; None: the place is one store.
        world_size: How many ranks there are now, as far as known.
    """

    whole: Blobs
    rank: int | None = None
    world_size: int | None = None

    @classmethod
    def of(cls, blobs: Blobs, rank: Any = None, world_size: Any = None) -> Member:
        """Checked.

        Raises:
            InputError: No such rank.
        """
        if world_size is not None:
            world_size = whole(world_size, "world_size", 1, MAX_RANK + 1)
        most = MAX_RANK if world_size is None else world_size - 1
        return cls(blobs, rank if rank is None else whole(rank, "rank", 0, most), world_size)

    @property
    def blobs(self) -> Blobs:
        """Of the store."""
        return self.whole if self.rank is None else self.whole.within(part_name(self.rank))

    def check(self, state: StoreState | None) -> None:
        """Refuse a place that is not what it is taken for.

        Args:
            state: Of the store; None: it is not there yet.

        Raises:
            StoreExistsError: A store is to lie where ranks are, or ranks where a store is.
            StoreMismatchError: The rank's store is of another folder.
        """
        parts, where = Parts.find(self.whole), self.whole.address
        if self.rank is None:
            if parts is not None:
                raise StoreExistsError(
                    f"{where}: is a folder of ranks; rank=NUMBER records into it"
                )
        elif parts is None and is_ours(self.whole):
            raise StoreExistsError(f"{where}: is one store; ranks need a folder of their own")
        elif parts is not None and state is not None:
            parts.check(part_name(self.rank), state)

    def check_others(self, state: StoreState) -> None:
        """Hold the store, as it is to be, against the first other rank's.

        Raises:
            StoreMismatchError: That has other fields.
        """
        parts = None if self.rank is None else Parts.find(self.whole)
        for name, blobs in parts.stores().items() if parts is not None else ():
            other = read_state(blobs) if blobs.address != self.blobs.address else None
            if other is not None:
                wrong = other.schema.differences(state.schema)
                if wrong:
                    raise StoreMismatchError(
                        f"{self.blobs.address}: {name} beside it has other fields: "
                        f"{'; '.join(wrong)}"
                    )
                return

    def join(self) -> dict[str, Any]:
        """Make the folder if it is not there, and join it; gives the store's metadata entry.

        Raises:
            StoreExistsError: Something else lies there.
        """
        if self.rank is None:
            return {}
        parts = Parts.make(self.whole)
        told = {"of": parts.identity, "rank": self.rank, "world_size": self.world_size}
        # Before its store is made: from now on the others know if that goes missing.
        self.whole.create(f"{CLAIMS}/{part_name(self.rank)}", json.dumps(told).encode())
        return {PART: told}
