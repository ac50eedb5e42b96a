"""A store's folder: which operation comes before which, so that every instant is a good one.

    1. shards: temp file, write, sync, rename          (shard_file)
    2. sync the folders that gained a name             (publish)
    3. replace the root zarr.json, sync the folder     (publish)  <- the commit
    4. let each array's own zarr.json follow           (publish)

The root document alone says what exists. What lies past its ``committed_steps`` is debris of a
killed run; ``recover`` removes it. This module knows files and states, not values.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from itertools import islice

from mosaic_collect.errors import CorruptStoreError, StoreNotFoundError
from mosaic_collect.files import (
    Files,
    PosixFiles,
    is_temp_name,
    open_regular,
    write_file,
)
from mosaic_collect.lock import LOCK_NAME
from mosaic_collect.metadata import StoreState, array_document, root_document
from mosaic_collect.parsing import MAX_DOCUMENT_NBYTES, parse_root, refuse_large
from mosaic_collect.shard_file import ShardFile, ShardLink

DOCUMENT = "zarr.json"
_MOST_MISSING = 1000  # that are counted
_SHARD = re.compile(r"c\.(\d+)(\.0)+")


class StoreFolder:
    """The files of one store.

    Args:
        path: The store.
        files: The seam.
    """

    def __init__(self, path: str, files: Files | None = None) -> None:
        self.path = path
        self._files: Files = PosixFiles() if files is None else files

    def make(self) -> None:
        """Make the store's folder, and those above it that are missing.

        When it returns, the folder's name survives a power cut. Each name is made safe before the
        next is made, so a kill on the way leaves at most one unsafe: that of the lowest folder
        there is, which the next call makes safe.
        """
        folder, missing = os.path.realpath(self.path), []
        while not os.path.isdir(folder):
            missing.append(folder)
            folder = os.path.dirname(folder)
        # What is above a folder of ours may be another user's, closed to us: nothing to be done.
        with contextlib.suppress(PermissionError):
            self._files.sync_folder(os.path.dirname(folder))
        for folder in reversed(missing):
            self._files.make_folder(folder)
            self._files.sync_folder(os.path.dirname(folder))

    def begin(self, state: StoreState) -> None:
        """Make an empty store: the root document first, so that any kill leaves a store."""
        self._write_root(state)
        self._make_arrays(state)

    def shard(self, state: StoreState, name: str, block: int) -> ShardFile:
        """Open the shard of a field and block for writing; the old one stays until ``finish``."""
        return ShardFile(self._files, self._join(name, state.grid(name).shard_name(block)))

    def shard_link(self, state: StoreState, name: str, source: str, block: int) -> ShardLink:
        """The shard of a field and block that has the bytes of field ``source``'s."""
        paths = [self._join(n, state.grid(n).shard_name(block)) for n in (source, name)]
        return ShardLink(self._files, *paths)

    def publish(self, state: StoreState, with_shards: bool) -> None:
        """Commit ``state``: when it returns, it is what every later opening sees.

        Args:
            state: What is to be true; its shards are finished.
            with_shards: Whether shards were finished since the last call.
        """
        if with_shards:
            for field in state.schema.stored:
                self._files.sync_folder(self._join(field.name))
        self._write_root(state)
        self._write_array_documents(state)

    def recover(self, state: StoreState) -> list[str]:
        """Make the folder agree with its root document before more is written.

        Debris goes first, as it may be what fills the disk. The root document is written anew: the
        run before may have died between replacing it and syncing that, or because that sync
        failed, and then a second sync of the same replacement proves nothing. Only when it is
        surely there may arrays follow it.

        Returns:
            Paths of removed debris.

        Raises:
            CorruptStoreError: A committed shard is missing, or a field's folder is a link.
        """
        self._require_own_folders(state)
        self._require_shards(state)
        removed = self._debris(state)
        for path in removed:
            self._files.remove(path)
        self._write_root(state)
        self._make_arrays(state)
        return removed

    def missing_shards(self, state: StoreState, most: int = _MOST_MISSING) -> list[str]:
        """Paths of committed shards that are not there, at most so many.

        Metadata may claim more blocks than could ever be counted: after this call none is missing
        or the claim is known to be wrong.
        """
        missing: list[str] = []
        for name, grid in state.grids().items():
            have = set(_listing(self._join(name)))
            names = (grid.shard_name(b) for b in range(state.num_blocks))
            absent = (self._join(name, n) for n in names if n not in have)
            missing += islice(absent, most - len(missing))
        return missing

    def _require_own_folders(self, state: StoreState) -> None:
        """Writing through a link, or removing behind it, would reach files of someone else."""
        for field in state.schema.stored:
            path = self._join(field.name)
            if os.path.lexists(path) and (os.path.islink(path) or not os.path.isdir(path)):
                raise CorruptStoreError(f"{path}: expected a folder, found a link or a file")

    def _require_shards(self, state: StoreState) -> None:
        missing = self.missing_shards(state)
        if missing:
            raise CorruptStoreError(
                f"{self.path}: {_number_of(missing)} committed shards are missing, "
                f"{missing[0]} first"
            )

    def _debris(self, state: StoreState) -> list[str]:
        found = [self._join(n) for n in _listing(self.path) if is_temp_name(n)]
        for field in state.schema.stored:
            folder = self._join(field.name)
            names = [n for n in _listing(folder) if _is_debris(n, state.num_blocks)]
            found += [os.path.join(folder, n) for n in names]
        return found

    def _write_root(self, state: StoreState) -> None:
        data = root_document(state)
        # Before it is written: what no reader would read must not replace what they can.
        refuse_large(data, self.path)
        write_file(self._files, self._join(DOCUMENT), data)
        self._files.sync_folder(self.path)

    def _make_arrays(self, state: StoreState) -> None:
        for field in state.schema.stored:
            self._files.make_folder(self._join(field.name))
        self._write_array_documents(state)
        for field in state.schema.stored:
            self._files.sync_folder(self._join(field.name))
        self._files.sync_folder(self.path)

    def _write_array_documents(self, state: StoreState) -> None:
        for field in state.schema.stored:
            path = self._join(field.name, DOCUMENT)
            write_file(self._files, path, array_document(state, field.name))

    def _join(self, *names: str) -> str:
        return os.path.join(self.path, *names)


def read_state(path: str) -> StoreState | None:
    """What the store at ``path`` says of itself; None for one killed before it said anything.

    Raises:
        StoreNotFoundError: No folder there, or one that is no store.
        CorruptStoreError: The root document is damaged, or missing beside shards.
        NewerFormatError: A newer package wrote it.
    """
    if not os.path.isdir(path):
        raise StoreNotFoundError(f"no store at {path}: no such folder")
    data = _read_document(os.path.join(path, DOCUMENT))
    if data is not None:
        return parse_root(data, path)
    if is_unborn(path):
        return None
    if os.path.exists(os.path.join(path, LOCK_NAME)):
        raise CorruptStoreError(f"{path}: zarr.json is missing, though other files are there")
    raise StoreNotFoundError(f"no store at {path}: the folder has no zarr.json")


def is_taken(path: str) -> bool:
    """Whether something lies where a new store is to be made; an empty folder does not count."""
    return os.path.lexists(path) and not (os.path.isdir(path) and not os.listdir(path))


def is_unborn(path: str) -> bool:
    """Whether a kill before the first root document could have left the folder so.

    The root document is written before any array, so only the lock and temp files can be there.
    """
    names = _listing(path)
    return all(n == LOCK_NAME or is_temp_name(n) for n in names)


def _read_document(path: str) -> bytes | None:
    try:
        with open(open_regular(path), "rb") as file:
            return file.read(MAX_DOCUMENT_NBYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ELOOP):
            raise CorruptStoreError(f"{path}: {error.strerror}") from error
        raise


def _listing(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _number_of(missing: list[str]) -> str:
    return str(len(missing)) if len(missing) < _MOST_MISSING else f"{_MOST_MISSING} or more"


def _is_debris(name: str, num_blocks: int) -> bool:
    shard = _SHARD.fullmatch(name)
    return is_temp_name(name) or (shard is not None and int(shard.group(1)) >= num_blocks)
