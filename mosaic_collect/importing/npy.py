"""``import_npy``: a file of MOSAIC's collector, or an export of ours, as a store."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import local_path
from mosaic_collect.errors import CorruptExportError
from mosaic_collect.importing import source
from mosaic_collect.importing.contents import find_fields, leading
from mosaic_collect.importing.source import ImportReport, Progress, Rows, Source, import_source
from mosaic_collect.npyfile.layout import COMPACT, StoredArray
from mosaic_collect.npyfile.read import (
    NpyFile,
    changed,
    plain_copy,
    read_into,
    scan_npy,
)
from mosaic_collect.store.metadata import StoreState
from mosaic_collect.store.ranks import Address
from mosaic_collect.store.schema import (
    ENDED,
    GOES_ON,
    MOSAIC_FIELDS,
    TRAJECTORY_END,
    TRAJECTORY_ID,
    TRUNCATED,
    VALID_MASK,
    Schema,
)
from mosaic_collect.store.view import Resume
from mosaic_collect.text import shown


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
    return import_source(
        NpySource,
        local_path(npy, "npy"),
        store,
        metadata=metadata,
        buffer_mb=buffer_mb,
        compressor=compressor,
        resume=resume,
        progress=progress,
    )


class NpySource(Source):
    """A ``.npy`` file while it is imported.

    Attributes:
        apart: Whether trajectories lie apart: in no environment ids ever fall, so each change of an
            id is the end of a trajectory. Known after ``check_values``.
    """

    def __init__(self, path: str) -> None:
        self.apart, self.file = False, scan_npy(path)
        self.schema, self.arrays, self.source_names = find_fields(self.file)
        super().__init__(path)
        if self.nbytes != self.file.nbytes:
            self.__exit__()
            raise changed(self.path)
        self.num_steps, self.num_envs = leading(self.file)
        self.values_nbytes = sum(array.nbytes for array in self._values().values())
        self.about = _about(self.file)

    def _values(self) -> dict[str, StoredArray]:
        """Place of the values of each field, and of the mask; without one every pair is valid."""
        mask = self.file.arrays.get(VALID_MASK)
        return self.arrays if mask is None else {**self.arrays, VALID_MASK: mask}

    def pieces(self, first: int, stop: int) -> Iterator[tuple[range, Rows]]:
        return self._pieces(self._values(), first, stop)

    def _pieces(
        self, arrays: Mapping[str, StoredArray], first: int = 0, stop: int | None = None
    ) -> Iterator[tuple[range, Rows]]:
        stop = self.num_steps if stop is None else stop
        step_nbytes = sum(array.nbytes for array in arrays.values()) // self.num_steps
        size = max(1, source.READ_NBYTES // step_nbytes)
        for start in range(first, stop, size):
            steps = range(start, min(start + size, stop))
            yield steps, {name: self._rows(array, steps) for name, array in arrays.items()}

    def ends(self, steps: range) -> NDArray[np.uint8]:
        if self.schema.has_ends:  # they are the file's
            return self._rows(self.file.arrays[TRAJECTORY_END], steps)
        ends = np.full((len(steps), self.num_envs), GOES_ON, np.uint8)
        if self.apart and steps:
            # One row more, if there is one: the last row ends where the next one has other ids.
            more = range(steps.start, min(steps.stop + 1, self.num_steps))
            ids = self._rows(self.file.arrays[TRAJECTORY_ID], more)
            ends[: len(more) - 1][ids[1:] != ids[:-1]] = ENDED
        return ends

    def check_values(self) -> None:
        for key, array in self.file.arrays.items():
            if array.dtype.kind == "b":
                self._check_bools(key, array)
        ids, ends = self.file.arrays.get(TRAJECTORY_ID), self.file.arrays.get(TRAJECTORY_END)
        self.apart = ids is not None and self._ids_never_fall(ids)
        # Without ids nothing tells whether a compact file's pairs are of one environment.
        one_by_one = self.apart if ids is not None else not _is_compact(self.file)
        plain = ends is not None and ends.dtype == np.uint8 and len(ends.shape) == 2
        if ends is not None and plain and one_by_one and self._ends_agree(ends):
            kept = self.source_names.pop(TRAJECTORY_END)
            del self.arrays[kept]
            fields = tuple(f for f in self.schema.fields if f.name != kept)
            self.schema = Schema(fields).with_ends()

    def notes(self, state: StoreState) -> Iterator[str]:
        return _notes(self, state)

    def _check_bools(self, key: str, array: StoredArray) -> None:
        as_bytes = StoredArray(array.offset, array.nbytes, array.shape, np.dtype("u1"))
        for _, piece in self._pieces({key: as_bytes}):
            largest = int(piece[key].max())
            if largest > 1:
                raise CorruptExportError(
                    f"{self.path}: {key}: expected bool, got a byte of {largest}"
                )

    def _ids_never_fall(self, ids: StoredArray) -> bool:
        last = None
        for _, piece in self._pieces({TRAJECTORY_ID: ids}):
            rows = piece[TRAJECTORY_ID]
            if (rows[1:] < rows[:-1]).any() or (last is not None and (rows[0] < last).any()):
                return False
            last = rows[-1].copy()
        return True

    def _ends_agree(self, ends: StoredArray) -> bool:
        """Whether the file's ends are a store's: where ids change, if there are any."""
        last_step = self.num_steps - 1
        for steps, piece in self._pieces({TRAJECTORY_END: ends}):
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


def _about(file: NpyFile) -> dict[str, Any]:
    """All that a file holds beside arrays, as JSON has it.

    Raises:
        CorruptExportError: A value that JSON cannot hold, or too many.
    """
    others = {key: value for key, value in file.plain.items() if key != "metadata"}
    told: dict[str, Any] = {"metadata": file.plain.get("metadata")}
    return plain_copy({**told, "others": others} if others else told, file.path)


def _notes(source: NpySource, state: StoreState) -> Iterator[str]:
    """What the reader of the store should know, one sentence each."""
    yield from _notes_of_trajectories(source, state)
    if _is_compact(source.file):
        yield "the file is compact and knows no environments: its pairs are the steps of one"
    wide = [f.name for f in source.schema.fields if f.dtype == "float64"]
    if wide:
        yield f"float64 is kept in {', '.join(wide)}; an export makes it float32"
    missing = [n for n in MOSAIC_FIELDS if n.startswith("action") and n not in source.arrays]
    if missing:
        yield f"MOSAIC's loss also reads {', '.join(missing)}, which the file does not hold"
    told = source.file.metadata.get("num_steps")
    if told is not None and told != state.num_valid:
        yield f"the file's metadata says num_steps {shown(told)}, valid pairs are {state.num_valid}"


def _notes_of_trajectories(source: NpySource, state: StoreState) -> Iterator[str]:
    told, names = shown(source.file.metadata.get("num_trajectories")), source.source_names
    kept = f"the file's trajectory_id is kept as {names.get(TRAJECTORY_ID)}"
    if source.schema.has_ends:
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
