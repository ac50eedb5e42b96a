"""From what a user writes to the stores that it means: the one place where that is decided.

    expert.zarr                   a store
    expert/                       a folder of ranks: all of them, those that come later, too
    runs/*.zarr, runs/**/*.zarr   what matches, sorted; ** at any depth
    ["a.zarr", "expert/", ...]    each of these, in this order

Whatever takes a store takes these, by ``Place``.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from mosaic_collect.checks import local_path
from mosaic_collect.errors import InputError, StoreNotFoundError
from mosaic_collect.store.address import Addresses, blobs_at
from mosaic_collect.store.blobs import Blobs
from mosaic_collect.store.parts import Parts
from mosaic_collect.store.urls import is_url


@dataclass(frozen=True)
class Found:
    """What lies at one of the places that were named.

    Attributes:
        address: The place.
        stores: By their names; of a folder of ranks as they are called there.
        parts: The folder of ranks; None for stores of their own.
    """

    address: str
    stores: dict[str, Blobs]
    parts: Parts | None

    def missing(self) -> list[str]:
        """Where ranks' stores should lie that joined a folder, and do not."""
        if self.parts is None:
            return []
        return [self.parts.blobs.within(name).address for name in self.parts.missing()]


@dataclass(frozen=True)
class Place:
    """What was named; stores are looked for when asked for. Pickles.

    Attributes:
        items: Blobs, or patterns of absolute paths.
        address: In words.
    """

    items: tuple[Blobs | str, ...]
    address: str

    @classmethod
    def of(cls, where: Addresses, name: str = "path") -> Place:
        """Made absolute now; errors as ``blobs_at``'s.

        Args:
            where: The place of a store, of a folder of ranks, a pattern, or several of these.
            name: The argument's name, for errors.
        """
        several = where if isinstance(where, Sequence) and not isinstance(where, str) else [where]
        if not several:
            raise InputError("stores: expected at least one, got none")
        items = tuple(_pattern(item, name) or blobs_at(item, name) for item in several)
        return cls(items, ", ".join(i if isinstance(i, str) else i.address for i in items))

    def find(self) -> list[Found]:
        """What lies there now.

        Raises:
            InputError: One store is named twice.
            StoreNotFoundError: Nothing matches a pattern.
            CorruptStoreError: A folder of ranks is damaged, or holds what is no rank's.
        """
        found = [_found(blobs) for blobs in chain.from_iterable(map(_matches, self.items))]
        check_distinct(blobs for one in found for blobs in one.stores.values())
        return found

    @property
    def is_one(self) -> bool:
        """Whether one store was named, so that nothing but that can be meant."""
        return len(self.items) == 1 and not isinstance(self.items[0], str)


def addresses_of(where: Addresses, name: str = "store") -> list[str]:
    """Where all that is meant lies, folders of ranks as such; errors as ``Place``'s."""
    return [found.address for found in Place.of(where, name).find()]


def check_distinct(stores: Iterable[Blobs]) -> None:
    """Refuse the same store twice: its pairs would count twice, unseen.

    Raises:
        InputError: One is named twice, be it by another name.
    """
    seen: dict[str, str] = {}
    for store in stores:
        place = store.place() or store.address
        if place in seen:
            raise InputError(f"{store.address}: the same store as {seen[place]}; each counts once")
        seen[place] = store.address


def _found(blobs: Blobs) -> Found:
    parts = Parts.find(blobs)
    if parts is None:
        return Found(blobs.address, {os.path.basename(blobs.address): blobs}, None)
    return Found(blobs.address, parts.stores(), parts)


def _pattern(item: object, name: str) -> str | None:
    """An absolute pattern; None for what names one place, be it with a bracket in it."""
    if (
        not isinstance(item, (str, os.PathLike))
        or is_url(item)
        or not glob.has_magic(os.fspath(item))
    ):
        return None
    path = os.path.abspath(local_path(item, name))
    return None if os.path.lexists(path) else path


def _matches(item: Blobs | str) -> Iterator[Blobs]:
    if not isinstance(item, str):
        yield item
        return
    found = [path for path in sorted(glob.glob(item, recursive=True)) if os.path.isdir(path)]
    if not found:
        raise StoreNotFoundError(f"no store matches {item}")
    yield from map(blobs_at, found)
