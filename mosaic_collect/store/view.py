"""Reading a store: its state, the files that belong to it, and the committed rows."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import re
from collections.abc import Container, Iterator
from concurrent.futures import Executor
from itertools import groupby, islice, product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import (
    CorruptStoreError,
    InputError,
    StoreError,
    StoreExistsError,
    StoreLostError,
    StoreNotFoundError,
)
from mosaic_collect.store.blobs import Blobs, Version, read_all
from mosaic_collect.store.lock import LOCK_NAME
from mosaic_collect.store.metadata import ATTRIBUTE, SPARE, StoreState, open_envs
from mosaic_collect.store.parsing import (
    MAX_DOCUMENT_NBYTES,
    json_object,
    object_in,
    parse_root,
    with_foreign,
)
from mosaic_collect.store.schema import GOES_ON, TRAJECTORY_END, TRAJECTORY_ID
from mosaic_collect.store.shard import ShardReader

_log = logging.getLogger(__name__)
DOCUMENT = "zarr.json"
#: Copy of the state as of the last commit, while a writer lives. It may be torn by a power cut.
STATE_COPY = ".state.tmp"
#: Of ``resume``: go on with the store that is there, or else make one.
AUTO: Literal["auto"] = "auto"
#: Continue a store: never, always, or if there is one.
Resume = bool | Literal["auto"]
_Cut = tuple[int, slice, slice]


def read_state(blobs: Blobs, document: bytes | None = None) -> StoreState | None:
    """Read the state of a store; None for one killed before its first commit.

    Its root ``document`` is read here unless that was done already.

    Raises:
        StoreNotFoundError: Nothing there, or what is no store.
        CorruptStoreError: The root document is damaged, or missing beside shards.
        NewerFormatError: A newer package wrote it.
    """
    where = blobs.address
    data = read_document(blobs) if document is None else document
    if data is None:
        if not blobs.is_there():
            what = "it is a file" if blobs.is_taken() else "no such folder"
            raise StoreNotFoundError(f"no store at {where}: {what}")
        if not other_names(blobs, [LOCK_NAME]):
            return None  # a kill before the first root document leaves no more
        data = read_document(blobs)  # which may have been made just now
    if data is not None:
        return _state_of(data, blobs)
    if LOCK_NAME in blobs.names() or blobs.find(f"{SPARE}/{DOCUMENT}"):
        raise CorruptStoreError(f"{where}: zarr.json is missing, though other files are there")
    raise StoreNotFoundError(f"no store at {where}: the folder has no zarr.json")


def _state_of(data: bytes, blobs: Blobs) -> StoreState:
    """State in the root document, or in the newer of its copies where that has lost it."""
    try:
        return parse_root(data, blobs.address)
    except StoreNotFoundError:
        state = _newer_copy(blobs)
        if state is None:
            raise
    _log.warning(
        "%s: zarr.json has lost the store's state, as some tools drop attributes; it is read from "
        "%s/zarr.json, and opening the store to write puts it right",
        blobs.address,
        SPARE,
    )
    return with_foreign(state, json_object(data, blobs.address))


def _newer_copy(blobs: Blobs) -> StoreState | None:
    """State in the document of ``SPARE``, or in what a killed writer left, which may be torn."""
    spare = read_document(blobs, SPARE)
    found = None if spare is None else parse_root(spare, blobs.address)
    with contextlib.suppress(FileNotFoundError, StoreError):
        left = parse_root(read_all(blobs, STATE_COPY, MAX_DOCUMENT_NBYTES + 1), blobs.address)
        if found is None or (
            left.identity == found.identity and left.committed_steps >= found.committed_steps
        ):
            return left
    return found


def goes_on(blobs: Blobs, resume: Resume) -> bool:
    """Whether a store is to be continued: by "auto" if something is there.

    Raises:
        InputError: Another value of ``resume``.
    """
    if resume not in (True, False, AUTO):
        raise InputError(f'resume: expected True, False or "auto", got {resume!r}')
    return blobs.is_taken() if resume == AUTO else bool(resume)


def existing_state(blobs: Blobs, resume: Resume, overwrite: bool = False) -> StoreState | None:
    """Return the state of the store to continue; None if a new one is to be made.

    A store of zero steps is no obstacle to a new one: a script that failed at its first step leaves
    such a store. In object storage it is one, as no lock shows whether its writer lives.

    Raises:
        InputError: Another value of ``resume``, or both it and ``overwrite``.
        StoreError: The path holds no store where one is expected, or the reverse.
    """
    if overwrite and resume:
        raise InputError("overwrite: expected it without resume, got both")
    if goes_on(blobs, resume):
        return read_state(blobs)
    if not blobs.is_taken():
        return None
    try:
        state = read_state(blobs)
    except StoreError as error:
        raise StoreExistsError(
            f"{blobs.address} exists, and is no store that can be read: another path makes a new "
            f"one ({error})"
        ) from error
    if state is not None and not overwrite and (state.committed_steps or blobs.guards):
        words = "without a step, and whether a writer is at work on it cannot be known there"
        if state.committed_steps:
            words = f"with {state.committed_steps:,} steps"
        raise StoreExistsError(
            f"{blobs.address} exists, {words}: resume=True continues it, overwrite=True deletes "
            "it, another path makes a new one"
        )
    return None


def other_names(blobs: Blobs, own: Container[str]) -> list[str]:
    """Names in a place that are neither among ``own`` nor left by killed writers."""
    return [name for name in blobs.names() if name not in own and not blobs.is_debris(name)]


def read_document(blobs: Blobs, folder: str = "") -> bytes | None:
    """A ``zarr.json``, cut behind what none of ours reaches; None if it is not there."""
    key = f"{folder}/{DOCUMENT}" if folder else DOCUMENT
    try:
        return read_all(blobs, key, MAX_DOCUMENT_NBYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ELOOP):
            raise CorruptStoreError(f"{error.filename}: {error.strerror}") from error
        raise


_SHARD = re.compile(r"c\.(\d+)(\.0)+")


def looked_through(blobs: Blobs, state: StoreState, most: int) -> tuple[list[str], list[str]]:
    """Keys of committed shards that are not there, at most so many, and of what is no part of it.

    Each folder is listed once. Metadata may claim more blocks than could ever be counted: none is
    missing, or the claim is known to be wrong.
    """
    missing: list[str] = []
    debris = [n for n in blobs.names() if blobs.is_debris(n)]
    blocks = range(state.num_blocks)
    for name, grid in state.grids().items():
        names = blobs.names(name)
        have, left = set(names), most - len(missing)
        absent = (grid.shard_key(b) for b in blocks if grid.shard_name(b) not in have)
        missing += islice(absent, left)
        for found in names:
            shard = _SHARD.fullmatch(found)
            if blobs.is_debris(found) or (shard and int(shard[1]) >= state.num_blocks):
                debris.append(f"{name}/{found}")
    return missing, debris


def attributes_of(blobs: Blobs, state: StoreState) -> dict[str, dict[str, Any]]:
    """Third-party attributes of a store's arrays, by field."""
    found = dict[str, dict[str, Any]]()
    for name in state.grids():
        document = None
        with contextlib.suppress(ValueError):
            document = json.loads(read_document(blobs, name) or b"{}")
        found[name] = object_in(document, "attributes")
        found[name].pop(ATTRIBUTE, None)
    return found


def cuts(wanted: range, cell_size: int) -> Iterator[_Cut]:
    """Cut a range of ascending positions at multiples of ``cell_size``.

    Each cut is the number of a cell, the slice within it, and the slice of the result.
    """
    done = 0
    while done < len(wanted):
        cell, first = divmod(wanted[done], cell_size)
        count = min(len(wanted) - done, -(-(cell_size - first) // wanted.step))
        inside = slice(first, first + (count - 1) * wanted.step + 1, wanted.step)
        yield cell, inside, slice(done, done + count)
        done += count


class StoreView:
    """An immutable snapshot of a store; decodes only the chunks that are asked for.

    Pickles with its state: another process sees the same steps, whatever was committed meanwhile.

    Attributes:
        blobs: Files of the store.
        state: State of the store.
        address: Address of the store.
        grids: Cutting of each stored field.
    """

    def __init__(self, blobs: Blobs, state: StoreState) -> None:
        self.blobs, self.state = blobs, state
        self.address, self.grids = blobs.address, state.grids()

    @classmethod
    def of(cls, blobs: Blobs, document: bytes | None = None) -> StoreView | None:
        """Take a snapshot of the store; arguments, None and errors as of ``read_state``."""
        state = read_state(blobs, document)
        return None if state is None else cls(blobs, state)

    def require_seen(self) -> None:
        """Make sure that the store is here: for a process that was handed the view of another.

        Raises:
            StoreLostError: Another store lies there, or it has fewer steps; or as ``read_state``.
        """
        now, then = read_state(self.blobs), self.state
        if (
            now is None
            or now.identity != then.identity
            or now.committed_steps < then.committed_steps
        ):
            raise StoreLostError(
                f"{self.address}: another store, or an older state of it, lies there"
            )

    def shard(self, field: str, block: int) -> ShardReader:
        """The shard of a field and block.

        Raises:
            CorruptStoreError: The shard is missing, damaged, or belongs elsewhere.
            StoreLostError: Because the store was made anew since it was looked at.
        """
        try:
            return ShardReader(self.blobs, self.state, field, block)
        except CorruptStoreError as error:
            if self._is_anew():
                raise StoreLostError(
                    f"{self.address}: the store that was opened is gone, and what lies there now "
                    "was made since; open it anew, or refresh()"
                ) from error
            raise

    def _is_anew(self) -> bool:
        """Whether another store lies there now; its shards are as they should be."""
        try:
            now = read_state(self.blobs)
        except StoreNotFoundError:
            return True
        except (StoreError, OSError):
            return False
        return now is None or now.identity != self.state.identity

    def find(self, field: str, block: int) -> Version | None:
        """What the shard of a field and block is; None if it is not there."""
        return self.blobs.find(self.grids[field].shard_key(block))

    def versions(self, field: str) -> list[Version]:
        """What a field's shards are, those that are there."""
        there, grid = self.blobs.versions(field), self.grids[field]
        # By what is there, for the state may claim any number of blocks.
        blocks = sorted(int(shard[1]) for shard in map(_SHARD.fullmatch, there) if shard)
        names = [grid.shard_name(b) for b in blocks if b < self.state.num_blocks]
        return [there[name] for name in names if name in there]

    def columns(self, field: str) -> list[range]:
        """The environments of each of a field's chunks."""
        width, num_envs = self.grids[field].chunk_envs, self.state.num_envs
        return [range(e, min(e + width, num_envs)) for e in range(0, num_envs, width)]

    def read(
        self,
        field: str,
        steps: range,
        envs: range,
        pool: Executor | None = None,
        *,
        env_major: bool = False,
    ) -> NDArray[Any]:
        """Rows of some committed steps and environments, both ascending.

        Args:
            field: Name of a stored field.
            steps: The steps.
            envs: The environments.
            pool: Decodes chunks side by side; None: one after the other.
            env_major: Whether an environment's rows lie together in memory, as they do in chunks.

        Returns:
            Shape ``(len(steps), len(envs)[, dim])``, the caller's own; C-contiguous, or so after
            ``swapaxes(0, 1)``. Ends that were recorded but not committed are absent from
            ``trajectory_end``.

        Raises:
            CorruptStoreError: A damaged chunk, or a shard that is missing.
        """
        found = self.grids[field].field
        shape = (len(envs), len(steps)) if env_major else (len(steps), len(envs))
        out = np.empty((*shape, *found.row_shape), found.dtype)
        out = out.swapaxes(0, 1) if env_major else out
        self.fill(field, steps, envs, out, pool)
        return out

    def fill(
        self,
        field: str,
        steps: range,
        envs: range,
        out: NDArray[Any],
        pool: Executor | None = None,
        wanted: NDArray[np.bool_] | None = None,
    ) -> None:
        """Read rows of one store, as ``read``, into an array of their shape.

        Chunks that lie whole in ``out``, with an environment's rows together, are decoded in place.
        Those without a row of ``wanted``, a mask of shape ``(len(steps), len(envs))``, are left
        out.
        """
        grid = self.grids[field]
        env_cuts = list(cuts(envs, grid.chunk_envs))
        in_block = grid.block_steps // grid.chunk_steps
        step_cuts = cuts(steps, grid.chunk_steps) if env_cuts else ()
        for block, of_block in groupby(step_cuts, lambda cut: cut[0] // in_block):
            with self.shard(field, block) as shard:

                def decode(at: tuple[_Cut, _Cut], shard: ShardReader = shard) -> None:
                    (row, step_inside, step_out), (column, env_inside, env_out) = at
                    chunk = row % in_block * grid.env_chunks + column
                    mine = out[step_out, env_out].swapaxes(0, 1)
                    if mine.shape == grid.chunk_shape and mine.flags.c_contiguous:
                        shard.read(chunk, mine)
                        return
                    values = np.empty(grid.chunk_shape, grid.field.dtype)
                    shard.read(chunk, values)
                    mine[...] = values[env_inside, step_inside]

                chunks = list(product(of_block, env_cuts))
                if wanted is not None:
                    chunks = [(s, e) for s, e in chunks if wanted[s[2], e[2]].any()]
                each = map if pool is None or len(chunks) == 1 else pool.map
                for _ in each(decode, chunks):
                    pass
        if field == TRAJECTORY_END:
            self.clear_uncommitted_ends(steps, envs, out)

    def open_envs(self, run: int) -> NDArray[np.bool_]:
        """Environments that were within a trajectory when ``state.runs[run]`` stopped.

        Raises:
            CorruptStoreError: The ids of the next run's first step are damaged.
        """
        state = self.state
        if state.runs[run].open_envs:
            return open_envs(state.runs[run].open_envs, state.num_envs)
        later = state.runs[run + 1]
        first = range(later.first_step, min(later.first_step + 1, state.committed_steps))
        ids = self.read(TRAJECTORY_ID, first, range(state.num_envs))
        return np.asarray((ids >= (later.first_open_id or 0)).all(axis=0))

    def clear_uncommitted_ends(self, steps: range, envs: range, ends: NDArray[Any]) -> None:
        """Remove ends that a shard holds and the root document does not know.

        A kill between the two leaves the shard ahead by the ends of a run's last row. ``ends``,
        ``(len(steps), len(envs))``, is changed in place.
        """
        for run, (_, span) in enumerate(self.state.spans()):
            row = ends[steps.index(span[-1])] if span and span[-1] in steps else ends[:0]
            if row.any():
                row[self.open_envs(run)[envs.start : envs.stop : envs.step]] = GOES_ON

    def read_into(self, field: str, block: int, out: NDArray[Any]) -> None:
        """Decode a whole shard, padding and steps not committed yet included.

        Shape of ``out``: ``(padded_envs, block_steps[, dim])``, of any strides.

        Raises:
            CorruptStoreError: A damaged chunk, or the shard is missing.
        """
        grid = self.grids[field]
        values = np.empty(grid.chunk_shape, grid.field.dtype)
        with self.shard(field, block) as shard:
            for chunk in range(grid.chunks):
                shard.read(chunk, values)
                out[grid.rows(chunk)] = values
