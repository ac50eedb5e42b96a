"""A folder of ranks: a Zarr group whose children are stores, one a rank.

    expert/
      zarr.json        who comes first makes it; nobody ever changes it
      claims/          an empty array, in whose folder lies what ranks claimed:
        zarr.json
        rank-00001         that number has joined
      rank-00000/      a store like any other, with a writer of its own
      rank-00001/

A store that joined says so in its metadata, under ``part``: of which folder it is, and its number.
So a folder that was copied in from another recording is told from one that belongs there.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mosaic_collect.errors import (
    CorruptStoreError,
    NewerFormatError,
    StoreExistsError,
    StoreMismatchError,
    StoreNotFoundError,
)
from mosaic_collect.store.blobs import Blobs
from mosaic_collect.store.metadata import ATTRIBUTE, StoreState
from mosaic_collect.store.parsing import refuse_large
from mosaic_collect.store.root import DOCUMENT, read_document
from mosaic_collect.store.strict_json import object_in, strict_json

#: The group's attribute, and the metadata entry of a store that is part of it.
PARTS, PART = "mosaic_collect_parts", "part"
CLAIMS = "claims"
VERSION = 1
MAX_RANK = 99_999
_NAME = re.compile(r"rank-(\d{5})")


def part_name(rank: int) -> str:
    """The name of a rank's store, such as ``rank-00003``."""
    return f"rank-{rank:05d}"


def rank_of(name: str) -> int | None:
    """The rank whose store has this name; None if it is no such name."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else None


@dataclass(frozen=True)
class Parts:
    """A folder of ranks that is there.

    Attributes:
        blobs: Of the folder.
        identity: Of this folder alone, 16 random bytes as hex.
    """

    blobs: Blobs
    identity: str

    @classmethod
    def find(cls, blobs: Blobs) -> Parts | None:
        """The folder of ranks that lies there; None if it is none.

        Raises:
            CorruptStoreError: It has lost its document, or is a store, too; or is damaged.
            NewerFormatError: A newer package made it.
        """
        data = read_document(blobs)
        ranks: list[str] = []
        # Where a listing is a request, and needs a permission of its own, a store needs none.
        if data is None or PARTS.encode() in data or not blobs.guards:
            ranks = [name for name in blobs.names() if rank_of(name) is not None]
        if data is None and ranks:
            # A folder has its document before it has ranks.
            data = read_document(blobs)
            if data is None:
                raise CorruptStoreError(
                    f"{blobs.address}: {DOCUMENT} is missing, though {ranks[0]} is there: copy "
                    "it, too, or name the stores one by one"
                )
        if data is None or (PARTS.encode() not in data and not ranks):
            return None
        attributes = _attributes(data, blobs.address)
        if ATTRIBUTE in attributes and (ranks or PARTS in attributes):
            raise CorruptStoreError(
                f"{blobs.address}: is a store, and a folder of ranks"
                + (f": {ranks[0]} lies in it" if ranks else "")
            )
        if PARTS not in attributes:
            return None
        return cls(blobs, _identity(object_in(attributes, PARTS), blobs.address))

    @classmethod
    def make(cls, blobs: Blobs) -> Parts:
        """The folder of ranks, made if it is not there yet; any number may call this at once.

        Raises:
            StoreExistsError: Something else lies there.
        """
        # In this order: what others make meanwhile is nothing strange.
        names = blobs.names()
        found = cls.find(blobs)
        if found is not None:
            return found
        strange = [n for n in names if n != CLAIMS and not blobs.is_debris(n)]
        if not strange:
            blobs.make()
            blobs.make_folders([CLAIMS])
            blobs.create(f"{CLAIMS}/{DOCUMENT}", _claims_document())
            blobs.create(DOCUMENT, _document(secrets.token_hex(16)))
            found = cls.find(blobs)
        if found is None:
            raise StoreExistsError(
                f"{blobs.address}: expected a folder of ranks or nothing, found "
                f"{(strange or [DOCUMENT])[0]} in it"
            )
        return found

    def stores(self) -> dict[str, Blobs]:
        """The stores of ranks by their names, in the order of ranks.

        Raises:
            CorruptStoreError: A store lies there that is no rank's, and would be passed over.
        """
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
        """Names of ranks that joined and whose stores are not there."""
        names = [n for n in self.blobs.names(CLAIMS) if rank_of(n) is not None]
        there = self.blobs.names() if names else []
        return [name for name in names if name not in there]

    def check(self, name: str, state: StoreState) -> None:
        """Make sure that a store is this folder's rank of that name.

        Raises:
            StoreMismatchError: It is of another folder, of another rank, or of none.
        """
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
    refuse_large(data, where)
    return object_in(strict_json(data, where), "attributes")


def _identity(told: Mapping[str, Any], where: str) -> str:
    version, identity = told.get("format_version"), told.get("identity")
    if type(version) is int and version > VERSION:
        raise NewerFormatError(
            f"{where}: a folder of ranks of format version {version}, this mosaic_collect reads up "
            f"to {VERSION}: upgrade it"
        )
    if type(version) is not int or not isinstance(identity, str) or not identity:
        raise CorruptStoreError(f"{where}: {DOCUMENT} is of a folder of ranks, and is damaged")
    return identity


def _document(identity: str) -> bytes:
    attributes = {PARTS: {"format_version": VERSION, "identity": identity}}
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return json.dumps(group).encode()


def _claims_document() -> bytes:
    """An array without values: what else lies in an array's folder is no business of Zarr's."""
    chunks = {"name": "regular", "configuration": {"chunk_shape": [1]}}
    return json.dumps(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [0],
            "data_type": "uint8",
            "chunk_grid": chunks,
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": 0,
            "codecs": [{"name": "bytes"}],
            "attributes": {},
            "dimension_names": ["claim"],
        }
    ).encode()
