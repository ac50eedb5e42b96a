"""``import_npy``: a file of MOSAIC's collector, or an export of ours, as a store.

    observations, student_observations, actions, action_mean, action_sigma   floats [T, N, D]
    valid_mask       bool [T, N]
    trajectory_id    int64 [T, N]
    trajectory_end   uint8 [T, N]
    other arrays     [T, N], [T, N, D] or more axes, of any dtype that a store can hold

Rows that our export made flat get their axes again, which the file's metadata keep. A compact file
``[M, 1, D]`` is a grid of one environment. MOSAIC's own file:
BAAI-Humanoid/MOSAIC, collection/expert_trajectory_collector.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import is_whole, local_path
from mosaic_collect.errors import CorruptExportError, InputError
from mosaic_collect.importing import source
from mosaic_collect.importing.source import FileSource, ImportReport, Progress, Rows, import_source
from mosaic_collect.npyfile.layout import AXES, COMPACT, StoredArray
from mosaic_collect.npyfile.read import NpyFile, changed, plain_copy, read_into, scan_npy
from mosaic_collect.store.metadata import StoreState
from mosaic_collect.store.parsing import MAX_ENVS
from mosaic_collect.store.ranks import Address
from mosaic_collect.store.schema import (
    ENDED,
    GOES_ON,
    MAX_AXES,
    MOSAIC_FIELDS,
    MOSAIC_SIGMA,
    TRAJECTORY_END,
    TRAJECTORY_ID,
    TRUNCATED,
    VALID_MASK,
    Field,
    Schema,
)
from mosaic_collect.store.view import Resume
from mosaic_collect.text import shown

#: Fields that keep a file's trajectory ids and ends, as the writer has its own under their names.
SOURCE = {TRAJECTORY_ID: "source_trajectory_id", TRAJECTORY_END: "source_trajectory_end"}
#: Numbers of axes, kinds of dtypes and their name, by key and of other keys.
_EXPECTED = {
    **dict.fromkeys(MOSAIC_FIELDS, (range(3, 4), "f", "floats")),
    VALID_MASK: (range(2, 3), "b", "bool"),
    TRAJECTORY_ID: (range(2, 3), "i", "whole numbers"),
}
_OTHERS = range(2, 3 + MAX_AXES), "biuf", "numbers"


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
        buffer_mb: Memory for steps that are not on disk yet, in MB of 10^6 bytes (default: about 64
            steps per block, at most a tenth of the free memory).
        compressor: Compression of the chunks (default: zstd, or what the store has).
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


class NpySource(FileSource):
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
        self.num_steps, self.num_envs = _leading(self.file)
        self.stops, self.has_mask = [self.num_steps], VALID_MASK in self.file.arrays
        if self.has_mask:
            self.arrays[VALID_MASK] = self.file.arrays[VALID_MASK]
        others = {key: value for key, value in self.file.plain.items() if key != "metadata"}
        about: dict[str, Any] = {"metadata": self.file.plain.get("metadata")}
        self.about = plain_copy({**about, "others": others} if others else about, path)

    def pieces(self, first: int, stop: int) -> Iterator[tuple[range, Rows]]:
        return self._pieces(self.arrays, first, stop)

    def _pieces(
        self, arrays: Mapping[str, StoredArray], first: int, stop: int
    ) -> Iterator[tuple[range, Rows]]:
        step_nbytes = sum(array.nbytes for array in arrays.values()) // self.num_steps
        size = max(1, source.READ_NBYTES // max(1, step_nbytes))
        for start in range(first, stop, size):
            steps = range(start, min(start + size, stop))
            yield steps, {name: self._rows(array, steps) for name, array in arrays.items()}

    def _rows(self, array: StoredArray, steps: range) -> NDArray[Any]:
        out = np.empty((len(steps), *array.shape[1:]), array.dtype)
        first = array.offset + steps.start * (array.nbytes // array.shape[0])
        read_into(self._fd, out.reshape(-1).view(np.uint8).data, first, self.path)
        return out

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
        arrays = self.file.arrays
        kind = arrays.get(TRAJECTORY_END)
        has_ids = TRAJECTORY_ID in arrays
        agrees = kind is not None and kind.dtype == np.uint8 and len(kind.shape) == 2
        self.apart = has_ids
        names = [key for key, array in arrays.items() if array.dtype.kind == "b"]
        names += [TRAJECTORY_ID] * has_ids + [TRAJECTORY_END] * agrees
        before: Rows = {}
        for _, piece in self._pieces({n: arrays[n] for n in names}, 0, self.num_steps):
            for name, values in piece.items():
                largest = values.view(np.uint8).max() if values.dtype == np.bool_ else 0
                if largest > 1:
                    raise CorruptExportError(
                        f"{self.path}: {name}: expected bool, got a byte of {largest}"
                    )
            # One row before: behind the last row no id tells whether it ends.
            rows = {n: np.concatenate([before.get(n, v[:0]), v]) for n, v in piece.items()}
            before = {name: values[-1:] for name, values in piece.items()}
            if has_ids:
                ids = rows[TRAJECTORY_ID]
                self.apart &= not (ids[1:] < ids[:-1]).any()
            if agrees:
                ends = rows[TRAJECTORY_END]
                agrees = not (ends > TRUNCATED).any()
                if has_ids:
                    changes = ids[1:] != ids[:-1]
                    agrees &= bool(((ends[:-1] != GOES_ON) == changes).all())
        # Without ids nothing tells whether a compact file's pairs are of one environment.
        if agrees and (self.apart if has_ids else not self._is_compact):
            kept = self.source_names.pop(TRAJECTORY_END)
            del self.arrays[kept]
            fields = tuple(f for f in self.schema.fields if f.name != kept)
            self.schema = Schema(fields).with_ends()

    @property
    def _is_compact(self) -> bool:
        return (self.file.provenance or {}).get("layout") == COMPACT

    def notes(self, state: StoreState) -> Iterator[str]:
        yield from _notes_of_trajectories(self, state)
        if self._is_compact:
            yield "the file is compact and knows no environments: its pairs are the steps of one"
        wide = [f.name for f in self.schema.fields if f.dtype == "float64"]
        if wide:
            yield f"float64 is kept in {', '.join(wide)}; an export makes it float32"
        missing = [n for n in MOSAIC_FIELDS if n.startswith("action") and n not in self.arrays]
        if missing:
            yield f"MOSAIC's loss also reads {', '.join(missing)}, which the file does not hold"
        told, valid = self.file.metadata.get("num_steps"), state.num_valid
        if told is not None and told != valid:
            yield f"the file's metadata says num_steps {shown(told)}, valid pairs are {valid}"


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


def find_fields(file: NpyFile) -> tuple[Schema, dict[str, StoredArray], dict[str, str]]:
    """Find the fields of the store that a scanned file becomes.

    Returns:
        Schema of the store; place of each field's values; fields that keep the file's trajectory
        ids and ends, by the file's keys.

    Raises:
        CorruptExportError: Naming every key at fault, what was expected and what is there.
    """
    problems = list(_missing(file)) or list(_misshapen(file))
    if problems:
        raise CorruptExportError(f"{file.path}: cannot become a store: " + "; ".join(problems))
    names = _field_names(file)
    try:
        arrays = {name: _with_axes(file, key) for name, key in names.items()}
        fields = (Field(name=n, dim=a.shape[2:], dtype=a.dtype.name) for n, a in arrays.items())
        schema = Schema(tuple(with_defaults(fields)))
    except InputError as error:
        raise CorruptExportError(f"{file.path}: cannot become a store: {error}") from error
    return schema, arrays, {key: name for name, key in names.items() if key in SOURCE}


def _missing(file: NpyFile) -> Iterator[str]:
    """Name what is missing. Our own exports may hold any fields; others are MOSAIC's."""
    have = ", ".join(sorted(file.arrays)) or "no array"
    if file.provenance is None:
        if not {"observations", "student_observations"} & set(file.arrays):
            yield f"expected observations or student_observations, got {have}"
        if "actions" not in file.arrays:
            yield f"expected actions, got {have}"
    elif not set(file.arrays) - {VALID_MASK}:
        yield f"expected at least one field, got {have}"
    if file.metadata.get("has_valid_mask") is True and VALID_MASK not in file.arrays:
        yield "the metadata tells of a valid_mask, and there is none"


def _misshapen(file: NpyFile) -> Iterator[str]:
    shape = _leading(file)
    if not (len(shape) == 2 and shape[0] >= 1 and 1 <= shape[1] <= MAX_ENVS):
        key = _first(file)
        yield f"{key}: expected [T, N, D], N at most {MAX_ENVS}, got {file.arrays[key].shape}"
        return
    for key, array in file.arrays.items():
        axes, kinds, words = _EXPECTED.get(key, _OTHERS)
        whole = array.shape[:2] == shape and len(array.shape) in axes and 0 not in array.shape
        if not whole:
            form = " or ".join(str([*shape, "D"][:n]) for n in axes[:2]).replace("'", "")
            yield f"{key}: expected {form}, got {list(array.shape)}"
        if array.dtype.kind not in kinds:
            yield f"{key}: expected {words}, got {array.dtype}"


def _first(file: NpyFile) -> str:
    """The key whose shape the others must have: MOSAIC's first, else the file's."""
    return next((name for name in MOSAIC_FIELDS if name in file.arrays), next(iter(file.arrays)))


def _leading(file: NpyFile) -> tuple[int, ...]:
    """The first two axes of the arrays: steps and environments."""
    return file.arrays[_first(file)].shape[:2]


def _field_names(file: NpyFile) -> dict[str, str]:
    """Field -> key, MOSAIC's in its order, then the file's others; the mask is no field."""
    others = [key for key in file.arrays if key not in (*MOSAIC_FIELDS, VALID_MASK)]
    keys = [*(key for key in MOSAIC_FIELDS if key in file.arrays), *others]
    taken = {key.lower() for key in keys}
    return {_free_name(SOURCE[key], taken) if key in SOURCE else key: key for key in keys}


def _free_name(name: str, taken: set[str]) -> str:
    numbered = (name if n == 1 else f"{name}_{n}" for n in count(1))
    return next(free for free in numbered if free not in taken)


def with_defaults(fields: Iterable[Field]) -> list[Field]:
    """Give fields the defaults of ``Schema.mosaic``, so that a collection can resume."""
    fields = list(fields)
    shapes = {f.name: (f.dim, f.dtype) for f in fields}
    defaults: dict[str, float | str] = {"action_sigma": MOSAIC_SIGMA}
    if "actions" in shapes and shapes["actions"] == shapes.get("action_mean"):
        defaults["action_mean"] = "actions"
    return [replace(f, default=defaults.get(f.name)) for f in fields]


def _with_axes(file: NpyFile, key: str) -> StoredArray:
    """An array as it was recorded: our export makes MOSAIC's flat."""
    array, told = file.arrays[key], (file.provenance or {}).get(AXES)
    if not isinstance(told, dict) or key not in told or key not in MOSAIC_FIELDS:
        return array
    axes = told[key]
    whole = isinstance(axes, list) and all(is_whole(n, 1, array.shape[2]) for n in axes)
    if not whole or len(axes) > MAX_AXES or prod(axes) != array.shape[2]:
        raise InputError(f"{key}: expected axes of {array.shape[2]} values, got {shown(axes)}")
    return replace(array, shape=(*array.shape[:2], *axes))
