"""LeRobot exports (dataset version 3.0): a folder, one episode per trajectory.

    data/chunk-000/file-000.parquet             one row per pair; an episode lies in one file
    videos/KEY/chunk-000/file-000.mp4           frames of the same rows, on demand
    meta/info.json, stats.json, tasks.parquet   features, statistics of all rows, texts of tasks
    meta/episodes/chunk-000/file-000.parquet    lengths, places and statistics of the episodes
    meta/mosaic_collect.json                    where the dataset comes from, as in a .npy export

    observation.state     the field ``observations``, or another one by the option ``state``
    action                the field ``actions``
    observation.<name>    other observations and states; uint8 rows (H, W, 1 or 3) are images
    info.<name>           other fields of actions, ids and ends: LeRobot's policies do not read them

Rows of several axes that are no images become one axis, in C order.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from mosaic_collect.checks import needed
from mosaic_collect.errors import InputError
from mosaic_collect.export.episodes import CHUNK_FILES, FILE_MB, PLACE, EpisodeFiles, is_image
from mosaic_collect.export.options import Options
from mosaic_collect.export.parquet import require_pyarrow
from mosaic_collect.export.rows import Ints, RowFormat, TrajectoryRows, key_of
from mosaic_collect.npyfile.layout import OURS
from mosaic_collect.reading.numbering import motion_names
from mosaic_collect.reading.table import Table
from mosaic_collect.reading.terms import column_names, usable_robot
from mosaic_collect.reading.trajectories import ENDS
from mosaic_collect.store.schema import Field
from mosaic_collect.text import shown

_STATE, _ACTION = "observation.state", "action"
#: Features that LeRobot requires of each frame.
_INDICES = (
    Field(name="timestamp"),
    Field(name="frame_index", dtype="int64"),
    Field(name="episode_index", dtype="int64"),
    Field(name="index", dtype="int64"),
    Field(name="task_index", dtype="int64"),
)


@dataclass(frozen=True)
class LeRobot(RowFormat):
    """LeRobot's dataset, version 3.0.

    Attributes:
        fps: Steps per second; None: by the control period in the store's metadata.
        state: Field to name ``observation.state``; None: ``observations``, if it is exported, else
            ``student_observations``.
        video: Whether colour images become H.264 videos, which are small and change the values;
            else all images are PNG files in the table, which hold each value as it was recorded.
    """

    fps: float | None = None
    state: str | None = None
    video: bool = False

    def check(self, table: Table, fields: Sequence[Field]) -> None:
        require_pyarrow()
        videos = [f for f in fields if self._is_video(f)]
        if any(is_image(f) and f not in videos for f in fields):
            with needed("LeRobot's images need Pillow: pip install 'mosaic-collect[lerobot]'"):
                import PIL  # noqa: F401
        if videos:
            with needed(
                "LeRobot's videos need imageio-ffmpeg: pip install 'mosaic-collect[lerobot]'"
            ):
                import imageio_ffmpeg  # noqa: F401
        for field in videos:
            if any(size % 2 for size in field.row_shape[:2]):
                size = "{} x {}".format(*field.row_shape[:2])
                raise InputError(f"{field.name}: a video needs even height and width, got {size}")
        self._rate(table)
        names = [f.name for f in fields]
        if self.state is not None and self.state not in names:
            raise InputError(f"state: expected one of {', '.join(names)}, got {shown(self.state)}")
        features = list(self._names(fields).values())
        twice = {name for name in features if features.count(name) > 1}
        if twice:
            raise InputError(f"fields: two of them would be the feature {', '.join(twice)}")

    def _is_video(self, field: Field) -> bool:
        return self.video and is_image(field) and field.row_shape[2] == 3

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
        fps, names = self._rate(rows.table), self._names(rows.fields)
        features = {**{names[f.name]: f for f in rows.fields}, **{f.name: f for f in _INDICES}}
        videos = [name for name, field in features.items() if self._is_video(field)]
        texts, task = _tasks(rows)
        before = rows.starts[:-1] * rows.row_nbytes  # a file that is full ends with its episode
        _, files = np.unique(before // int(FILE_MB * 1_000_000), return_inverse=True)
        episodes = _describe_episodes(rows, [texts[number] for number in task], files, videos, fps)
        with ExitStack() as opened:
            written = EpisodeFiles(opened, path, rows, features, videos, fps, files, episodes)
            for batch in rows:
                owner, frame = rows.places(batch)
                columns = {names[name]: values for name, values in batch.fields.items()}
                columns |= {
                    "timestamp": (frame / fps).astype(np.float32),
                    "frame_index": frame,
                    "episode_index": owner,
                    "index": np.arange(batch.first, batch.first + len(frame)),
                    "task_index": task[owner],
                }
                written.add(batch.first, columns)
                yield len(frame) * rows.row_nbytes
        info = {
            "codebase_version": "v3.0",
            "robot_type": usable_robot(rows.table.state.metadata).name or None,
            "fps": fps,
            "total_episodes": len(files),
            "total_frames": rows.selection.num_pairs,
            "total_tasks": len(texts),
            "splits": {"train": f"0:{len(files)}"},
            "chunks_size": CHUNK_FILES,
            "data_files_size_in_mb": FILE_MB,
            "video_files_size_in_mb": FILE_MB,
            "data_path": f"data/{PLACE}.parquet",
            "video_path": f"videos/{{video_key}}/{PLACE}.mp4" if videos else None,
            "features": {
                name: _describe(rows.table, field, fps if name in videos else None)
                for name, field in features.items()
            },
        }
        _write_tasks(path, texts)
        for key, content in (("info", info), ("stats", written.stats()), (OURS, about)):
            with open(os.path.join(path, "meta", f"{key}.json"), "w") as meta:
                json.dump(content, meta, indent=4)


def _tasks(rows: TrajectoryRows) -> tuple[list[str], Ints]:
    """Texts of tasks, and the number of each trajectory's: its motion, or the store's task."""
    metadata, motion = rows.table.state.metadata, rows.trajectories["motion"]
    motions, other = motion_names(metadata), str(metadata.get("task") or "")
    is_named = (motion >= 0) & (motion < len(motions))
    used, task = np.unique(np.where(is_named, motion, -1), return_inverse=True)
    return [motions[m] if m >= 0 else other for m in used.tolist()], task


def _describe_episodes(
    rows: TrajectoryRows, tasks: list[str], files: Ints, videos: Sequence[str], fps: float
) -> dict[str, Any]:
    """Columns of the table of episodes."""
    import pyarrow as pa

    starts, found, nothing = rows.starts, rows.trajectories, np.zeros(len(files), np.int64)
    before = starts[:-1] - starts[np.searchsorted(files, files)]  # in the same file
    table: dict[str, Any] = {
        "episode_index": np.arange(len(files)),
        "tasks": [[task] for task in tasks],
        "length": found["valid"],
        "dataset_from_index": starts[:-1],
        "dataset_to_index": starts[1:],
        "meta/episodes/chunk_index": nothing,
        "meta/episodes/file_index": nothing,
        "trajectory_id": found["id"],
        "end": [ENDS[end] for end in found["end"]],
    }
    for folder in ("data", *(f"videos/{key}" for key in videos)):
        table[f"{folder}/chunk_index"] = files // CHUNK_FILES
        table[f"{folder}/file_index"] = files % CHUNK_FILES
    for key in videos:
        table[f"videos/{key}/from_timestamp"] = before / fps
        table[f"videos/{key}/to_timestamp"] = (before + found["valid"]) / fps
    return {name: pa.array(values) for name, values in table.items()}


def _write_tasks(path: str, texts: list[str]) -> None:
    """Write the table of tasks, as pandas writes a frame with an index."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": dtype}
        for name, kind, dtype in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ]
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": columns}
    tasks = pa.table({"task_index": np.arange(len(texts)), "task": texts})
    tasks = tasks.replace_schema_metadata({"pandas": json.dumps(pandas)})
    parquet.write_table(tasks, os.path.join(path, "meta", "tasks.parquet"))


def _describe(table: Table, field: Field, video_fps: float | None) -> dict[str, Any]:
    """A feature as ``info.json`` has it."""
    if not is_image(field):
        names = None if field in _INDICES else column_names(table, field.name)
        return {"dtype": field.dtype, "shape": [field.width], "names": names}
    axes = ["height", "width", "channels"]
    height, width, channels = field.row_shape
    image = {"dtype": "image", "shape": [height, width, channels], "names": axes}
    if video_fps is None:
        return image
    video = {"height": height, "width": width, "codec": "h264", "pix_fmt": "yuv420p"}
    video |= {"is_depth_map": False, "fps": video_fps, "channels": channels}
    told = {**{f"video.{key}": value for key, value in video.items()}, "has_audio": False}
    return {**image, "dtype": "video", "info": told}
