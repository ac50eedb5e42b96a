"""Parquet exports, for pandas, polars, DuckDB and ``datasets``: one row per pair.

    trajectory_id, step, environment    where the pair lies in the store; of several stores, steps
                                        are counted through
    frame_index                         number of the trajectory's rows before this one
    end                                 how the trajectory ended, as ``Trajectory.end``
    observations, actions, ...          fields, as they were recorded; vectors are lists of fixed
                                        size, rows of several axes such lists in C order

A trajectory's rows follow one another in the order of time. The file's metadata hold JSON under
``mosaic_collect``: the fields, and where the file comes from, as in a .npy export.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import needed
from mosaic_collect.errors import InputError
from mosaic_collect.export.options import Options
from mosaic_collect.export.rows import RowFormat, Segment, TrajectoryRows
from mosaic_collect.npyfile.layout import OURS
from mosaic_collect.reading.table import Table
from mosaic_collect.reading.trajectories import ENDS
from mosaic_collect.store.schema import TRAJECTORY_ID, Field

Columns = dict[str, list[NDArray[Any]]]
#: Columns beside the fields; ``end`` is text.
BESIDE = (TRAJECTORY_ID, "step", "environment", "frame_index", "end")
#: Bytes of values, and rows, of a row group.
_GROUP_NBYTES, _GROUP_ROWS = 32 << 20, 1 << 20


class Parquet(RowFormat):
    """Parquet, one row per pair."""

    name: ClassVar[str] = "parquet"
    endings: ClassVar[tuple[str, ...]] = (".parquet",)

    def check(self, table: Table, fields: Sequence[Field]) -> None:
        require_pyarrow()
        # DuckDB does not tell upper case from lower case.
        clashing = [f.name for f in fields if f.name != TRAJECTORY_ID and f.name.lower() in BESIDE]
        if clashing:
            raise InputError(
                f"fields: {', '.join(clashing)}: the file has its own column of that name: name "
                "the other fields"
            )

    def write(
        self, path: str, rows: TrajectoryRows, options: Options, about: dict[str, Any]
    ) -> Iterator[int]:
        import pyarrow as pa

        fields = [f for f in rows.fields if f.name != TRAJECTORY_ID]
        schema = pa.schema(
            [
                *((name, pa.string() if name == "end" else pa.int64()) for name in BESIDE),
                *((f.name, arrow_type(pa, f)) for f in fields),
            ],
            {OURS: json.dumps(about)},
        )
        with ParquetFile(path, schema) as file:
            for part in rows:
                file.add({**_columns_beside(rows, part), **part.fields}, part.nbytes)
                yield part.nbytes


def require_pyarrow() -> None:
    """Refuse an export without the library.

    Raises:
        MissingDependencyError: pyarrow is not installed.
    """
    with needed("Parquet and LeRobot need pyarrow: pip install 'mosaic-collect[parquet]'"):
        import pyarrow as pa  # noqa: F401


def _columns_beside(rows: TrajectoryRows, part: Segment) -> Columns:
    found, count = rows.trajectories, len(part.steps)
    env, end = found.env[part.trajectory], found.end[part.trajectory]
    return {
        TRAJECTORY_ID: [np.full(count, found.id[part.trajectory])],
        "step": [part.steps],
        "environment": [np.full(count, env)],
        "frame_index": [np.arange(part.first, part.first + count)],
        "end": [np.full(count, end)],
    }


def arrow_type(pa: Any, field: Field) -> Any:
    """Type of a field's column: a number, or a list of fixed size."""
    value = pa.from_numpy_dtype(np.dtype(field.dtype))
    item = pa.field("element", value, nullable=False)  # no levels to encode: a fifth faster
    return pa.list_(item, field.width) if field.row_shape else value


class ParquetFile:
    """A Parquet file in uncompressed row groups of bounded size; a context manager.

    Args:
        path: The file; one that is there is replaced.
        schema: Schema of the file, of pyarrow. Values of text are indices into ``ENDS``.
    """

    def __init__(self, path: str, schema: Any) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        self._pa, self._schema = pa, schema
        plain = [f.name for f in schema if not pa.types.is_nested(f.type)]
        self._file = parquet.ParquetWriter(
            path,
            schema,
            compression="none",
            use_dictionary=[name for name in plain if pa.types.is_string(schema.field(name).type)],
            write_statistics=plain,
        )
        self._waiting: list[Columns] = []
        self._num_rows = self._nbytes = 0

    def __enter__(self) -> ParquetFile:
        return self

    def __exit__(self, kind: object, *more: object) -> None:
        try:
            if kind is None:
                self._write()
        finally:
            self._file.close()

    def add(self, columns: Columns, nbytes: int) -> None:
        """Add rows.

        Args:
            columns: Column -> its values, in pieces.
            nbytes: Bytes of the values.
        """
        self._waiting.append(columns)
        self._nbytes += nbytes
        self._num_rows += sum(map(len, columns[self._schema.names[0]]))
        if self._nbytes >= _GROUP_NBYTES or self._num_rows >= _GROUP_ROWS:
            self._write()

    def _write(self) -> None:
        """Write the waiting rows as a row group."""
        if not self._waiting:
            return
        arrays = [self._array(name) for name in self._schema.names]
        self._waiting, self._nbytes, self._num_rows = [], 0, 0
        self._file.write_table(self._pa.Table.from_arrays(arrays, schema=self._schema))

    def _array(self, name: str) -> Any:
        values = np.concatenate([piece for columns in self._waiting for piece in columns[name]])
        kind, types = self._schema.field(name).type, self._pa.types
        if types.is_string(kind):
            return self._pa.array(ENDS).take(self._pa.array(values))
        if types.is_struct(kind):  # of images
            return self._pa.array([{"bytes": png, "path": None} for png in values], kind)
        flat = self._pa.array(values.reshape(-1))
        if not types.is_fixed_size_list(kind):
            return flat
        return self._pa.FixedSizeListArray.from_arrays(flat, type=kind)
