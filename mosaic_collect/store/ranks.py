"""Stores that an address means, and the ranks of a multi-rank dataset.

    expert.zarr                   a store
    expert/                       a multi-rank dataset: all its stores, those that come later, too
    runs/*.zarr, runs/**/*.zarr   what matches, sorted; ** at any depth
    ["a.zarr", "expert/", ...]    each of these, in this order

A multi-rank dataset is a Zarr group whose children are stores, one per rank:

    expert/
      zarr.json        made by the rank that comes first, and never changed
      claims/          an empty array, in whose folder lies what ranks claimed:
        zarr.json
        rank-00001         that rank has joined
      rank-00000/      a store like any other, with a writer of its own
      rank-00001/

A store that joined has an entry ``part`` in its metadata: the identity of its folder, and its rank.
"""

from __future__ import annotations

import glob
import json
import os
import re
import secrets
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, Union

from mosaic_collect.checks import local_path, whole
from mosaic_collect.errors import (
    CorruptStoreError,
    InputError,
    NewerFormatError,
    StoreExistsError,
    StoreMismatchError,
    StoreNotFoundError,
)
from mosaic_collect.store.blobs import Blobs
from mosaic_collect.store.metadata import ATTRIBUTE, StoreState
from mosaic_collect.store.objects import blobs_at_url, blobs_in, is_store_object, is_url
from mosaic_collect.store.parsing import json_object, object_in
from mosaic_collect.store.posix import PosixBlobs
from mosaic_collect.store.view import DOCUMENT, StoreView, other_names, read_document, read_state

if TYPE_CHECKING:
    from obstore.store import ObjectStore
else:
    ObjectStore = Any

#: A store's place: a path, a URL of object storage, or a store object of obstore.
Address = Union[str, os.PathLike[str], Blobs, ObjectStore]  # noqa: UP007  obstore's is no type at run time
#: One store's place, or those of several.
Addresses = Union[Address, Sequence[Address]]  # noqa: UP007


def blobs_at(where: Address, name: str = "path") -> Blobs:
    """The blobs of the store at a path, made absolute now, at a URL, or those that are given.

    ``name`` is the argument's, for errors.

    Raises:
        InputError: No name of a folder, a URL of no object storage, or a zip archive.
        MissingDependencyError: Object storage, and obstore is not installed.
    """
    if not isinstance(where, str) and isinstance(where, Blobs):
        return where
    if is_store_object(where):
        return blobs_in(where, name)
    if is_url(where):
        return blobs_at_url(str(where), name)
    path = os.path.abspath(local_path(where, name))
    if os.path.isfile(path) and zipfile.is_zipfile(path):
        raise InputError(
            f"{name}: expected a store's folder, got the zip archive {path}: unpack it first, such "
            f"as by python -m zipfile -e {path} FOLDER"
        )
    return PosixBlobs(path)


#: The group's attribute, and the metadata entry of a store that is part of it.
PARTS, PART = "mosaic_collect_parts", "part"
CLAIMS = "claims"
VERSION = 1
MAX_RANK = 99_999
_NAME = re.compile(r"rank-(\d{5})")
#: An array without values: what else lies in an array's folder is no business of Zarr's.
_CLAIMS = {
    "node_type": "array",
    "shape": [0],
    "data_type": "uint8",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1]}},
    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
    "fill_value": 0,
    "codecs": [{"name": "bytes"}],
    "attributes": {},
    "dimension_names": ["claim"],
}


def part_name(rank: int) -> str:
    """Name of a rank's store, such as ``rank-00003``."""
    return f"rank-{rank:05d}"


def rank_of(name: str) -> int | None:
    """The rank whose store has this name; None if it is no such name."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else None


@dataclass(frozen=True)
class Recording:
    """One store, or a multi-rank dataset, at an address.

    Attributes:
        blobs: Files of the store, or of the folder of all ranks.
        identity: Identity of the multi-rank dataset, 16 random bytes as hex; None for one store.
        document: Root document of one store, as it was found, so that it need not be read again;
            None if there is none.
    """

    blobs: Blobs
    identity: str | None = None
    document: bytes | None = field(default=None, repr=False)

    @classmethod
    def find(cls, blobs: Blobs) -> Recording:
        """Look at what lies there; where nothing lies, that is one store without a document.

        Raises:
            CorruptStoreError: A multi-rank dataset has no document, is damaged, or is a store, too.
            NewerFormatError: A newer package made the multi-rank dataset.
        """
        data, where = read_document(blobs), blobs.address
        ranks: list[str] = []
        # Where a listing is a request, and needs a permission of its own, a store needs none.
        if data is None or PARTS.encode() in data or not blobs.guards:
            ranks = [name for name in blobs.names() if rank_of(name) is not None]
        if data is None and ranks:
            data = read_document(blobs)  # which is made before any rank
            if data is None:
                raise CorruptStoreError(
                    f"{where}: {DOCUMENT} is missing, though {ranks[0]} is there: copy "
                    "it, too, or name the stores one by one"
                )
        if data is None or (PARTS.encode() not in data and not ranks):
            return cls(blobs, None, data)
        attributes = _attributes(data, where)
        if ATTRIBUTE in attributes and (ranks or PARTS in attributes):
            raise CorruptStoreError(
                f"{where}: is a store, and a folder of ranks"
                + (f": {ranks[0]} lies in it" if ranks else "")
            )
        if PARTS not in attributes:
            return cls(blobs, None, data)
        version, identity = map(object_in(attributes, PARTS).get, ("format_version", "identity"))
        if type(version) is int and version > VERSION:
            raise NewerFormatError(
                f"{where}: a folder of ranks of format version {version}, this mosaic_collect "
                f"reads up to {VERSION}: upgrade it"
            )
        if type(version) is not int or not isinstance(identity, str) or not identity:
            raise CorruptStoreError(f"{where}: {DOCUMENT} is of a folder of ranks, and is damaged")
        return cls(blobs, identity)

    @classmethod
    def make(cls, blobs: Blobs) -> Recording:
        """Make a multi-rank dataset if it is not there yet; any number may call this at once.

        Raises:
            StoreExistsError: Something else lies there.
        """
        # In this order: what others make meanwhile is nothing strange.
        strange, found = other_names(blobs, [CLAIMS]), cls.find(blobs)
        if found.is_multi_rank:
            return found
        if not strange:
            blobs.make()
            blobs.make_folders([CLAIMS])
            parts = {"format_version": VERSION, "identity": secrets.token_hex(16)}
            group = {"node_type": "group", "attributes": {PARTS: parts}}
            for key, document in ((f"{CLAIMS}/{DOCUMENT}", _CLAIMS), (DOCUMENT, group)):
                blobs.create(key, json.dumps({"zarr_format": 3, **document}).encode())
            found = cls.find(blobs)
        if not found.is_multi_rank:
            raise StoreExistsError(
                f"{blobs.address}: expected a folder of ranks or nothing, found "
                f"{(strange or [DOCUMENT])[0]} in it"
            )
        return found

    @property
    def is_multi_rank(self) -> bool:
        """Whether several ranks record into it, each a store of its own."""
        return self.identity is not None

    @cached_property
    def stores(self) -> dict[str, Blobs]:
        """Stores by their names; of a multi-rank dataset in the order of ranks.

        Raises:
            CorruptStoreError: A store lies among the ranks' that is no rank's.
        """
        if not self.is_multi_rank:
            return {os.path.basename(self.blobs.address): self.blobs}
        found = {}
        for name in self.blobs.names():
            inside = self.blobs.within(name)
            if rank_of(name) is not None:
                found[name] = inside
            elif name != CLAIMS and is_ours(inside):
                raise CorruptStoreError(
                    f"{inside.address}: a store among ranks, which none of them made: move it out"
                )
        return found

    def missing(self) -> list[str]:
        """Addresses of the stores of ranks that joined and are not there."""
        if not self.is_multi_rank:
            return []
        names = [n for n in self.blobs.names(CLAIMS) if rank_of(n) is not None]
        there = self.blobs.names() if names else []
        return [self.blobs.within(name).address for name in names if name not in there]

    def view(self, name: str) -> StoreView | None:
        """Snapshot of one of its stores; None if that was killed before its first commit.

        Raises:
            StoreMismatchError: The store is of another multi-rank dataset, another rank, or none.
            StoreError: The store cannot be read.
        """
        view = StoreView.of(self.stores[name], self.document)
        if view is not None and self.is_multi_rank:
            self.check(name, view.state)
        return view

    def check(self, name: str, state: StoreState) -> None:
        """Refuse a store that is not this dataset's rank of that name; errors as of ``view``."""
        where, told = self.blobs.within(name).address, state.metadata.get(PART)
        if not isinstance(told, Mapping):
            raise StoreMismatchError(f"{where}: was recorded by itself, as no rank of this folder")
        if told.get("of") != self.identity:
            raise StoreMismatchError(f"{where}: was recorded in another folder of ranks")
        if told.get("rank") != rank_of(name):
            raise StoreMismatchError(
                f"{where}: was recorded as rank {told.get('rank')!r}, and is named as another"
            )


def is_ours(blobs: Blobs) -> bool:
    """Whether a store or a folder of ranks lies there."""
    try:
        data = read_document(blobs)
        return data is not None and not {ATTRIBUTE, PARTS}.isdisjoint(
            _attributes(data, blobs.address)
        )
    except (CorruptStoreError, StoreNotFoundError):
        return False


def _attributes(data: bytes, where: str) -> dict[str, Any]:
    return object_in(json_object(data, where), "attributes")


@dataclass(frozen=True)
class Place:
    """Blobs, and patterns of absolute paths, whose stores are found by ``find``. Pickles."""

    items: tuple[Blobs | str, ...]
    address: str

    @classmethod
    def of(cls, where: Addresses, name: str = "path") -> Place:
        """The place of a store, a folder of ranks, a pattern, or several; as of ``blobs_at``."""
        several = where if isinstance(where, Sequence) and not isinstance(where, str) else [where]
        if not several:
            raise InputError("stores: expected at least one, got none")
        items = tuple(_pattern(item, name) or blobs_at(item, name) for item in several)
        return cls(items, ", ".join(i if isinstance(i, str) else i.address for i in items))

    def find(self) -> list[Recording]:
        """Find the stores that lie there now.

        Raises:
            InputError: One store is named twice.
            StoreNotFoundError: Nothing matches a pattern.
            CorruptStoreError: A folder of ranks is damaged, or holds what is no rank's.
        """
        each = chain.from_iterable(map(_matches, self.items))
        found = [Recording.find(blobs) for blobs in each]
        check_distinct(blobs for one in found for blobs in one.stores.values())
        return found

    @property
    def is_one(self) -> bool:
        """Whether one store was named, so that nothing but that can be meant."""
        return len(self.items) == 1 and not isinstance(self.items[0], str)


def addresses_of(where: Addresses, name: str = "store") -> list[str]:
    """Addresses of all that is named, multi-rank datasets as such; nothing is read there."""
    items = Place.of(where, name).items
    return [blobs.address for blobs in chain.from_iterable(map(_matches, items))]


def check_distinct(stores: Iterable[Blobs]) -> None:
    """Refuse the same store twice, be it by another name: its pairs would count twice."""
    seen: dict[str, str] = {}
    for store in stores:
        place = store.place() or store.address
        if place in seen:
            raise InputError(f"{store.address}: the same store as {seen[place]}; each counts once")
        seen[place] = store.address


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


class Destination:
    """A place to record into: a store, or that of a rank in a folder of ranks.

    Args:
        where: Blobs of the store, or of the folder of ranks.
        rank: Number of the rank; None: the place is one store.
        world_size: Number of ranks now, as far as known.

    Attributes:
        whole: Blobs of the store, or of the folder of ranks.
        blobs: Blobs of the store to record into.
    """

    def __init__(self, where: Blobs, rank: Any = None, world_size: Any = None) -> None:
        if world_size is not None:
            world_size = whole(world_size, "world_size", 1, MAX_RANK + 1)
        most = MAX_RANK if world_size is None else world_size - 1
        self.whole, self.world_size = where, world_size
        self.rank = None if rank is None else whole(rank, "rank", 0, most)
        self.blobs = where if self.rank is None else where.within(part_name(self.rank))

    def check(self, state: StoreState | None) -> None:
        """Refuse a place that is not what it is taken for; without a state the store is to come.

        Raises:
            StoreExistsError: A store is to lie where ranks are, or ranks where a store is.
            StoreMismatchError: The rank's store is of another folder.
        """
        found, where = Recording.find(self.whole), self.whole.address
        if self.rank is None:
            if found.is_multi_rank:
                raise StoreExistsError(
                    f"{where}: is a folder of ranks; rank=NUMBER records into it"
                )
        elif not found.is_multi_rank and is_ours(self.whole):
            raise StoreExistsError(f"{where}: is one store; ranks need a folder of their own")
        elif found.is_multi_rank and state is not None:
            found.check(part_name(self.rank), state)

    def others(self) -> Iterator[tuple[str, Blobs]]:
        """Names and blobs of the other ranks' stores."""
        found = Recording.find(self.whole)
        for name, blobs in found.stores.items() if found.is_multi_rank else ():
            if blobs.address != self.blobs.address:
                yield name, blobs

    def join(self, existing: StoreState | None, state: StoreState) -> StoreState:
        """Make the folder of ranks if it is not there, and join it before its store is made.

        Returns:
            The state that the store is to have, with the metadata entry of its rank if it has one.

        Raises:
            StoreMismatchError: The first other rank's store has other fields; or as of ``check``.
        """
        if self.rank is None:
            return state
        self.check(existing)
        for name, blobs in self.others():
            other = read_state(blobs)
            if other is None:
                continue
            if wrong := other.schema.differences(state.schema):
                raise StoreMismatchError(
                    f"{self.blobs.address}: {name} beside it has other fields: {'; '.join(wrong)}"
                )
            break
        told = {
            "of": Recording.make(self.whole).identity,
            "rank": self.rank,
            "world_size": self.world_size,
        }
        # Before its store is made: from now on the others know if that goes missing.
        self.whole.create(f"{CLAIMS}/{part_name(self.rank)}", json.dumps(told).encode())
        return replace(state, metadata={**state.metadata, PART: told})
