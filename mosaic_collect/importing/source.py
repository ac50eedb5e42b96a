"""Rows of any origin as a store, step by step: the engine of imports and of filtered copies."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import InputError, MosaicCollectError, StoreMismatchError
from mosaic_collect.npyfile.read import changed, read_into
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.recording.signals import exit_if_terminated
from mosaic_collect.recording.writer import TrajectoryWriter, end_with_codes
from mosaic_collect.store.blobs import Blobs
from mosaic_collect.store.files import open_regular
from mosaic_collect.store.metadata import StoreState
from mosaic_collect.store.parsing import json_copy
from mosaic_collect.store.ranks import Address, blobs_at
from mosaic_collect.store.schema import TRAJECTORY_END, VALID_MASK, Schema
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
        path: The file it was made from.
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
    path: str
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


class Source:
    """Rows of a store that is to be written, read in bounded pieces.

    Attributes:
        schema: Schema of the store.
        num_steps: Steps of the store.
        num_envs: Environments of the store.
        stops: Steps at which runs of the store stop, ascending; the last one is ``num_steps``.
        has_mask: Whether ``pieces`` yields a mask; else every pair is valid.
    """

    schema: Schema
    num_steps: int
    num_envs: int
    stops: Sequence[int]
    has_mask = False

    def pieces(self, first: int, stop: int) -> Iterator[tuple[range, Rows]]:
        """Yield some steps at a time, with rows of fields and masks, ``(steps, N[, D])``."""
        raise NotImplementedError

    def ends(self, steps: range) -> NDArray[np.uint8]:
        """Return how trajectories of the store end with each row. Shape: (steps, N)."""
        raise NotImplementedError

    def check_unchanged(self) -> None:
        """Raise if the rows may be others than they were when the source was opened."""


def write_store(
    source: Source, blobs: Blobs, done: Progress, first_step: int = 0, **options: Any
) -> int:
    """Write the steps from ``first_step`` on, run by run; return the bytes written to shards.

    ``options`` are those of ``TrajectoryWriter``, which is opened once per run.
    """
    stored_nbytes = 0
    for stop in [stop for stop in source.stops if stop > first_step] or [source.num_steps]:
        with TrajectoryWriter(
            blobs,
            source.schema,
            source.num_envs,
            commit_seconds=None,  # a timed commit may fall between a row and its ends
            encode_in="threads",  # which is a little faster where no simulation is disturbed
            **options,
        ) as writer:
            _copy(source, writer, stop, done)
            source.check_unchanged()
            writer.close(complete=stop == source.num_steps)
        stored_nbytes += writer.stats.stored_nbytes
        options = {**options, "resume": True, "overwrite": False}
    return stored_nbytes


class FileSource(Source):
    """A file while it is imported; it must stay one file.

    Args:
        path: The file; nothing in it is executed.

    Attributes:
        schema: Schema of the store; final after ``check_values``.
        about: Contents of the file beside its values, plain JSON.

    Raises:
        FileNotFoundError: No such file.
        CorruptExportError: Torn, hostile, or of another kind.
    """

    about: dict[str, Any]

    def __init__(self, path: str) -> None:
        self.path, self._fd = path, open_regular(path)
        self._stat = os.fstat(self._fd)
        self.nbytes = self._stat.st_size

    def __enter__(self) -> FileSource:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)

    @property
    def values_nbytes(self) -> int:
        """Bytes of all rows and masks that ``pieces`` yields."""
        given = (f.row_nbytes for f in self.schema.fields if f.name != TRAJECTORY_END)
        return self.num_steps * self.num_envs * (sum(given) + self.has_mask)

    def check_values(self) -> None:
        """Read the values on which the schema depends; refuse those that no store can hold."""
        raise NotImplementedError

    def notes(self, state: StoreState) -> Iterator[str]:
        """Yield facts that a reader of the store should know, one sentence each."""
        raise NotImplementedError

    def sha256(self, progress: Progress) -> str:
        """Digest of the whole file, read once from end to end."""
        digest = hashlib.sha256()
        buffer = bytearray(min(READ_NBYTES, self.nbytes))
        for start in range(0, self.nbytes, len(buffer) or 1):
            piece = memoryview(buffer)[: self.nbytes - start]
            read_into(self._fd, piece, start, self.path)
            digest.update(piece)
            progress(len(piece))
        return digest.hexdigest()

    def check_unchanged(self) -> None:
        """Raise ``CorruptExportError`` if the file was changed since it was opened."""
        now = os.fstat(self._fd)
        if (now.st_size, now.st_mtime_ns) != (self._stat.st_size, self._stat.st_mtime_ns):
            raise changed(self.path)


def import_source(
    opened: type[FileSource],
    path: str,
    store: Address,
    *,
    metadata: Mapping[str, Any] | None = None,
    buffer_mb: float | Literal["auto"] = "auto",
    compressor: str = "auto",
    resume: Resume = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Make a store of a file; ``import_npy`` documents the arguments and errors."""
    start = time.monotonic()
    blobs, own = blobs_at(store, "store"), json_copy(metadata or {})
    done = progress or (lambda nbytes: None)
    if IMPORTED_FROM in own:
        raise InputError(f"metadata: {IMPORTED_FROM} is what the import says of the file")
    with opened(path) as source:
        state = existing_state(blobs, resume)
        origin = {"path": path, "nbytes": source.nbytes, **source.about}
        source.check_values()
        origin["sha256"] = source.sha256(done)
        if state is not None:
            _check_same_source(state, blobs.address, origin, source.num_steps)
            _check_same_rows(source, TrajectoryDataset(blobs))
        first_step = 0 if state is None else state.committed_steps
        done(first_step * source.values_nbytes // source.num_steps)
        stored_nbytes = write_store(
            source,
            blobs,
            done,
            first_step,
            buffer_mb=buffer_mb,
            metadata={**own, IMPORTED_FROM: origin},
            compressor=compressor,
            resume=resume,
        )
        done(source.nbytes - source.values_nbytes)  # what is no value
        made = read_state(blobs)
        assert made is not None
        _log.info("%s: %d steps of %s", blobs.address, source.num_steps, path)
        shape = source.num_steps, source.num_envs
        return ImportReport(
            store=blobs.address,
            path=path,
            first_step=first_step,
            num_steps=made.committed_steps,
            num_envs=made.num_envs,
            num_valid=made.num_valid,
            num_trajectories=made.num_trajectories,
            shapes={name: (*shape, *source.schema[name].row_shape) for name in source.schema.names},
            file_nbytes=source.nbytes,
            stored_nbytes=stored_nbytes,
            seconds=time.monotonic() - start,
            notes=(*source.notes(made), *_notes_of_resuming(first_step, source.num_steps)),
        )


def _notes_of_resuming(first_step: int, num_steps: int) -> Iterator[str]:
    if first_step == num_steps:
        yield "all steps were there already"
    elif first_step:
        yield f"went on at step {first_step}: trajectories open there go on under new ids"


def _copy(source: Source, writer: TrajectoryWriter, stop: int, done: Progress) -> None:
    """Add the steps that the store does not hold yet, each with the ends of its row."""
    committed = time.monotonic()
    try:
        for steps, piece in source.pieces(writer.num_steps, stop):
            done(sum(values.nbytes for values in piece.values()))
            masks, ends = piece.pop(VALID_MASK, None), source.ends(steps)
            for at in range(len(steps)):
                rows = {name: values[at] for name, values in piece.items()}
                writer.add_step(valid_mask=None if masks is None else masks[at], **rows)
                end_with_codes(writer, ends[at])
            if time.monotonic() - committed > _COMMIT_SECONDS:
                writer.commit()
                committed = time.monotonic()
            exit_if_terminated()
    except BaseException:
        # An interrupt between the two calls leaves the last row without its ends; a resume knows
        # nothing of them.
        with contextlib.suppress(MosaicCollectError):
            last = writer.num_steps
            for ends in source.ends(range(max(0, last - 1), last)):
                end_with_codes(writer, ends)
        raise


def _check_same_source(state: StoreState, store: str, told: dict[str, Any], steps: int) -> None:
    """Refuse to resume a store that is no import of just this file."""
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


def _check_same_rows(source: FileSource, dataset: TrajectoryDataset) -> None:
    """Compare every committed row with the file: others may have continued the store."""
    for steps, piece in source.pieces(0, dataset.num_steps):
        # Without a mask every pair is valid.
        piece.setdefault(VALID_MASK, np.ones((len(steps), source.num_envs), np.bool_))
        for name, values in piece.items():
            rows = dataset.read(name, steps.start, steps.stop)
            for step, row, value in zip(steps, rows, values, strict=True):
                if row.tobytes() != value.tobytes():
                    raise StoreMismatchError(
                        f"{dataset.path}: {name}, step {step} is not what {source.path} holds: "
                        "the store was gone on with by someone else; import into another"
                    )
