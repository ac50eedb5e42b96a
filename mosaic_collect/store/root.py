"""Reading what a store says of itself: its root document, or what is left of it."""

from __future__ import annotations

import errno
import logging
from dataclasses import replace

from mosaic_collect.errors import (
    CorruptStoreError,
    InputError,
    StoreError,
    StoreExistsError,
    StoreNotFoundError,
)
from mosaic_collect.store.blobs import Blobs, read_all
from mosaic_collect.store.lock import LOCK_NAME
from mosaic_collect.store.metadata import SPARE, StoreState
from mosaic_collect.store.parsing import MAX_DOCUMENT_NBYTES, foreign_in, parse_root

_log = logging.getLogger(__name__)
DOCUMENT = "zarr.json"
#: Of ``resume``: go on with the store that is there, or else make one.
AUTO = "auto"


def read_state(blobs: Blobs) -> StoreState | None:
    """What a store says of itself; None for one killed before it said anything.

    Raises:
        StoreNotFoundError: Nothing there, or what is no store.
        CorruptStoreError: The root document is damaged, or missing beside shards.
        NewerFormatError: A newer package wrote it.
    """
    where = blobs.address
    data = read_document(blobs)
    if data is None and blobs.is_there() and not is_unborn(blobs):
        data = read_document(blobs)  # which may have been made just now
    if data is not None:
        return _state_of(data, blobs)
    if not blobs.is_there():
        what = "it is a file" if blobs.is_taken() else "no such folder"
        raise StoreNotFoundError(f"no store at {where}: {what}")
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
    return replace(state, foreign=foreign_in(data, blobs.address, state.schema.stored_names))


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


def existing_state(blobs: Blobs, resume: bool | str, overwrite: bool = False) -> StoreState | None:
    """Return the state of the store to continue; None if a new one is to be made.

    A store of zero steps is no obstacle to a new one: a script that failed at its first step leaves
    such a store.

    Args:
        blobs: Place of the store.
        resume: As ``goes_on`` takes it.
        overwrite: Whether a store that is there is to be replaced.

    Raises:
        InputError: Another value of ``resume``, or both it and ``overwrite``.
        StoreError: What is there is not as expected.
    """
    if overwrite and resume:
        raise InputError("overwrite: expected it without resume, got both")
    if goes_on(blobs, resume):
        return read_state(blobs)
    if blobs.is_taken():
        steps = _steps_in(blobs)
        if steps and not overwrite:
            raise StoreExistsError(
                f"{blobs.address} exists, with {steps:,} steps: resume=True continues it, "
                "overwrite=True deletes it, another path makes a new one"
            )
    return None


def _steps_in(blobs: Blobs) -> int:
    """Steps of a store that is there.

    Raises:
        StoreExistsError: Something else is there, or a store that cannot be read.
    """
    try:
        state = read_state(blobs)
    except StoreError as error:
        raise StoreExistsError(
            f"{blobs.address} exists, and is no store that can be read: another path makes a new "
            f"one ({error})"
        ) from error
    return 0 if state is None else state.committed_steps


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
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ELOOP):
            raise CorruptStoreError(f"{error.filename}: {error.strerror}") from error
        raise
