"""``import_npy``: a file of MOSAIC's collector, or an export of ours, as a store."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import local_path
from mosaic_collect.errors import (
    CorruptExportError,
    InputError,
    MosaicCollectError,
    StoreMismatchError,
)
from mosaic_collect.importing.contents import Contents, check_contents
from mosaic_collect.npyfile.layout import COMPACT
from mosaic_collect.npyfile.read import (
    NpyFile,
    StoredArray,
    changed,
    plain_copy,
    read_into,
    scan_npy,
)
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.recording.signals import exit_if_terminated
from mosaic_collect.recording.writer import TrajectoryWriter, end_with_codes
from mosaic_collect.store.files import open_regular
from mosaic_collect.store.metadata import StoreState
from mosaic_collect.store.parsing import json_copy
from mosaic_collect.store.ranks import Address, blobs_at
from mosaic_collect.store.schema import (
    ENDED,
    GOES_ON,
    MOSAIC_FIELDS,
    TRAJECTORY_END,
    TRAJECTORY_ID,
    TRUNCATED,
    VALID_MASK,
)
from mosaic_collect.store.view import Resume, existing_state, read_state
from mosaic_collect.text import shown

#: The key in a store's metadata under which an import describes its file.
IMPORTED_FROM = "imported_from"
#: Bytes to read at once, of all fields together, or of one step if that is more.
READ_NBYTES = 8 << 20
_COMMIT_SECONDS = 60.0

Progress = Callable[[int], object]
Rows = dict[str, NDArray[Any]]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImportReport:
    """Result of an import.

    Attributes:
        store: The store, complete.
        npy: The file it was made from.
        first_step: Step from which this call read; 0 unless it resumed an import.
        num_steps: Steps of the store, T.
        num_envs: Environments, N.
        num_valid: Pairs with a true mask.
        num_trajectories: Trajectories whose end is known.
        shapes: Field -> shape.
        file_nbytes: Size of the file.
        stored_nbytes: Bytes that this call wrote to shards.
        seconds: Duration.
        notes: Facts that a reader of the store should know.
    """

    store: str
    npy: str
    first_step: int
    num_steps: int
    num_envs: int
    num_valid: int
    num_trajectories: int
    shapes: dict[str, tuple[int, ...]]
    file_nbytes: int
    stored_nbytes: int
    seconds: float
    notes: tuple[str, ...]


def import_npy(
    npy: str | os.PathLike[str],
    store: Address,
    *,
    metadata: Mapping[str, Any] | None = None,
    buffer_mb: float | Literal["auto"] = "auto",
    compressor: str = "auto",
    resume: Resume = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Make a store of a ``.npy`` dict of MOSAIC's collector or of ``export_npy``, bit for bit.

    The file is neither unpickled nor loaded: memory is the writer's ring and some scratch. Keys,
    shapes and types are checked before anything is written. An import that was interrupted leaves
    a store that is collecting; ``resume`` continues where its committed steps end.

    Arrays keep their dtype, float64 too. The file's other contents go into the store's metadata
    under ``imported_from``, with the file's path, size and SHA-256.

    MOSAIC's files hold no trajectory ids: each environment becomes one trajectory without an end.
    Ids of a file that has them are kept as the field ``source_trajectory_id``, since a store
    numbers its own. Where in each environment they never fall, as in a grid of ours, each change
    ends a trajectory of the store; the last of each environment has no end that is known. In a
    compact file of several environments' pairs ids alternate, and end nothing.

    A file's ``trajectory_end`` becomes the store's where it agrees with the ids: then the store
    knows how each trajectory ended. Elsewhere, as where a run stopped within trajectories or pairs
    are missing, it is kept as the field ``source_trajectory_end``.

    Args:
        npy: The file.
        store: The store to be made, a folder that is not there yet, or is empty.
        metadata: Metadata of the store, beside ``imported_from``.
        buffer_mb: Bound of the writer's buffer, as of ``TrajectoryWriter``.
        compressor: Compressor of the store, as of ``TrajectoryWriter``.
        resume: Continue an interrupted import of the same file, known by size and SHA-256; the
            committed rows are compared with the file first. "auto": if there is one. Trajectories
            that were open there continue under new ids.
        progress: Called with the bytes done since the last call: the file's size for its digest,
            and as much again for its steps.

    Raises:
        FileNotFoundError: No such file.
        CorruptExportError: The file is torn, hostile, of another kind, or was changed meanwhile.
        InputError: A bad argument.
        StoreExistsError: The store's path is taken, and ``resume`` is False.
        StoreNotFoundError: ``resume``, and no store there.
        StoreMismatchError: ``resume`` with a store of another file.
        StoreLockedError, CorruptStoreError, NewerFormatError, SpaceError, WriteError: The store
            cannot be opened or written.
    """
    start = time.monotonic()
    path, blobs = local_path(npy, "npy"), blobs_at(store, "store")
    own, done = json_copy(metadata or {}), progress or (lambda nbytes: None)
    if IMPORTED_FROM in own:
        raise InputError(f"metadata: {IMPORTED_FROM} is what the import says of the file")
    with SourceFile(path) as source:
        state, origin = existing_state(blobs, resume), _origin(source.contents.file)
        source.check_values()
        origin["sha256"] = source.sha256(done)
        contents = source.contents
        if state is not None:
            _check_same_source(state, blobs.address, origin, contents.num_steps)
            _check_same_rows(source, TrajectoryDataset(blobs))
        writer = TrajectoryWriter(
            blobs,
            contents.schema,
            contents.num_envs,
            buffer_mb=buffer_mb,
            metadata={**own, IMPORTED_FROM: origin},
            compressor=compressor,
            resume=resume,
            commit_seconds=None,  # a timed commit may fall between a row and its ends
            encode_in="threads",  # which is a little faster where no simulation is disturbed
        )
        with writer:
            first_step = writer.num_steps
            _copy(source, writer, done)
            source.check_unchanged()
            done(contents.file.nbytes - contents.nbytes)  # what is no array
        made = read_state(blobs)
        assert made is not None
        _log.info("%s: %d steps of %s", writer.path, contents.num_steps, path)
        return ImportReport(
            store=writer.path,
            npy=path,
            first_step=first_step,
            num_steps=made.committed_steps,
            num_envs=made.num_envs,
            num_valid=made.num_valid,
            num_trajectories=made.num_trajectories,
            shapes={name: array.shape for name, array in contents.arrays.items()},
            file_nbytes=contents.file.nbytes,
            stored_nbytes=writer.stats.stored_nbytes,
            seconds=time.monotonic() - start,
            notes=tuple(_notes(source, made, first_step)),
        )


def _copy(source: SourceFile, writer: TrajectoryWriter, done: Progress) -> None:
    """Add the steps that the store does not hold yet, each with the ends of its row."""
    contents, committed = source.contents, time.monotonic()
    done(writer.num_steps * contents.nbytes // contents.num_steps)
    try:
        for steps, piece in source.pieces(writer.num_steps):
            masks, ends = piece.pop(VALID_MASK, None), source.ends(steps)
            for at in range(len(steps)):
                rows = {name: values[at] for name, values in piece.items()}
                writer.add_step(valid_mask=None if masks is None else masks[at], **rows)
                end_with_codes(writer, ends[at])
            if time.monotonic() - committed > _COMMIT_SECONDS:
                writer.commit()
                committed = time.monotonic()
            nbytes = sum(values.nbytes for values in piece.values())
            done(nbytes + (0 if masks is None else masks.nbytes))
            exit_if_terminated()
    except BaseException:
        # An interrupt between the two calls leaves the last row without its ends; a resume knows
        # nothing of them.
        with contextlib.suppress(MosaicCollectError):
            last = writer.num_steps
            for ends in source.ends(range(max(0, last - 1), last)):
                end_with_codes(writer, ends)
        raise


class SourceFile:
    """A ``.npy`` file while it is being imported: read in bounded pieces, and held to be one file.

    Args:
        path: The file; nothing in it is executed.

    Attributes:
        contents: Checked contents of the file.
        apart: Whether trajectories lie apart: in no environment ids ever fall, so each change of an
            id is the end of a trajectory. Known after ``check_values``.

    Raises:
        FileNotFoundError: No such file.
        CorruptExportError: Torn, hostile, or of another kind.
    """

    def __init__(self, path: str) -> None:
        self.path, self.apart = path, False
        self.contents: Contents = check_contents(scan_npy(path))
        self._fd = open_regular(path)
        self._stat = os.fstat(self._fd)
        if self._stat.st_size != self.contents.file.nbytes:
            os.close(self._fd)
            raise changed(self.path)

    def __enter__(self) -> SourceFile:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)

    def sha256(self, progress: Progress) -> str:
        """Digest of the whole file, read once from end to end."""
        digest = hashlib.sha256()
        buffer = bytearray(min(READ_NBYTES, self._stat.st_size))
        for start in range(0, self._stat.st_size, len(buffer)):
            piece = memoryview(buffer)[: self._stat.st_size - start]
            read_into(self._fd, piece, start, self.path)
            digest.update(piece)
            progress(len(piece))
        return digest.hexdigest()

    def pieces(
        self,
        first: int = 0,
        stop: int | None = None,
        arrays: Mapping[str, StoredArray] | None = None,
    ) -> Iterator[tuple[range, Rows]]:
        """Yield some steps at a time, with their rows ``(steps, N[, D])``.

        Args:
            first: First step.
            stop: Behind the last step; None: all.
            arrays: Arrays to read; None: all fields and the mask.
        """
        contents = self.contents
        mask = {} if contents.mask is None else {VALID_MASK: contents.mask}
        arrays = {**contents.arrays, **mask} if arrays is None else arrays
        stop = contents.num_steps if stop is None else stop
        step_nbytes = sum(array.nbytes for array in arrays.values()) // contents.num_steps
        size = max(1, READ_NBYTES // step_nbytes)
        for start in range(first, stop, size):
            steps = range(start, min(start + size, stop))
            yield steps, {name: self._rows(array, steps) for name, array in arrays.items()}

    def ends(self, steps: range) -> NDArray[np.uint8]:
        """How trajectories of the store end with each row. Shape: (steps, N)."""
        contents = self.contents
        if contents.schema.has_ends and contents.ends is not None:
            return self._rows(contents.ends, steps)
        ends = np.full((len(steps), contents.num_envs), GOES_ON, np.uint8)
        if self.apart and steps:
            # One row more, if there is one: the last row ends where the next one has other ids.
            more = range(steps.start, min(steps.stop + 1, contents.num_steps))
            ids = self._rows(contents.file.arrays[TRAJECTORY_ID], more)
            ends[: len(more) - 1][ids[1:] != ids[:-1]] = ENDED
        return ends

    def check_values(self) -> None:
        """Look at what decides how the others are read: bools, trajectory ids and ends.

        Raises:
            CorruptExportError: A bool that is neither 0 nor 1.
        """
        for key, array in self.contents.file.arrays.items():
            if array.dtype.kind == "b":
                self._check_bools(key, array)
        ids, ends = self.contents.file.arrays.get(TRAJECTORY_ID), self.contents.ends
        self.apart = ids is not None and self._ids_never_fall(ids)
        # Without ids nothing tells whether a compact file's pairs are of one environment.
        one_by_one = self.apart if ids is not None else not _is_compact(self.contents.file)
        if ends is not None and one_by_one and self._ends_agree(ends):
            self.contents = self.contents.with_own_ends()

    def check_unchanged(self) -> None:
        """Refuse to have read a file while somebody wrote it.

        Raises:
            CorruptExportError: The file was changed since it was opened.
        """
        now = os.fstat(self._fd)
        if (now.st_size, now.st_mtime_ns) != (self._stat.st_size, self._stat.st_mtime_ns):
            raise changed(self.path)

    def _check_bools(self, key: str, array: StoredArray) -> None:
        as_bytes = StoredArray(array.offset, array.nbytes, array.shape, np.dtype("u1"))
        for _, piece in self.pieces(arrays={key: as_bytes}):
            largest = int(piece[key].max())
            if largest > 1:
                raise CorruptExportError(
                    f"{self.path}: {key}: expected bool, got a byte of {largest}"
                )

    def _ids_never_fall(self, ids: StoredArray) -> bool:
        last = None
        for _, piece in self.pieces(arrays={TRAJECTORY_ID: ids}):
            rows = piece[TRAJECTORY_ID]
            if (rows[1:] < rows[:-1]).any() or (last is not None and (rows[0] < last).any()):
                return False
            last = rows[-1].copy()
        return True

    def _ends_agree(self, ends: StoredArray) -> bool:
        """Whether the file's ends are a store's: where ids change, if there are any."""
        last_step = self.contents.num_steps - 1
        for steps, piece in self.pieces(arrays={TRAJECTORY_END: ends}):
            found = piece[TRAJECTORY_END]
            if (found > TRUNCATED).any():
                return False
            inner = found[: last_step - steps.start]  # behind the last row no id tells
            if (
                self.apart
                and ((inner != GOES_ON) != (self.ends(steps)[: len(inner)] != GOES_ON)).any()
            ):
                return False
        return True

    def _rows(self, array: StoredArray, steps: range) -> NDArray[Any]:
        out = np.empty((len(steps), *array.shape[1:]), array.dtype)
        first = array.offset + steps.start * (array.nbytes // array.shape[0])
        read_into(self._fd, out.reshape(-1).view(np.uint8).data, first, self.path)
        return out


def _is_compact(file: NpyFile) -> bool:
    return (file.provenance or {}).get("layout") == COMPACT


# -- resuming ----------------------------------------------------------------------------------


def _origin(file: NpyFile) -> dict[str, Any]:
    """Describe the file: path, size, and all that it holds beside arrays, as JSON has it.

    Raises:
        CorruptExportError: A value that JSON cannot hold, or too many.
    """
    others = {key: value for key, value in file.plain.items() if key != "metadata"}
    told: dict[str, Any] = {"path": file.path, "nbytes": file.nbytes}
    told["metadata"] = file.plain.get("metadata")
    return plain_copy({**told, "others": others} if others else told, file.path)


def _check_same_source(state: StoreState, store: str, told: dict[str, Any], steps: int) -> None:
    """Refuse to resume a store that is no import of just this file.

    Raises:
        StoreMismatchError: The store was made of another file or in another way, or was continued
            since.
    """
    before = state.metadata.get(IMPORTED_FROM)
    if not isinstance(before, dict):
        raise StoreMismatchError(f"{store} was not imported from a file: nothing to go on with")
    for key in ("nbytes", "sha256"):
        if before.get(key) != told[key]:
            raise StoreMismatchError(
                f"{store} was imported from another file, {shown(before.get('path'))}: "
                f"{key}: expected {shown(before.get(key))}, got {told[key]}"
            )
    if state.committed_steps > steps:
        raise StoreMismatchError(
            f"{store} was gone on with: expected at most {steps} steps, got {state.committed_steps}"
        )


def _check_same_rows(source: SourceFile, dataset: TrajectoryDataset) -> None:
    """Compare every committed row with the file: others may have continued the store.

    Raises:
        StoreMismatchError: Naming the first field and step that differ.
        CorruptStoreError: A damaged chunk.
    """
    for steps, piece in source.pieces(stop=dataset.num_steps):
        # Without a mask every pair is valid.
        piece.setdefault(VALID_MASK, np.ones((len(steps), source.contents.num_envs), np.bool_))
        for name, values in piece.items():
            rows = dataset.read(name, steps.start, steps.stop)
            for step, row, value in zip(steps, rows, values, strict=True):
                if row.tobytes() != value.tobytes():
                    raise StoreMismatchError(
                        f"{dataset.path}: {name}, step {step} is not what {source.path} holds: "
                        "the store was gone on with by someone else; import into another"
                    )


# -- notes -------------------------------------------------------------------------------------


def _notes(source: SourceFile, state: StoreState, first_step: int) -> Iterator[str]:
    """What the reader of the store should know, one sentence each."""
    contents = source.contents
    yield from _notes_of_trajectories(source, state)
    if _is_compact(contents.file):
        yield "the file is compact and knows no environments: its pairs are the steps of one"
    wide = [f.name for f in contents.schema.fields if f.dtype == "float64"]
    if wide:
        yield f"float64 is kept in {', '.join(wide)}; an export makes it float32"
    missing = [n for n in MOSAIC_FIELDS if n.startswith("action") and n not in contents.arrays]
    if missing:
        yield f"MOSAIC's loss also reads {', '.join(missing)}, which the file does not hold"
    told = contents.file.metadata.get("num_steps")
    if told is not None and told != state.num_valid:
        yield f"the file's metadata says num_steps {shown(told)}, valid pairs are {state.num_valid}"
    if first_step == contents.num_steps:
        yield "all steps were there already"
    elif first_step:
        yield f"went on at step {first_step}: trajectories open there go on under new ids"


def _notes_of_trajectories(source: SourceFile, state: StoreState) -> Iterator[str]:
    contents = source.contents
    told, names = shown(contents.file.metadata.get("num_trajectories")), contents.source_names
    kept = f"the file's trajectory_id is kept as {names.get(TRAJECTORY_ID)}"
    if contents.schema.has_ends:
        yield "the store's trajectory_end is the file's"
        if TRAJECTORY_ID in names:
            yield kept
    elif TRAJECTORY_ID not in names:
        yield (
            f"the file holds no trajectory ids (its metadata says num_trajectories {told}): each "
            "environment is one trajectory, and no end is known"
        )
    elif source.apart:
        yield (
            f"{kept}; each of its {state.num_trajectories} changes ended a trajectory (the file's "
            f"metadata says num_trajectories {told}); whether the last of an environment ended is "
            "not known"
        )
    else:
        yield (
            f"{kept}; trajectories lie mixed in it, so the store's own trajectory_id is one for "
            "each environment, and no end is known"
        )
    if TRAJECTORY_END in names:
        yield (
            f"the file's trajectory_end is kept as {names[TRAJECTORY_END]}: it does not agree with "
            "trajectories that follow one another in each environment"
        )
