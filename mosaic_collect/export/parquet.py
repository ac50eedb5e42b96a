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
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mosaic_collect.checks import needed
from mosaic_collect.errors import InputError
from mosaic_collect.export.plan import ExportFormat, ExportPlan, Options
from mosaic_collect.export.target import Target
from mosaic_collect.npyfile.layout import BESIDE, OURS
from mosaic_collect.passes.engine import Engine
from mosaic_collect.reading.table import Table
from mosaic_collect.reading.trajectories import ENDS
from mosaic_collect.store.schema import TRAJECTORY_ID, Field

#: Bytes of values, and rows, of a row group.
_GROUP_NBYTES, _GROUP_ROWS = 32 << 20, 1 << 20
#: Bytes of a page. Other sizes take as long; a reader of few rows decodes less.
_PAGE_NBYTES = 256 << 10


class Parquet(ExportFormat):
    """Parquet, one row per pair."""

    name = "parquet"

    def check(self, table: Table, fields: Sequence[Field], options: Options) -> None:
        require_pyarrow()
        # DuckDB does not tell upper case from lower case.
        clashing = [f.name for f in fields if f.name != TRAJECTORY_ID and f.name.lower() in BESIDE]
        if clashing:
            raise InputError(
                f"fields: {', '.join(clashing)}: the file has its own column of that name: name "
                "the other fields"
            )

    def write(self, target: Target, plan: ExportPlan, engine: Engine | None) -> Iterator[int]:
        import pyarrow as pa

        rows = plan.rows
        fields = [f for f in rows.fields if f.name != TRAJECTORY_ID]
        schema = pa.schema(
            [
                *((name, pa.string() if name == "end" else pa.int64()) for name in BESIDE),
                *(column(pa, f.name, f) for f in fields),
            ],
            {OURS: json.dumps(plan.about)},
        )
        found = rows.trajectories
        with open_parquet(target.temp_path, schema) as file:
            for batch in rows:
                owner, frame = rows.places(batch)
                beside = {
                    TRAJECTORY_ID: found["id"][owner],
                    "step": batch.steps,
                    "environment": found["env"][owner],
                    "frame_index": frame,
                    "end": pa.array(ENDS).take(pa.array(found["end"][owner])),
                }
                add_rows(file, {**batch.fields, **beside})
                yield len(frame) * rows.row_nbytes


def require_pyarrow() -> None:
    """Raise ``MissingDependencyError`` if pyarrow is not installed."""
    with needed("Parquet and LeRobot need pyarrow: pip install 'mosaic-collect[parquet]'"):
        import pyarrow as pa  # noqa: F401


def column(pa: Any, name: str, field: Field) -> Any:
    """A field's column: numbers, or lists of fixed size. Without null there is less to encode."""
    kind = pa.from_numpy_dtype(np.dtype(field.dtype))
    if field.row_shape:
        kind = pa.list_(pa.field("element", kind, nullable=False), field.width)
    return pa.field(name, kind, nullable=False)


def open_parquet(path: str, schema: Any) -> Any:
    """Open a new Parquet file for ``add_rows``: pyarrow's writer, which is a context manager."""
    import pyarrow as pa
    from pyarrow import parquet

    plain = [f.name for f in schema if not pa.types.is_nested(f.type)]
    return parquet.ParquetWriter(
        path,
        schema,
        compression="none",
        use_dictionary=[name for name in plain if pa.types.is_string(schema.field(name).type)],
        write_statistics=plain,
        data_page_size=_PAGE_NBYTES,
    )


def add_rows(file: Any, columns: Mapping[str, Any]) -> None:
    """Add rows, arrays of NumPy or of pyarrow, to a Parquet file in groups of bounded size."""
    import pyarrow as pa

    arrays = [_array(pa, columns[f.name], f.type) for f in file.schema]
    table = pa.Table.from_arrays(arrays, schema=file.schema)
    most = _GROUP_NBYTES * len(table) // max(1, table.nbytes)
    file.write_table(table, row_group_size=max(1, min(_GROUP_ROWS, most)))


def _array(pa: Any, values: Any, kind: Any) -> Any:
    if not isinstance(values, np.ndarray):
        return values
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(values.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(_array(pa, values, kind.value_type), type=kind)
