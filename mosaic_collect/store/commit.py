"""Writing to a store: which operation comes before which, so that every instant is a good one.

    1. shards: written, safe under their names         (blobs.Upload)
    2. settle the folders that gained a name           (publish)
    3. replace the root zarr.json, settle it           (publish)  <- the commit
    4. let each array's own zarr.json follow           (publish)

The root document alone says what exists. What lies past its ``committed_steps`` is debris of a
killed run; ``recover`` removes it. This module knows blobs and states, not values.
"""

from __future__ import annotations

import errno
import json
import logging
import re
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from typing import Any

from mosaic_collect.errors import (
    CorruptStoreError,
    StoreError,
    StoreLostError,
)
from mosaic_collect.store.blobs import Blobs, ChangedError, Pending, Upload, Version
from mosaic_collect.store.label import ShardLabel
from mosaic_collect.store.metadata import (
    ATTRIBUTE,
    Foreign,
    StoreState,
    array_document,
    root_document,
)
from mosaic_collect.store.parsing import refuse_large
from mosaic_collect.store.root import DOCUMENT, read_document, read_state

_log = logging.getLogger(__name__)
_MOST_MISSING = 1000  # that are counted
_FULL = (errno.ENOSPC, errno.EDQUOT)
_SHARD = re.compile(r"c\.(\d+)(\.0)+")


class Store:
    """A store that is written to.

    Args:
        blobs: Its blobs.
    """

    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs
        self._root: Version | None = None
        # What the root document may say: the last commit, and the one under way.
        self._ours: tuple[StoreState, ...] = ()
        self._foreign = Foreign()
        self._holder = ""
        self._attributes: dict[str, dict[str, Any]] = {}

    def look(self) -> StoreState | None:
        """What the store says now; from here on nobody else may change it.

        Raises:
            StoreError: As ``read_state``'s.
        """
        self._root = self.blobs.find(DOCUMENT)
        state = read_state(self.blobs)
        if state is not None:
            self._foreign, self._ours = state.foreign, (state,)
        return state

    def require_ours(self) -> None:
        """Make sure that the store is still the one that was opened, as it was left.

        What others added to the group meanwhile is taken over, and kept.

        Raises:
            StoreLostError: It is not.
        """
        self.blobs.require_place()
        seen = self.blobs.find(DOCUMENT)
        if seen != self._root:
            self._foreign, self._root = self._additions(), seen

    def explained(self, error: BaseException) -> BaseException:
        """A failure, or what became of the store if that is why."""
        if isinstance(error, StoreLostError):
            return error
        try:
            self.require_ours()
        except StoreLostError as lost:
            lost.__cause__ = error
            return lost
        except OSError:
            pass
        return error

    def begin(self, state: StoreState, holder: str) -> None:
        """Make an empty store: the root document first, so that any kill leaves a store.

        Args:
            state: Of the store.
            holder: Who writes from now on, ``Run.key``.
        """
        self._holder = holder
        self._write_root(state)
        self._make_arrays(state)

    def shard(self, state: StoreState, name: str, block: int, twins: Iterable[str] = ()) -> Upload:
        """Open the shard of a field and block for writing; the old one stays until ``finish``.

        Args:
            state: That is true once it is finished.
            name: The field's.
            block: Which.
            twins: Fields that ``twin`` will give the same bytes.
        """
        shard = self.blobs.upload(state.grid(name).shard_key(block))
        try:
            if state.identity:
                shard.write([ShardLabel.of(state, name, block, twins).pack()])
        except BaseException:
            shard.abandon()
            raise
        return shard

    def twin(self, state: StoreState, name: str, source: str, block: int) -> Pending:
        """The shard of a field and block that has the bytes of field ``source``'s."""
        return self.blobs.alias(*(state.grid(n).shard_key(block) for n in (source, name)))

    def publish(self, state: StoreState, with_shards: bool) -> None:
        """Commit ``state``: when it returns, it is what every later opening sees.

        Args:
            state: What is to be true; its shards are finished.
            with_shards: Whether shards were finished since the last call.
        """
        self.require_ours()
        if with_shards:
            self.blobs.settle(_folders(state))
        self._write_root(state)
        self._write_array_documents(state)

    def recover(self, state: StoreState, holder: str) -> list[str]:
        """Make the store agree with its root document before more is written.

        The root document is written anew: the run before may have died between replacing it and
        syncing that, or because that sync failed, and then a second sync of the same replacement
        proves nothing. Only when it is surely there may arrays follow it, and only then is it sure
        that what lies past it is debris, and not of another writer, where there are no locks to
        keep one out. Unless the disk is full: then it may be debris that fills it.

        Args:
            state: As committed.
            holder: Who writes from now on, ``Run.key``; who did before is told at its next commit.

        Returns:
            Keys of removed debris.

        Raises:
            CorruptStoreError: A committed shard is missing, or a field's folder is a link.
        """
        self._holder = holder
        self.blobs.check_folders(_folders(state))
        missing = missing_shards(self.blobs, state)
        if missing:
            raise CorruptStoreError(
                f"{self.blobs.address}: {_number_of(missing)} committed shards are missing, "
                f"{missing[0]} first"
            )
        self._attributes = {name: self._additions_to(name) for name in _folders(state)}
        arrays = self._foreign.arrays
        there = {k: v for k, v in arrays.items() if self.blobs.find(f"{k}/{DOCUMENT}")}
        self._foreign = replace(self._foreign, arrays=there)
        removed = self._debris(state)
        try:
            self._write_root(state)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self.blobs.remove(removed)
            self._write_root(state)
        self.blobs.remove(removed)
        self._make_arrays(state)
        return removed

    def _debris(self, state: StoreState) -> list[str]:
        found = [n for n in self.blobs.names() if self.blobs.is_debris(n)]
        for folder in _folders(state):
            names = self.blobs.names(folder)
            found += [f"{folder}/{n}" for n in names if self._is_debris(n, state.num_blocks)]
        return found

    def _is_debris(self, name: str, num_blocks: int) -> bool:
        shard = _SHARD.fullmatch(name)
        past = shard is not None and int(shard.group(1)) >= num_blocks
        return past or self.blobs.is_debris(name)

    def _write_root(self, state: StoreState) -> None:
        state = replace(state, holder=self._holder)
        data = root_document(replace(state, foreign=self._foreign))
        # Before it is written: what no reader would read must not replace what they can.
        refuse_large(data, self.blobs.address)
        self._ours = (*self._ours[-1:], state)
        try:
            self._root = self.blobs.replace(DOCUMENT, data, self._root)
        except ChangedError:
            self.require_ours()  # or else somebody added to it just now
            self._write_root(state)
            return
        self._ours = (state,)
        self.blobs.settle([""])

    def _make_arrays(self, state: StoreState) -> None:
        self.blobs.make_folders(_folders(state))
        self._write_array_documents(state)
        self.blobs.settle([*_folders(state), ""])

    def _write_array_documents(self, state: StoreState) -> None:
        for name in _folders(state):
            held = replace(state, holder=self._holder)
            document = array_document(held, name, self._attributes.get(name))
            self.blobs.put(f"{name}/{DOCUMENT}", document)

    def _additions(self) -> Foreign:
        """What others added to the group, if that is all that has changed.

        Raises:
            StoreLostError: It is not.
        """
        where = self.blobs.address
        try:
            now = read_state(self.blobs)
        except (StoreError, OSError) as error:
            raise StoreLostError(f"{where}: its root document is not readable: {error}") from error
        if now is None:
            raise StoreLostError(f"{where}: its root document is gone")
        steps = now.committed_steps
        if now.identity not in [ours.identity for ours in self._ours]:
            raise StoreLostError(f"{where}: another store, of {steps} steps, lies there now")
        same = now in [replace(ours, foreign=now.foreign) for ours in self._ours]
        if not same or now.holder != self._holder:
            raise StoreLostError(f"{where}: another writer went on with it, to {steps} steps")
        _log.warning("%s: somebody added to the group; that is kept", where)
        return now.foreign

    def _additions_to(self, name: str) -> dict[str, Any]:
        """Attributes that others gave an array."""
        data = read_document(self.blobs, name)
        try:
            document = json.loads(data or b"{}")
        except ValueError:
            return {}
        attributes = document.get("attributes") if isinstance(document, dict) else None
        told = attributes if isinstance(attributes, dict) else {}
        return {k: v for k, v in told.items() if k != ATTRIBUTE}


def missing_shards(blobs: Blobs, state: StoreState, most: int = _MOST_MISSING) -> list[str]:
    """Keys of committed shards that are not there, at most so many.

    Metadata may claim more blocks than could ever be counted: after this call none is missing or
    the claim is known to be wrong.
    """
    missing: list[str] = []
    for name, grid in state.grids().items():
        have = set(blobs.names(name))
        blocks = range(state.num_blocks)
        absent = (grid.shard_key(b) for b in blocks if grid.shard_name(b) not in have)
        missing += islice(absent, most - len(missing))
    return missing


def _folders(state: StoreState) -> list[str]:
    return [f.name for f in state.schema.stored]


def _number_of(missing: list[str]) -> str:
    return str(len(missing)) if len(missing) < _MOST_MISSING else f"{_MOST_MISSING} or more"
