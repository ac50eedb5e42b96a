"""Writing to a store: which operation comes before which, so that every instant is a good one.

    1. shards: written, safe under their names         (blobs.Upload)
    2. settle the folders that gained a name           (publish)
    3. replace the root zarr.json, settle it           (publish)  <- the commit
    4. copy its state, for tools that drop it          (publish)
    5. let each array's own zarr.json follow           (finish)   when the writer closes

The root document alone says what exists. What lies past its ``committed_steps`` is debris of a
killed run; ``recover`` removes it. This module knows blobs and states, not values.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from mosaic_collect.errors import (
    CorruptStoreError,
    StoreError,
    StoreLostError,
)
from mosaic_collect.store.blobs import Blobs, ChangedError, Upload, Version
from mosaic_collect.store.files import NO_ROOM
from mosaic_collect.store.metadata import (
    COLLECTING,
    SPARE,
    StoreState,
    array_document,
    root_document,
)
from mosaic_collect.store.parsing import refuse_large
from mosaic_collect.store.shard import ShardLabel
from mosaic_collect.store.view import (
    DOCUMENT,
    STATE_COPY,
    attributes_of,
    looked_through,
    read_state,
)

_log = logging.getLogger(__name__)
_MOST_MISSING = 1000  # that are counted
#: How long a look at the store is good for the shards of one commit.
_LOOK_SECONDS = 0.5


class Store:
    """A store that is written to."""

    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs
        self._root: Version | None = None
        # What the root document may say: the last commit, and the one under way.
        self._ours: tuple[StoreState, ...] = ()
        # Third-party attributes of the group, and arrays beside the fields.
        self._foreign: tuple[dict[str, Any], dict[str, Any]] = {}, {}
        self._holder = ""
        self._attributes: dict[str, dict[str, Any]] = {}
        self._are_arrays_behind = False
        self._looked_at = -math.inf

    def look(self) -> StoreState | None:
        """Read the state, as of ``read_state``; from here on nobody else may change it."""
        self._root = self.blobs.find(DOCUMENT)
        state = read_state(self.blobs) if self.blobs.is_there() else None
        if state is not None:
            self._ours = (state,)
            self._foreign = state.foreign_attributes, state.foreign_arrays
        return state

    def require_ours(self) -> None:
        """Make sure that the store is still the one that was opened, as it was left.

        What others added to the group meanwhile is taken over, and kept.

        Raises:
            StoreLostError: The store was removed, replaced, or written by another writer.
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

        A store that ``look`` found is emptied before, in an order that leaves an empty store after
        any kill. In object storage its shards stay until others replace them. ``holder`` is the
        ``Run.key`` of who writes from now on.
        """
        self._holder = holder
        if self._ours:
            self._empty(self._ours[-1], state)
        self._write_root(state)
        self.blobs.make_folders(state.schema.stored_names)
        self._make_arrays(state)

    def _empty(self, old: StoreState, new: StoreState) -> None:
        empty = replace(
            old,
            committed_steps=0,
            runs=(),
            num_valid=0,
            nonfinite=dict.fromkeys(old.nonfinite, 0),
            num_trajectories=0,
            status=COLLECTING,
        )
        self._foreign = {}, {}
        self.blobs.make_folders(old.schema.stored_names)  # refuses links, before files are removed
        if empty != old:
            self._write_root(empty)
        _, debris = looked_through(self.blobs, empty, 0)
        # Documents of equal fields are written over: were the folder moved away and a new store
        # made there meanwhile, those that are removed would be the new one's.
        names = () if old.schema == new.schema else old.schema.stored_names
        documents = [key for key in (f"{n}/{DOCUMENT}" for n in names) if self.blobs.find(key)]
        self.require_ours()
        self.blobs.remove([*debris, *documents])

    def require_unguarded(self) -> None:
        """``require_ours``, unless the medium checks what is written next, or it was just checked.

        A commit checks once more when it replaces the root document.
        """
        if not self.blobs.guards and time.monotonic() - self._looked_at > _LOOK_SECONDS:
            self.require_ours()
            self._looked_at = time.monotonic()

    def shard(self, state: StoreState, name: str, block: int, twins: Sequence[str] = ()) -> Upload:
        """Open the shard of a field and block for writing; the old one stays until ``finish``.

        ``state`` is that of the store once the shard is finished. ``twins`` are fields whose shards
        have the same bytes, and share the file.
        """
        key, *others = (state.grid(n).shard_key(block) for n in (name, *twins))
        shard = self.blobs.upload(key, others)
        try:
            shard.write([ShardLabel.of(state, name, block, twins).pack()])
        except BaseException:
            shard.abandon()
            raise
        return shard

    def publish(self, state: StoreState, with_shards: bool) -> None:
        """Commit ``state``: when it returns, it is what every later opening sees.

        Its shards are finished, ``with_shards`` some since the last call.
        """
        if with_shards:
            self.blobs.settle(state.schema.stored_names)
        self._write_root(state)
        self._are_arrays_behind = True
        # A copy of the state where no tool drops it: the root document may be rewritten by one. On
        # a disk without a sync: it holds after a kill; after a power cut it may not.
        key = f"{SPARE}/{DOCUMENT}" if self.blobs.guards else STATE_COPY
        data = array_document(self._ours[-1], SPARE, self._attributes.get(SPARE))
        self.blobs.put({key: data}, synced=self.blobs.guards)

    def finish(self) -> None:
        """Let the arrays' own documents follow the last commit.

        Nothing committed depends on them: if it fails they lag, which the next opening mends.
        """
        if self._are_arrays_behind:
            self.require_ours()
            state = self._ours[-1]
            others = [name for name in state.schema.stored_names if name != SPARE]
            self._write_array_documents(state, [SPARE])
            self.blobs.remove([STATE_COPY])
            self._write_array_documents(state, others)
            self._are_arrays_behind = False

    def recover(self, state: StoreState, holder: str) -> list[str]:
        """Make the store agree with its root document before more is written.

        The root document is written anew: the run before may have died between replacing it and
        syncing that, or because that sync failed, and then a second sync of the same replacement
        proves nothing. Only when it is surely there may arrays follow it, and only then is it sure
        that what lies past it is debris, and not of another writer, where there are no locks to
        keep one out. Unless the disk is full: then it may be debris that fills it.

        Args:
            state: Committed state.
            holder: ``Run.key`` of who writes from now on; an earlier writer fails at its commit.

        Returns:
            Keys of removed debris.

        Raises:
            CorruptStoreError: A committed shard is missing, or a field's folder is a link.
        """
        self._holder = holder
        self.blobs.make_folders(state.schema.stored_names)
        missing, debris = looked_through(self.blobs, state, _MOST_MISSING)
        if missing:
            count = f"{len(missing)}{' or more' if len(missing) == _MOST_MISSING else ''}"
            raise CorruptStoreError(
                f"{self.blobs.address}: {count} committed shards are missing, {missing[0]} first"
            )
        self._attributes = attributes_of(self.blobs, state)
        attributes, arrays = self._foreign
        there = {k: v for k, v in arrays.items() if self.blobs.find(f"{k}/{DOCUMENT}")}
        self._foreign = attributes, there
        try:
            self._write_root(state)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            self.blobs.remove(debris)
            self._write_root(state)
        self.blobs.remove(debris)
        self._make_arrays(state)
        return debris

    def adopt(self, state: StoreState, attributes: dict[str, dict[str, Any]]) -> None:
        """Be the store of this state in another place, whose shards were all copied.

        ``attributes`` are third-party attributes of its arrays.
        """
        self._holder, self._attributes = state.holder, attributes
        self._foreign = state.foreign_attributes, {}
        self.publish(state, with_shards=True)
        self.finish()

    def _write_root(self, state: StoreState) -> None:
        attributes, arrays = self._foreign
        state = replace(
            state, holder=self._holder, foreign_attributes=attributes, foreign_arrays=arrays
        )
        data = root_document(state)
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
        self._looked_at = -math.inf
        self.blobs.settle([""])

    def _make_arrays(self, state: StoreState) -> None:
        self._write_array_documents(state)
        self.blobs.settle([*state.schema.stored_names, ""])

    def _write_array_documents(self, state: StoreState, names: Iterable[str] = ()) -> None:
        held = replace(state, holder=self._holder)
        self.blobs.put(
            {
                f"{name}/{DOCUMENT}": array_document(held, name, self._attributes.get(name))
                for name in names or state.schema.stored_names
            }
        )

    def _additions(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What others added to the group, if that is all that has changed."""
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
        if now not in self._ours or now.holder != self._holder:
            raise StoreLostError(f"{where}: another writer went on with it, to {steps} steps")
        _log.warning("%s: somebody added to the group; that is kept", where)
        return now.foreign_attributes, now.foreign_arrays
