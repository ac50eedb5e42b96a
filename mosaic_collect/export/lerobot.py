"""LeRobot exports (dataset version 3.0): a folder, one episode per trajectory.

    data/chunk-000/file-000.parquet             one row per pair; an episode lies in one file
    meta/info.json, stats.json, tasks.parquet   features, statistics of all rows, texts of tasks
    meta/episodes/chunk-000/file-000.parquet    lengths and places of the episodes
    meta/mosaic_collect.json                    where the dataset comes from, as in a .npy export

    observation.state     the field ``observations``, or another one by the option ``state``
    action                the field ``actions``
    observation.<name>    other observations and states; uint8 rows (H, W, 1 or 3) are PNG images
    info.<name>           other fields of actions, ids and ends: LeRobot's policies do not read them

Rows of several axes that are no images become one axis, in C order.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import needed
from mosaic_collect.errors import InputError
from mosaic_collect.export.hdf5 import key_of
from mosaic_collect.export.options import Options
from mosaic_collect.export.parquet import ParquetFile, arrow_type, require_pyarrow
from mosaic_collect.export.rows import Ints, RowFormat, TrajectoryRows
from mosaic_collect.npyfile.layout import OURS
from mosaic_collect.reading.moments import Moments
from mosaic_collect.reading.subset import motion_names
from mosaic_collect.reading.table import Table
from mosaic_collect.reading.terms import column_names, usable_robot
from mosaic_collect.reading.trajectories import ENDS
from mosaic_collect.store.schema import Field
from mosaic_collect.text import shown

_STATE, _ACTION = "observation.state", "action"
#: LeRobot's own sizes: files per folder, and megabytes of values per file.
_CHUNK_FILES, _FILE_MB = 1000, 100
#: Features that LeRobot requires of each frame.
_INDICES = (
    Field(name="timestamp"),
    Field(name="frame_index", dtype="int64"),
    Field(name="episode_index", dtype="int64"),
    Field(name="index", dtype="int64"),
    Field(name="task_index", dtype="int64"),
)
_PATH = "chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"


@dataclass(frozen=True)
class LeRobot(RowFormat):
    """LeRobot's dataset, version 3.0.

    Attributes:
        fps: Steps per second; None: by the control period in the store's metadata.
        state: Field to name ``observation.state``; None: ``observations``, if it is exported, else
            ``student_observations``.
    """

    name: ClassVar[str] = "lerobot"

    fps: float | None = None
    state: str | None = None

    def check(self, table: Table, fields: Sequence[Field]) -> None:
        require_pyarrow()
        if any(is_image(f) for f in fields):
            with needed("LeRobot's images need Pillow: pip install 'mosaic-collect[lerobot]'"):
                import PIL  # noqa: F401
        self._rate(table)
        names = [f.name for f in fields]
        if self.state is not None and self.state not in names:
            raise InputError(f"state: expected one of {', '.join(names)}, got {shown(self.state)}")
        features = list(self._names(fields).values())
        twice = {name for name in features if features.count(name) > 1}
        if twice:
            raise InputError(f"fields: two of them would be the feature {', '.join(twice)}")

    def _rate(self, table: Table) -> float:
        period = usable_robot(table.state.metadata).control_dt
        fps = self.fps if self.fps is not None or not period else 1 / period
        if not isinstance(fps, (int, float)) or not 0 < fps < math.inf:
            raise InputError(
                f"fps: expected steps per second, got {shown(fps)}: the store's metadata hold no "
                "control period, so fps=50, for one, has to name the rate"
            )
        return round(fps) if math.isclose(fps, round(fps)) else fps

    def _names(self, fields: Sequence[Field]) -> dict[str, str]:
        """Field -> feature."""
        names = [f.name for f in fields]
        usual = [n for n in ("observations", "student_observations") if n in names]
        state = self.state or next(iter(usual), None)

        def feature(name: str) -> str:
            if name == state:
                return _STATE
            if name == "actions":
                return _ACTION
            prefix = "observation" if key_of(name).partition("/")[1] else "info"
            return f"{prefix}.{name}"

        return {name: feature(name) for name in names}

    def write(
        self, path: str, rows: TrajectoryRows, options: Options, about: dict[str, Any]
    ) -> Iterator[int]:
        import pyarrow as pa

        fps, names = self._rate(rows.table), self._names(rows.fields)
        features = {**{names[f.name]: f for f in rows.fields}, **{f.name: f for f in _INDICES}}
        schema = pa.schema({name: _arrow_type(pa, field) for name, field in features.items()})
        texts, task = _tasks(rows)
        stats = {name: Moments.nothing(_channels(field)) for name, field in features.items()}
        episodes: list[tuple[int, int]] = []  # index of the trajectory, and number of the file
        number, nbytes, num_frames = -1, 0, 0
        with ExitStack() as stack, ThreadPoolExecutor() as pool:
            for part in rows:
                if not part.first:
                    if number < 0 or nbytes >= _FILE_MB * 1_000_000:
                        stack.close()
                        number, nbytes = number + 1, 0
                        name = _place(path, "data", number)
                        file = stack.enter_context(ParquetFile(name, schema))
                    episodes.append((part.trajectory, number))
                count = len(part.steps)
                frames = np.arange(part.first, part.first + count)
                columns = {
                    **{names[name]: pieces for name, pieces in part.fields.items()},
                    "timestamp": [(frames / fps).astype(np.float32)],
                    "frame_index": [frames],
                    "episode_index": [np.full(count, len(episodes) - 1)],
                    "index": [np.arange(num_frames, num_frames + count)],
                    "task_index": [np.full(count, task[part.trajectory])],
                }
                for name, field in features.items():
                    values = np.concatenate(columns[name]).reshape(-1, _channels(field))
                    stats[name] += Moments.of(values / 255 if is_image(field) else values)
                    if is_image(field):
                        columns[name] = [_pngs(piece, pool) for piece in columns[name]]
                file.add(columns, part.nbytes)
                num_frames, nbytes = num_frames + count, nbytes + part.nbytes
                yield part.nbytes
        info = {
            "codebase_version": "v3.0",
            "robot_type": usable_robot(rows.table.state.metadata).name or None,
            "fps": fps,
            "total_episodes": len(episodes),
            "total_frames": num_frames,
            "total_tasks": len(texts),
            "splits": {"train": f"0:{len(episodes)}"},
            "chunks_size": _CHUNK_FILES,
            "data_files_size_in_mb": _FILE_MB,
            "data_path": f"data/{_PATH}",
            "video_path": None,
            "features": {n: _described(rows.table, f) for n, f in features.items()},
        }
        stored = {name: _stored(stats[name], field) for name, field in features.items()}
        _write_tables(path, rows, np.array(episodes), texts, task)
        for key, content in (("info", info), ("stats", stored), (OURS, about)):
            with open(os.path.join(path, "meta", f"{key}.json"), "w") as meta:
                json.dump(content, meta, indent=4)


def _tasks(rows: TrajectoryRows) -> tuple[list[str], Ints]:
    """Texts of tasks, and the number of each trajectory's: its motion, or the store's task."""
    metadata, motion = rows.table.state.metadata, rows.trajectories.motion
    motions, other = motion_names(metadata), str(metadata.get("task") or "")
    is_named = (motion >= 0) & (motion < len(motions))
    used, task = np.unique(np.where(is_named, motion, -1), return_inverse=True)
    return [motions[m] if m >= 0 else other for m in used.tolist()], task


def _place(path: str, folder: str, number: int) -> str:
    """Path of a numbered file; its folder is made."""
    chunk, file = divmod(number, _CHUNK_FILES)
    found = os.path.join(path, folder, _PATH.format(chunk_index=chunk, file_index=file))
    os.makedirs(os.path.dirname(found), exist_ok=True)
    return found


def _write_tables(
    path: str, rows: TrajectoryRows, episodes: Ints, texts: list[str], task: Ints
) -> None:
    """Write the tables of episodes and of tasks, these as pandas writes a frame with an index."""
    import pyarrow as pa
    from pyarrow import parquet

    (order, files), nothing = episodes.T, np.zeros(len(episodes), np.int64)
    found = rows.trajectories.chosen(order)
    stops = np.cumsum(found.valid)
    table = {
        "episode_index": np.arange(len(order)),
        "tasks": [[texts[number]] for number in task[order]],
        "length": found.valid,
        "data/chunk_index": files // _CHUNK_FILES,
        "data/file_index": files % _CHUNK_FILES,
        "dataset_from_index": stops - found.valid,
        "dataset_to_index": stops,
        "meta/episodes/chunk_index": nothing,
        "meta/episodes/file_index": nothing,
        "trajectory_id": found.id,
        "end": [ENDS[end] for end in found.end],
    }
    parquet.write_table(pa.table(table), _place(path, "meta/episodes", 0))
    columns = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": dtype}
        for name, kind, dtype in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ]
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": columns}
    tasks = pa.table({"task_index": np.arange(len(texts)), "task": texts})
    tasks = tasks.replace_schema_metadata({"pandas": json.dumps(pandas)})
    parquet.write_table(tasks, os.path.join(path, "meta", "tasks.parquet"))


def is_image(field: Field) -> bool:
    """Whether a field's rows can be images."""
    shape = field.row_shape
    return field.dtype == "uint8" and len(shape) == 3 and shape[2] in (1, 3)


def _channels(field: Field) -> int:
    """Number of features to keep statistics of: of images their colours."""
    return field.row_shape[2] if is_image(field) else field.width


def _arrow_type(pa: Any, field: Field) -> Any:
    if is_image(field):
        return pa.struct({"bytes": pa.binary(), "path": pa.string()})
    return arrow_type(pa, field if field.width > 1 else replace(field, dim=None))


def _described(table: Table, field: Field) -> dict[str, Any]:
    """A feature as ``info.json`` has it."""
    if is_image(field):
        axes = ["height", "width", "channels"]
        return {"dtype": "image", "shape": list(field.row_shape), "names": axes}
    names = None if field in _INDICES else column_names(table, field.name)
    return {"dtype": field.dtype, "shape": [field.width], "names": names}


def _stored(moments: Moments, field: Field) -> dict[str, Any]:
    """Statistics as ``stats.json`` has them: of images ``(C, 1, 1)``, 1 being full brightness."""
    shape = (-1, 1, 1) if is_image(field) else (-1,)
    std = np.sqrt(moments.var)
    values = {"min": moments.low, "max": moments.high, "mean": moments.mean, "std": std}
    found = {name: value.reshape(shape).tolist() for name, value in values.items()}
    return {**found, "count": moments.count[:1].tolist()}


def _pngs(images: NDArray[np.uint8], pool: ThreadPoolExecutor) -> NDArray[Any]:
    """PNG files of images ``(M, H, W, C)``, as objects."""
    from PIL import Image

    def png(image: NDArray[np.uint8]) -> bytes:
        out = io.BytesIO()
        Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(
            out, "png", compress_level=1
        )
        return out.getvalue()

    found = np.empty(len(images), object)
    found[:] = list(pool.map(png, images))
    return found
