"""Files of one trajectory after the other as stores: HDF5 in robomimic's layout, and Parquet.

A store of one environment holds the trajectories in the file's order. ``trajectory_id`` is kept as
``source_trajectory_id``, as a store numbers its own; ``trajectory_end`` becomes the store's where
it agrees with where trajectories end. Behind a trajectory without an end, a run of the store stops.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import local_path, needed
from mosaic_collect.errors import CorruptExportError, InputError
from mosaic_collect.importing import source
from mosaic_collect.importing.npy import SOURCE, NpySource, with_defaults
from mosaic_collect.importing.source import FileSource, ImportReport, Rows, import_source
from mosaic_collect.npyfile.layout import BESIDE, OURS
from mosaic_collect.reading.trajectories import CODES
from mosaic_collect.store.metadata import StoreState
from mosaic_collect.store.ranks import Address
from mosaic_collect.store.schema import (
    ENDED,
    GOES_ON,
    MOSAIC_FIELDS,
    TRAJECTORY_END,
    TRAJECTORY_ID,
    Field,
    Schema,
)
from mosaic_collect.text import shown


def import_file(path: str | os.PathLike[str], store: Address, **options: Any) -> ImportReport:
    """Make a store of a ``.npy``, HDF5 or Parquet file, by the ending of its name, value by value.

    An HDF5 file is in robomimic's layout, ``data/demo_0/actions`` and ``data/demo_0/obs/...``; a
    Parquet file has one row per pair, with a column ``trajectory_id`` that is equal in all rows of
    a trajectory, which lie together.

    Args:
        path: The file.
        store: The store to be made, a folder that is not there yet, or is empty.
        options: Further arguments of ``import_npy``, which also says what it raises.

    Raises:
        InputError: An unknown ending.
        MissingDependencyError: h5py or pyarrow is not installed.
    """
    name = local_path(path, "path")
    sources: dict[str, type[FileSource]] = {
        ".npy": NpySource,
        ".hdf5": Hdf5Source,
        ".h5": Hdf5Source,
        ".parquet": ParquetSource,
    }
    for ending, opened in sources.items():
        if name.endswith(ending):
            return import_source(opened, name, store, **options)
    raise InputError(f"{name}: expected a name ending in {', '.join(sources)}")


#: A trajectory of a file: its id there and how it ended, None if not known, and its rows.
_Found: TypeAlias = tuple[Any, Any, int]


class _Trajectories(FileSource):
    """A file of one trajectory after the other, as a store of one environment."""

    num_envs = 1
    library: ClassVar[str]
    #: Set by ``_open``.
    _file: Any = None
    _fields: list[Field]

    def __init__(self, path: str) -> None:
        super().__init__(path)
        try:
            with needed(f"{path}: reading it needs {self.library}"):
                found = self._open()
            self._plan(found)
        except BaseException as error:
            self.__exit__()
            is_ours = isinstance(error, (CorruptExportError, ImportError))
            if isinstance(error, (OSError, KeyError, ValueError)) and not is_ours:
                raise CorruptExportError(f"{path}: cannot become a store: {error}") from error
            raise

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()
        super().__exit__(*exc)

    def _open(self) -> list[_Found]:
        """Open the file; find its fields and its trajectories."""
        raise NotImplementedError

    def _read(self, names: Sequence[str], first: int, stop: int) -> Iterator[Rows]:
        """Yield rows of fields, some at a time."""
        raise NotImplementedError

    def _plan(self, found: list[_Found]) -> None:
        self._own_ids = [own_id for own_id, _, _ in found if own_id is not None]
        ends = [end for _, end, _ in found]
        self._behind = np.cumsum([length for _, _, length in found], dtype=np.int64)
        self._codes = np.array([CODES.get(str(end), ENDED) for end in ends], np.uint8)
        self.num_steps = int(self._behind[-1]) if len(self._behind) else 0
        own = [f for f in self._fields if f.name not in SOURCE]
        if not self.num_steps or not own:
            raise CorruptExportError(f"{self.path}: cannot become a store: it holds no rows")
        order = {name: number for number, name in enumerate(MOSAIC_FIELDS)}
        own.sort(key=lambda f: order.get(f.name, len(order)))
        self._columns = {f.name: f.name for f in own}  # field -> name in the file
        if self._own_ids:
            own.append(Field(name=SOURCE[TRAJECTORY_ID], dtype="int64"))
        self.schema = Schema(tuple(with_defaults(own)))
        if any(end in CODES for end in ends):
            self.schema = self.schema.with_ends()
        stops = self._behind[self._codes == GOES_ON].tolist()
        self.stops = sorted({*stops, self.num_steps})

    def check_values(self) -> None:
        """Keep ``trajectory_end`` where it is not what the store's will be."""
        kept = [f for f in self._fields if f.name == TRAJECTORY_END]
        at = 0
        for rows in self._read([TRAJECTORY_END], 0, self.num_steps) if kept else ():
            found = rows[TRAJECTORY_END]
            if not np.array_equal(found, self.ends(range(at, at + len(found)))[:, 0]):
                field = Field(name=SOURCE[TRAJECTORY_END], dtype=kept[0].dtype)
                self.schema = Schema((*self.schema.fields, field))
                self._columns[field.name] = TRAJECTORY_END
                return
            at += len(found)

    def _rows_at_once(self, names: Sequence[str]) -> int:
        widths = {f.name: f.row_nbytes for f in self._fields}
        return max(1, source.READ_NBYTES // sum(widths[name] for name in names))

    def pieces(self, first: int, stop: int) -> Iterator[tuple[range, Rows]]:
        for rows in self._read(list(self._columns.values()), first, stop):
            steps = range(first, first + len(next(iter(rows.values()))))
            shaped = {
                name: rows[key].reshape(len(steps), 1, *self.schema[name].row_shape)
                for name, key in self._columns.items()
            }
            if self._own_ids:
                index = np.searchsorted(self._behind, np.arange(first, steps.stop), side="right")
                shaped[SOURCE[TRAJECTORY_ID]] = np.asarray(self._own_ids, np.int64)[index][:, None]
            yield steps, shaped
            first = steps.stop

    def ends(self, steps: range) -> NDArray[np.uint8]:
        out = np.full((len(steps), 1), GOES_ON, np.uint8)
        mine = (self._behind > steps.start) & (self._behind <= steps.stop)
        out[self._behind[mine] - 1 - steps.start, 0] = self._codes[mine]
        return out

    def notes(self, state: StoreState) -> Iterator[str]:
        yield f"{len(self._behind)} trajectories, one after the other in one environment"
        if SOURCE[TRAJECTORY_END] in self.schema.names:
            yield f"the file's trajectory_end is kept as {SOURCE[TRAJECTORY_END]}"


class Hdf5Source(_Trajectories):
    """An HDF5 file in robomimic's layout while it is imported."""

    library = "h5py: pip install 'mosaic-collect[hdf5]'"

    def _open(self) -> list[_Found]:
        import h5py

        self._file = h5py.File(self.path, "r", locking=False)
        demos = self._file["data"]
        self._demos = [demos[name] for name in sorted(demos, key=lambda name: (len(name), name))]
        self._keys = _datasets(self._demos[0]) if self._demos else {}
        found: list[_Found] = []
        for number, demo in enumerate(self._demos):
            length, attrs = len(demo["actions"]), demo.attrs
            for key in self._keys.values():
                rows = demo[key].shape[:1] if key in demo else "none"
                if rows != (length,):
                    words = f"expected {length} rows, got {rows}"
                    raise CorruptExportError(f"{self.path}: {demo.name}/{key}: {words}")
            found.append((attrs.get("trajectory_id", number), attrs.get("end"), length))
        told = self._file[OURS][()] if OURS in self._file else b"null"
        self.about = {"metadata": {OURS: json.loads(told)}}
        first = {name: self._demos[0][key] for name, key in self._keys.items()}
        self._fields = [Field(n, dim=d.shape[1:], dtype=d.dtype.name) for n, d in first.items()]
        return found

    def _read(self, names: Sequence[str], first: int, stop: int) -> Iterator[Rows]:
        size, begin = self._rows_at_once(names), 0
        for demo, end in zip(self._demos, self._behind.tolist(), strict=True):
            for at in range(max(first, begin), min(stop, end), size):
                inside = slice(at - begin, min(at + size, end, stop) - begin)
                yield {name: demo[self._keys[name]][inside] for name in names}
            begin = end


def _datasets(demo: Any) -> dict[str, str]:
    """Field -> key of the datasets of a demo; names of groups but obs and states are prefixes."""
    import h5py

    found: dict[str, str] = {}

    def add(key: str, value: Any) -> None:
        if isinstance(value, h5py.Dataset) and not key.startswith(("next_obs/", "initial_state/")):
            parts = key.split("/")
            parts = parts[1:] if parts[0] in ("obs", "states") and len(parts) > 1 else parts
            name = "_".join(parts)
            if name in found:
                raise ValueError(f"{key} and {found[name]} would be one field, {name}")
            found[name] = key

    demo.visititems(add)
    return found


class ParquetSource(_Trajectories):
    """A Parquet file with one row per pair while it is imported."""

    library = "pyarrow: pip install 'mosaic-collect[parquet]'"

    def _open(self) -> list[_Found]:
        from pyarrow import parquet

        self._file = parquet.ParquetFile(self.path)
        schema, metadata = self._file.schema_arrow, self._file.schema_arrow.metadata or {}
        told = json.loads(metadata.get(OURS.encode(), b"null"))
        is_ours = isinstance(told, dict)
        self.about = {"metadata": {OURS: told}}
        dims = {f["name"]: f["dim"] for f in told["fields"]} if is_ours else {}
        left = BESIDE if is_ours else (TRAJECTORY_ID,)  # which the store has in another way
        self._fields = [_field_of(f, dims.get(f.name)) for f in schema if f.name not in left]
        traced = left if is_ours else schema.names
        return self._trace([n for n in (TRAJECTORY_ID, "end") if n in traced])

    def _trace(self, names: list[str]) -> list[_Found]:
        """Find where trajectories end."""
        if TRAJECTORY_ID not in names:
            return [(None, None, self._file.metadata.num_rows)]
        ids, ends, counts = list[int](), list[str | None](), list[int]()
        for batch in self._file.iter_batches(1 << 16, columns=names):
            column = batch.column(TRAJECTORY_ID).to_numpy(zero_copy_only=False)
            starts = np.flatnonzero(np.diff(column, prepend=column[:1] - 1))
            for start, stop in zip(starts, [*starts[1:], len(column)], strict=True):
                if not ids or ids[-1] != column[start]:
                    ids.append(int(column[start]))
                    ends.append(batch.column("end")[int(start)].as_py() if "end" in names else None)
                    counts.append(0)
                counts[-1] += int(stop - start)
        if len(set(ids)) != len(ids):
            raise ValueError("trajectory_id: rows of a trajectory do not lie together")
        return list(zip(ids, ends, counts, strict=True))

    def _read(self, names: Sequence[str], first: int, stop: int) -> Iterator[Rows]:
        groups = range(self._file.num_row_groups)
        behind = np.cumsum([0, *(self._file.metadata.row_group(n).num_rows for n in groups)])
        group = int(np.searchsorted(behind, first, side="right")) - 1
        size = self._rows_at_once(names)
        at = int(behind[group])
        for batch in self._file.iter_batches(size, list(groups[group:]), columns=list(names)):
            begin, end = max(first - at, 0), min(stop - at, len(batch))
            at += len(batch)
            if begin < end:
                yield {name: _values(batch.column(name)[begin:end], name) for name in names}


def _field_of(column: Any, dim: Any) -> Field:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_fixed_size_list(kind):
        dim, kind = dim or kind.list_size, kind.value_type
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    if not any(is_kind(kind) for is_kind in numbers):
        raise ValueError(f"{column.name}: expected numbers, got {shown(str(column.type))}")
    dim = tuple(dim) if isinstance(dim, list) else dim
    return Field(name=column.name, dim=dim, dtype=np.dtype(kind.to_pandas_dtype()).name)


def _values(array: Any, name: str) -> NDArray[Any]:
    if array.null_count:
        raise CorruptExportError(f"{name}: expected a value in each row, got null")
    flat = array.flatten() if hasattr(array.type, "list_size") else array
    values = np.asarray(flat.to_numpy(zero_copy_only=False))
    return values.reshape(len(array), -1) if flat is not array else values
