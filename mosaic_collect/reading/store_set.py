"""Opening: the stores that an address means, each with its snapshot, and those that are missing.

Fields of the same names and widths may have columns of other meanings in two stores: observation
groups in another order, another task, another history. Only the metadata show it. So whoever makes
one table of several stores checks their fields and their provenance first.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from mosaic_collect.errors import (
    ExportError,
    IncompleteStoreError,
    StoreMismatchError,
    StoreNotFoundError,
)
from mosaic_collect.reading.table import Table
from mosaic_collect.store.blobs import Blobs
from mosaic_collect.store.metadata import COMPLETE
from mosaic_collect.store.ranks import PART, Place, Recording, part_name
from mosaic_collect.store.schema import Field, Schema
from mosaic_collect.store.view import StoreView
from mosaic_collect.text import shown

#: Metadata entries that decide the meaning of columns.
ALIKE = ("simulator", "task", "robot", "groups", "terms", "observations")
_GROUPS, _TERMS, _OBSERVATIONS, _CHECKPOINT = "groups", "terms", "observations", "checkpoint"
_MAX_ID = (1 << 63) - 1
#: Stores' metadata by their paths.
Told: TypeAlias = Mapping[str, Mapping[str, Any]]


class OpenedStore(NamedTuple):
    """One store of a set.

    Attributes:
        blobs: Files of the store.
        view: Snapshot of the store; None if it was killed before its first commit.
        is_rank: Whether the store is in a folder of ranks, where one without steps may be left out.
    """

    blobs: Blobs
    view: StoreView | None
    is_rank: bool = False

    @property
    def has_steps(self) -> bool:
        """Whether a step is committed."""
        return self.view is not None and self.view.state.committed_steps > 0


@dataclass(frozen=True)
class StoreSet:
    """The stores at an address, as they are now.

    Attributes:
        address: Address that was opened.
        stores: Each store, in order.
        are_several: Whether the address means several stores, be there one or none by now.
        missing: Addresses of the stores of ranks that joined a folder and are not there.
        never_joined: Addresses of the stores of ranks that the others expect and that never came.
    """

    address: str
    stores: tuple[OpenedStore, ...]
    are_several: bool = False
    missing: tuple[str, ...] = ()
    never_joined: tuple[str, ...] = ()

    @classmethod
    def open(cls, place: Place) -> StoreSet:
        """Read the root document of every store.

        Raises:
            StoreNotFoundError: No store is there.
            StoreMismatchError: A store in a folder of ranks belongs to none of its ranks.
            StoreError: A store cannot be read.
        """
        found, stores, late = place.find(), list[OpenedStore](), list[str]()
        for one in found:
            views = {name: one.view(name) for name in one.stores}
            stores += [OpenedStore(b, views[n], one.is_multi_rank) for n, b in one.stores.items()]
            late += never_joined(one, [v.state.metadata for v in views.values() if v is not None])
        return cls(
            place.address,
            tuple(stores),
            are_several=not place.is_one or found[0].is_multi_rank,
            missing=tuple(address for one in found for address in one.missing()),
            never_joined=tuple(late),
        )

    @property
    def folders(self) -> list[str]:
        """Addresses of the stores, and of the multi-rank datasets that they are part of."""
        own = [store.blobs.address for store in self.stores]
        around = [os.path.dirname(s.blobs.address) for s in self.stores if s.is_rank]
        return list(dict.fromkeys([*own, *around]))

    def table(self) -> Table | None:
        """All stores as one table; None if none of them has had its first commit.

        Raises:
            StoreMismatchError: Their fields or their provenance differ.
            ExportError: The trajectory ids of all stores together are beyond int64.
        """
        views = [store.view for store in self.stores if store.view is not None]
        if not views:
            return None
        if self.are_several:
            check_mergeable(views, [name for view in views for name in view.grids])
        is_whole = not self.missing and len(views) == len(self.stores)
        return Table(views, self.address, is_whole)

    def with_steps(self, allow_incomplete: bool = True) -> list[StoreView]:
        """Snapshots of the stores; in folders of ranks only of those that have steps.

        Args:
            allow_incomplete: Whether ranks may be missing, or have no step yet.

        Raises:
            IncompleteStoreError: Some stores are incomplete, and that is not allowed.
            StoreNotFoundError: A store was killed before its first commit, or no rank has a step.
        """
        unfinished = [s.blobs.address for s in self.stores if s.is_rank and _is_unfinished(s)]
        late = [*self.missing, *unfinished]
        if late and not allow_incomplete:
            raise IncompleteStoreError(
                f"{', '.join(late)}: recorded by ranks that joined, and missing or without a step: "
                "finish or find them, or go on without them by allow_incomplete=True"
            )
        views = []
        for store in self.stores:
            if store.view is not None and (store.has_steps or not store.is_rank):
                views.append(store.view)
            elif not store.is_rank:
                raise StoreNotFoundError(
                    f"{store.blobs.address} was killed before its first commit: no fields"
                )
        if not views:
            raise StoreNotFoundError(f"{self.address}: no rank has a step yet")
        return views


def never_joined(found: Recording, metadata: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Addresses of the stores of ranks that the others expect, by their metadata, and never came.

    A rank that joined and whose store is missing took data with it. A rank that never joined has
    no data: the others recorded its share.
    """
    if not found.is_multi_rank:
        return ()
    entries = (each.get(PART) for each in metadata)
    sizes = (entry.get("world_size") for entry in entries if isinstance(entry, Mapping))
    most = max((size for size in sizes if isinstance(size, int)), default=0)
    known = {*found.missing(), *(blobs.address for blobs in found.stores.values())}
    late = (found.blobs.within(name).address for name in map(part_name, range(most)))
    return tuple(address for address in late if address not in known)


def check_mergeable(
    views: Sequence[StoreView], names: Collection[str], allowed: Collection[str] = ()
) -> None:
    """Refuse stores that differ in these fields, or whose columns may have other meanings.

    Order and defaults of fields do not matter: what they decided is in the recorded rows. Numbers
    of environments may differ, and so may the allowed entries of ``ALIKE``. A missing entry is no
    difference.

    Raises:
        StoreMismatchError: Naming all that differs.
        ExportError: The trajectory ids of all stores together are beyond int64.
    """
    first, *others = views
    problems = [
        f"{other.address}: {problem}"
        for other in others
        for problem in _differences(first.state.schema, other.state.schema, names)
    ]
    if problems:
        raise StoreMismatchError(
            f"stores that are read as one must have the same fields as {first.address}: "
            + "; ".join(problems)
        )
    if sum(view.state.next_trajectory_id for view in views) > _MAX_ID:
        raise ExportError("the stores' trajectory ids, one behind the other, are beyond int64")
    stores = {view.address: _of_fields(view.state.metadata, names) for view in views}
    found = [
        f"{words}, unless allow_different='{name}'"
        for name, words in _origins_apart(stores)
        if name not in allowed
    ]
    if found:
        raise StoreMismatchError(
            "stores that are read as one must be of the same origin, or columns of one name mean "
            f"other things: {'; '.join(found)}"
        )


def alike_notes(stores: Told) -> Iterator[str]:
    """Yield sentences on differences between stores that were joined."""
    for name, words in _origins_apart(stores):
        yield f"the stores differ in {name}, which was allowed: {words}"
    for name in ALIKE:
        silent = [path for path, told in stores.items() if told.get(name) is None]
        if 0 < len(silent) < len(stores):
            yield f"not all stores say their {name}: {', '.join(silent)} may be of another"
    checkpoints = {_checkpoint_hash(told) for told in stores.values()} - {None}
    if len(checkpoints) > 1:
        yield f"the stores are of {len(checkpoints)} checkpoints"


def _is_unfinished(store: OpenedStore) -> bool:
    """Whether a rank may still record its first step."""
    return not store.has_steps and (store.view is None or store.view.state.status != COMPLETE)


def _differences(first: Schema, other: Schema, names: Collection[str]) -> list[str]:
    mine, theirs = ({f.name: _form(f) for f in s.fields if f.name in names} for s in (first, other))
    absent = "no such field"
    return [
        f"{name}: expected {mine.get(name, absent)}, got {theirs.get(name, absent)}"
        for name in {**mine, **theirs}
        if mine.get(name) != theirs.get(name)
    ]


def _form(field: Field) -> str:
    """Width and type of a field in words."""
    width = "one value" if field.dim is None else f"dim {field.dim}"
    return f"{width} of {field.dtype}"


def _of_fields(told: Mapping[str, Any], fields: Collection[str]) -> dict[str, Any]:
    """Metadata on these fields; ``groups`` are the columns of ``observations``."""
    terms = told.get(_TERMS)
    if isinstance(terms, Mapping):
        terms = {field: of for field, of in terms.items() if field in fields}
    groups = told.get(_GROUPS) if _OBSERVATIONS in fields else None
    return {**told, _GROUPS: groups, _TERMS: terms}


def _origins_apart(stores: Told) -> Iterator[tuple[str, str]]:
    """Yield each differing entry, with the values of the first store and the first other one."""
    for name in ALIKE:
        said = {path: told[name] for path, told in stores.items() if told.get(name) is not None}
        if not said:
            continue
        first, *others = said
        for other in others:
            if _ordered(said[first]) != _ordered(said[other]):
                mine, theirs = _apart(said[first], said[other])
                yield name, f"{name}: {first} says {_words(mine)}, {other} says {_words(theirs)}"
                break


def _ordered(value: Any) -> Any:
    """The order of groups is the order of columns."""
    return list(value.items()) if isinstance(value, Mapping) else value


def _apart(mine: Any, theirs: Any) -> tuple[Any, Any]:
    """Without the entries that both have; with all of them if only their order differs."""
    if not isinstance(mine, Mapping) or not isinstance(theirs, Mapping) or mine == theirs:
        return mine, theirs
    absent = object()
    left = {k: v for k, v in mine.items() if theirs.get(k, absent) != v}
    return left, {k: v for k, v in theirs.items() if mine.get(k, absent) != v}


def _words(value: Any) -> str:
    """A value as text, entries in their order, which a bounded ``repr`` does not keep."""
    if not isinstance(value, Mapping):
        return shown(value)
    return shown(", ".join(f"{shown(k)}: {shown(v)}" for k, v in value.items()) or "nothing")


def _checkpoint_hash(told: Mapping[str, Any]) -> str | None:
    file = told.get(_CHECKPOINT)
    return str(file.get("sha256")) if isinstance(file, Mapping) else None
