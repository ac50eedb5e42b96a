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
    InputError,
    StoreError,
    StoreExistsError,
    StoreLostError,
    StoreNotFoundError,
)
from mosaic_collect.store.blobs import Blobs, ChangedError, Pending, Upload, Version, read_all
from mosaic_collect.store.label import ShardLabel
from mosaic_collect.store.lock import LOCK_NAME
from mosaic_collect.store.metadata import (
    ATTRIBUTE,
    SPARE,
    Foreign,
    StoreState,
    array_document,
    root_document,
)
from mosaic_collect.store.parsing import MAX_DOCUMENT_NBYTES, foreign_in, parse_root, refuse_large

DOCUMENT = "zarr.json"
_log = logging.getLogger(__name__)
#: Of ``resume``: go on with the store that is there, or else make one.
AUTO = "auto"
_MOST_MISSING = 1000  # that are counted
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
        try:
            self.require_ours()
        except StoreLostError as lost:
            lost.__cause__ = error
            return lost
        except OSError:
            pass
        return error

    def begin(self, state: StoreState) -> None:
        """Make an empty store: the root document first, so that any kill leaves a store."""
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

    def recover(self, state: StoreState) -> list[str]:
        """Make the store agree with its root document before more is written.

        Debris goes first, as it may be what fills the disk. The root document is written anew: the
        run before may have died between replacing it and syncing that, or because that sync
        failed, and then a second sync of the same replacement proves nothing. Only when it is
        surely there may arrays follow it.

        Returns:
            Keys of removed debris.

        Raises:
            CorruptStoreError: A committed shard is missing, or a field's folder is a link.
        """
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
        self.blobs.remove(removed)
        self._write_root(state)
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
            document = array_document(state, name, self._attributes.get(name))
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
        if now not in [replace(ours, foreign=now.foreign) for ours in self._ours]:
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


def read_state(blobs: Blobs) -> StoreState | None:
    """What a store says of itself; None for one killed before it said anything.

    Raises:
        StoreNotFoundError: Nothing there, or what is no store.
        CorruptStoreError: The root document is damaged, or missing beside shards.
        NewerFormatError: A newer package wrote it.
    """
    where = blobs.address
    if not blobs.is_there():
        raise StoreNotFoundError(f"no store at {where}: no such folder")
    data = read_document(blobs)
    if data is not None:
        return _state_of(data, blobs)
    if is_unborn(blobs):
        return None
    if LOCK_NAME in blobs.names() or blobs.find(f"{SPARE}/{DOCUMENT}"):
        raise CorruptStoreError(f"{where}: zarr.json is missing, though other files are there")
    raise StoreNotFoundError(f"no store at {where}: the folder has no zarr.json")


def _state_of(data: bytes, blobs: Blobs) -> StoreState:
    """By the root document, or where that has lost our attribute by the array that has it, too."""
    try:
        return parse_root(data, blobs.address)
    except StoreNotFoundError:
        spare = read_document(blobs, SPARE)
        if spare is None:
            raise
        state = parse_root(spare, blobs.address)
    _log.warning(
        "%s: zarr.json has lost the store's state, as some tools drop attributes; it is read from "
        "%s/zarr.json, and opening the store to write puts it right",
        blobs.address,
        SPARE,
    )
    return replace(state, foreign=foreign_in(data, blobs.address, _folders(state)))


def goes_on(blobs: Blobs, resume: bool | str) -> bool:
    """Whether a store is to be gone on with.

    Args:
        blobs: Where it lies, or is to lie.
        resume: As asked for; "auto": if something is there.

    Raises:
        InputError: Another value.
    """
    if resume not in (True, False, AUTO):
        raise InputError(f'resume: expected True, False or "auto", got {resume!r}')
    return blobs.is_taken() if resume == AUTO else bool(resume)


def existing_state(blobs: Blobs, resume: bool | str) -> StoreState | None:
    """The state of the store to go on with; None if one is to be made.

    Args:
        blobs: Where it lies, or is to lie.
        resume: As ``goes_on`` takes it.

    Raises:
        InputError: Another value of it.
        StoreError: What is there is not as expected.
    """
    if goes_on(blobs, resume):
        return read_state(blobs)
    if blobs.is_taken():
        where = blobs.address
        if blobs.is_there() and is_unborn(blobs):
            raise StoreExistsError(f"{where} is a store of zero steps: resume=True goes on with it")
        raise StoreExistsError(
            f"{where} exists: resume=True goes on with a store, another path makes a new one"
        )
    return None


def is_unborn(blobs: Blobs) -> bool:
    """Whether a kill before the first root document could have left the store so.

    The root document is written before any array, so only the lock and temp files can be there.
    """
    return all(n == LOCK_NAME or blobs.is_debris(n) for n in blobs.names())


def read_document(blobs: Blobs, folder: str = "") -> bytes | None:
    """A ``zarr.json``, cut behind what none of ours reaches; None if it is not there.

    Raises:
        CorruptStoreError: It is no file.
    """
    key = f"{folder}/{DOCUMENT}" if folder else DOCUMENT
    try:
        return read_all(blobs, key, MAX_DOCUMENT_NBYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ELOOP):
            raise CorruptStoreError(f"{error.filename}: {error.strerror}") from error
        raise


def _folders(state: StoreState) -> list[str]:
    return [f.name for f in state.schema.stored]


def _number_of(missing: list[str]) -> str:
    return str(len(missing)) if len(missing) < _MOST_MISSING else f"{_MOST_MISSING} or more"
