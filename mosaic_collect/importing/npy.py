"""``import_npy``: a file of MOSAIC's collector, or an export of ours, as a store."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mosaic_collect.checks import local_path
from mosaic_collect.errors import InputError
from mosaic_collect.importing.notes import notes
from mosaic_collect.importing.origin import IMPORTED_FROM, check_same_source, origin
from mosaic_collect.importing.resuming import check_same_rows
from mosaic_collect.importing.source import Progress, SourceFile
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.recording.signals import exit_if_terminated
from mosaic_collect.recording.writer import TrajectoryWriter
from mosaic_collect.store.address import Address, blobs_at
from mosaic_collect.store.blobs import Blobs
from mosaic_collect.store.jsonvalues import json_copy
from mosaic_collect.store.root import existing_state, read_state
from mosaic_collect.store.schema import VALID_MASK

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImportReport:
    """What was made.

    Attributes:
        store: The store, complete.
        npy: The file it was made from.
        first_step: Step from which this call read; 0 unless it went on with an import.
        num_steps: Of the store, T.
        num_envs: N.
        num_valid: Pairs with a true mask.
        num_trajectories: Trajectories whose end is known.
        shapes: Field -> shape.
        file_nbytes: Size of the file.
        stored_nbytes: Written to shards by this call.
        seconds: It took.
        notes: What the reader of the store should know.
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
    buffer_mb: float | str = "auto",
    compressor: str = "auto",
    resume: bool | str = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Make a store of a ``.npy`` dict of MOSAIC's collector or of ``export_npy``, bit for bit.

    The file is neither unpickled nor loaded: memory is the writer's ring and some scratch. Keys,
    shapes and types are checked before anything is written. An import that was interrupted leaves
    a store that is collecting; ``resume`` goes on where its committed steps end.

    Arrays keep their dtype, float64 too. What the file says of itself goes into the store's
    metadata under ``imported_from``, with the file's path, size and SHA-256.

    MOSAIC's files hold no trajectory ids: each environment becomes one trajectory without an end.
    Ids of a file that has them are kept as the field ``source_trajectory_id``, since a store
    numbers its own. Where in each environment they never fall, as in a grid of ours, each change
    ends a trajectory of the store; the last of each environment has no end that is known. In a
    compact file of several environments' pairs ids alternate, and end nothing.

    Args:
        npy: The file.
        store: The store to be made, a folder that is not there yet, or is empty.
        metadata: Of the store, beside ``imported_from``.
        buffer_mb: As of ``TrajectoryWriter``.
        compressor: As of ``TrajectoryWriter``.
        resume: Go on with an interrupted import of the same file, known by size and SHA-256; what
            is committed is held against the file first. "auto": if there is one.
            Trajectories that were open there go on under new ids.
        progress: Told the bytes done since the last call: the file's size for its digest, and as
            much again for its steps.

    Raises:
        FileNotFoundError: No such file.
        CorruptExportError: It is torn, hostile, of another kind, or was changed meanwhile.
        InputError: A bad argument.
        StoreExistsError: The store's path is taken, and ``resume`` was not asked for.
        StoreNotFoundError: ``resume``, and no store there.
        StoreMismatchError: ``resume`` with a store of another file.
        StoreLockedError, CorruptStoreError, NewerFormatError, SpaceError, WriteError: Of the store.
    """
    start = time.monotonic()
    path, blobs = local_path(npy, "npy"), blobs_at(store, "store")
    own = _own_metadata(metadata)
    done = progress or (lambda nbytes: None)
    with SourceFile(path) as source:
        state, contents = existing_state(blobs, resume), source.contents
        told = origin(contents.file)
        apart = source.check_values()
        told["sha256"] = source.sha256(done)
        if state is not None:
            check_same_source(state, blobs.address, told, contents.num_steps)
            check_same_rows(source, TrajectoryDataset(blobs))
        writer = TrajectoryWriter(
            blobs,
            contents.schema,
            contents.num_envs,
            buffer_mb=buffer_mb,
            metadata={**own, IMPORTED_FROM: told},
            compressor=compressor,
            resume=resume,
            encode_in="threads",  # which is a little faster where no simulation is disturbed
        )
        with writer:
            first_step = writer.num_steps
            _copy(source, writer, apart, done)
            source.check_unchanged()
            done(contents.file.nbytes - contents.nbytes)  # what is no array
        return _report(source, blobs, writer, first_step, apart, time.monotonic() - start)


def _own_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    own = json_copy(metadata or {})
    if IMPORTED_FROM in own:
        raise InputError(f"metadata: {IMPORTED_FROM} is what the import says of the file")
    return own


def _copy(source: SourceFile, writer: TrajectoryWriter, apart: bool, done: Progress) -> None:
    """Add the steps that the store does not hold yet."""
    id_field = source.contents.id_field if apart else None
    last: Any = None
    done(writer.num_steps * source.contents.nbytes // source.contents.num_steps)
    for piece in source.pieces(writer.num_steps):
        masks = piece.pop(VALID_MASK, None)
        for at in range(len(next(iter(piece.values())))):
            rows = {name: values[at] for name, values in piece.items()}
            if id_field is not None:
                if last is not None and (rows[id_field] != last).any():
                    writer.end_trajectories(rows[id_field] != last)
                last = rows[id_field]
            writer.add_step(valid_mask=None if masks is None else masks[at], **rows)
        nbytes = sum(values.nbytes for values in piece.values())
        done(nbytes + (0 if masks is None else masks.nbytes))
        exit_if_terminated()


def _report(
    source: SourceFile,
    blobs: Blobs,
    writer: TrajectoryWriter,
    first_step: int,
    apart: bool,
    seconds: float,
) -> ImportReport:
    state = read_state(blobs)
    assert state is not None
    contents = source.contents
    _log.info("%s: %d steps of %s", writer.path, contents.num_steps, source.path)
    return ImportReport(
        store=writer.path,
        npy=source.path,
        first_step=first_step,
        num_steps=state.committed_steps,
        num_envs=state.num_envs,
        num_valid=state.num_valid,
        num_trajectories=state.num_trajectories,
        shapes={name: array.shape for name, array in contents.arrays.items()},
        file_nbytes=contents.file.nbytes,
        stored_nbytes=writer.stats.stored_nbytes,
        seconds=seconds,
        notes=tuple(notes(contents, state, first_step, apart)),
    )
