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

    number 0    episodes 0, 1, 2    data/chunk-000/file-000.parquet    videos/KEY/chunk-000/...
    number 1    episodes 3, 4       data/chunk-000/file-001.parquet

An episode lies in one file, and in the videos of the same number. Statistics are as LeRobot defines
them, per episode and merged for all rows: of images per colour, 1 being full brightness.
"""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from mosaic_collect.checks import needed, thread_count
from mosaic_collect.errors import InputError
from mosaic_collect.export.parquet import add_rows, column, open_parquet, require_pyarrow
from mosaic_collect.export.plan import ExportFormat, ExportPlan, Options
from mosaic_collect.export.rows import Array, Batch, TrajectoryRows, key_of
from mosaic_collect.export.target import Target
from mosaic_collect.npyfile.layout import OURS
from mosaic_collect.passes.engine import Engine
from mosaic_collect.reading.numbering import motion_names
from mosaic_collect.reading.table import Table
from mosaic_collect.reading.terms import column_names, usable_robot
from mosaic_collect.reading.trajectories import ENDS, Ints
from mosaic_collect.store.schema import Field
from mosaic_collect.store.workers import WorkerPool
from mosaic_collect.text import shown

#: Statistics of a feature by name; all ``(C,)`` float64, but ``count``: ``(1,)`` int64.
Statistics = dict[str, Array]
#: LeRobot's own sizes: files per folder, and megabytes of values per file.
CHUNK_FILES, FILE_MB = 1000, 100
PLACE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
_QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
#: Every second frame can be decoded by itself, as LeRobot wants for random access.
_ENCODING = (
    *("-c:v", "libx264", "-preset", "veryfast", "-crf", "18"),
    *("-g", "2", "-bf", "0", "-pix_fmt", "yuv420p"),
)
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
class LeRobot(ExportFormat):
    """LeRobot's dataset, version 3.0.

    Attributes:
        fps: Steps per second; None: by the control period in the store's metadata.
        state: Field to name ``observation.state``; None: ``observations``, if it is exported, else
            ``student_observations``.
        video: Whether colour images become H.264 videos, which are small and change the values;
            else all images are PNG files in the table, which hold each value as it was recorded.
    """

    name = "lerobot"
    fps: float | None = None
    state: str | None = None
    video: bool = False

    def check(self, table: Table, fields: Sequence[Field], options: Options) -> None:
        require_pyarrow()
        videos = [f for f in fields if self.is_video(f)]
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
        self.rate(table)
        names = [f.name for f in fields]
        if self.state is not None and self.state not in names:
            raise InputError(f"state: expected one of {', '.join(names)}, got {shown(self.state)}")
        features = list(self.names(fields).values())
        twice = {name for name in features if features.count(name) > 1}
        if twice:
            raise InputError(f"fields: two of them would be the feature {', '.join(twice)}")

    def is_video(self, field: Field) -> bool:
        """Whether the field's rows become a video."""
        return self.video and is_image(field) and field.row_shape[2] == 3

    def rate(self, table: Table) -> float:
        """Steps per second."""
        period = usable_robot(table.state.metadata).control_dt
        fps = self.fps if self.fps is not None or not period else 1 / period
        if not isinstance(fps, (int, float)) or not 0 < fps < math.inf:
            raise InputError(
                f"fps: expected steps per second, got {shown(fps)}: the store's metadata hold no "
                "control period, so fps=50, for one, has to name the rate"
            )
        return round(fps) if math.isclose(fps, round(fps)) else fps

    def names(self, fields: Sequence[Field]) -> dict[str, str]:
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

    def write(self, target: Target, plan: ExportPlan, engine: Engine | None) -> Iterator[int]:
        with ExitStack() as opened:
            dataset = _Dataset(self, plan, target.temp_path, opened)
            for batch in plan.rows:
                dataset.add(batch)
                yield len(batch.steps) * plan.rows.row_nbytes
        dataset.describe()


def _tasks(rows: TrajectoryRows) -> tuple[list[str], Ints]:
    """Texts of tasks, and the number of each trajectory's: its motion, or the store's task."""
    metadata, motion = rows.table.state.metadata, rows.trajectories["motion"]
    motions, other = motion_names(metadata), str(metadata.get("task") or "")
    is_named = (motion >= 0) & (motion < len(motions))
    used, task = np.unique(np.where(is_named, motion, -1), return_inverse=True)
    return [motions[m] if m >= 0 else other for m in used.tolist()], task


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


def is_image(field: Field) -> bool:
    """Whether a field's rows can be images."""
    shape = field.row_shape
    return field.dtype == "uint8" and len(shape) == 3 and shape[2] in (1, 3)


def num_channels(field: Field) -> int:
    """Number of features to keep statistics of: of images their colours."""
    return field.row_shape[2] if is_image(field) else field.width


def place(path: str, folder: str, number: int, ending: str = ".parquet") -> str:
    """Path of a numbered file; its folder is made."""
    chunk, file = divmod(number, CHUNK_FILES)
    found = os.path.join(path, folder, PLACE.format(chunk_index=chunk, file_index=file) + ending)
    os.makedirs(os.path.dirname(found), exist_ok=True)
    return found


def measure(rows: Array, field: Field) -> Statistics:
    """Statistics of rows, all finite; a quantile is the least value with that many below or at."""
    values = rows.reshape(-1, num_channels(field))
    ordered, scale = np.sort(values, axis=0), 255.0 if is_image(field) else 1.0
    apart = values.astype(np.float64)
    mean = apart.mean(axis=0)
    apart -= mean
    variance = np.einsum("ij,ij->j", apart, apart) / len(values)
    found = {"min": ordered[0], "max": ordered[-1], "mean": mean, "std": np.sqrt(variance)}
    for name, share in _QUANTILES.items():
        found[name] = ordered[int(np.ceil(share * len(values))) - 1]
    scaled = {name: value.astype(np.float64) / scale for name, value in found.items()}
    return {**scaled, "count": np.array([len(rows)])}


def merge(parts: Sequence[Statistics]) -> Statistics:
    """Statistics of all rows of some parts; quantiles are weighted means, as in LeRobot."""
    every = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
    share = every["count"] / every["count"].sum()
    found = {name: (values * share).sum(axis=0) for name, values in every.items()}
    apart = every["mean"] - found["mean"]
    variance = ((every["std"] ** 2 + apart**2) * share).sum(axis=0)
    return {
        **found,
        "min": every["min"].min(axis=0),
        "max": every["max"].max(axis=0),
        "std": np.sqrt(variance),
        "count": every["count"].sum(axis=0),
    }


class _Dataset:
    """A dataset of rows that are added in order; ``opened`` closes its files."""

    def __init__(self, form: LeRobot, plan: ExportPlan, path: str, opened: ExitStack) -> None:
        import pyarrow as pa

        self._pa, self._plan, self._rows, self._path = pa, plan, plan.rows, path
        self._fps, self._names = form.rate(plan.table), form.names(plan.fields)
        self._features = {self._names[f.name]: f for f in plan.fields}
        self._features |= {f.name: f for f in _INDICES}
        self._videos = [name for name, field in self._features.items() if form.is_video(field)]
        self._texts, self._task = _tasks(plan.rows)
        before = plan.rows.starts[:-1] * plan.rows.row_nbytes
        # A file that is full ends with its episode: the number of each episode's file.
        _, self._files = np.unique(before // int(FILE_MB * 1_000_000), return_inverse=True)
        stored = {name: f for name, f in self._features.items() if name not in self._videos}
        self._schema = pa.schema([_column(pa, name, field) for name, field in stored.items()])
        self._images = [name for name, field in stored.items() if is_image(field)]
        self._send = dict[str, Callable[[Any], object]]()
        self._number, self._total = -1, dict[str, Statistics]()
        self._parts: list[dict[str, Statistics]] = []  # of an episode that goes on
        self._episodes = self._describe_episodes()
        types = {name: values.type for name, values in self._episodes.items()}
        for name, field in self._features.items():
            types |= {f"stats/{name}/{k}": t for k, t in _statistics_types(pa, field).items()}
        table = open_parquet(place(path, "meta/episodes", 0), pa.schema(types))
        self._table = opened.enter_context(table)
        self._pool = opened.enter_context(WorkerPool(thread_count(), "mosaic-episodes"))
        self._opened = opened.enter_context(ExitStack())

    def add(self, batch: Batch) -> None:
        """Add consecutive rows."""
        owner, frame = self._rows.places(batch)
        first, stop = batch.first, batch.first + len(frame)
        columns: dict[str, Any] = {self._names[n]: values for n, values in batch.fields.items()}
        columns |= {
            "timestamp": (frame / self._fps).astype(np.float32),
            "frame_index": frame,
            "episode_index": owner,
            "index": np.arange(first, stop),
            "task_index": self._task[owner],
        }
        owners = range(int(owner[0]), int(owner[-1]) + 1)
        starts = self._rows.starts[owners.start : owners.stop + 1]
        cuts = np.clip(starts - first, 0, stop - first).tolist()
        measured = [
            self._pool.submit(self._measure, columns, slice(*inside)) for inside in pairwise(cuts)
        ]
        numbers = self._files[owners.start : owners.stop]
        for number in np.unique(numbers).tolist():
            low, high = np.searchsorted(numbers, (number, number + 1))
            inside = slice(cuts[low], cuts[high])
            self._write(number, {name: values[inside] for name, values in columns.items()})
        whole = []
        for found, end in zip(measured, starts[1:], strict=True):
            self._parts.append(found.result())
            if end <= stop:
                whole.append(_merged(self._parts))
                self._parts = []
        if whole:
            self._end_episodes(owners.start, whole)

    def _end_episodes(self, first: int, whole: Sequence[dict[str, Statistics]]) -> None:
        """Add episodes to their table, each with its statistics."""
        self._total = _merged([self._total, *whole] if self._total else whole)
        ended = slice(first, first + len(whole))
        table = {name: values[ended] for name, values in self._episodes.items()}
        for name, found in self._total.items():
            for key in found:
                table[f"stats/{name}/{key}"] = np.stack([one[name][key] for one in whole])
        add_rows(self._table, table)

    def describe(self) -> None:
        """Write the folder ``meta``, once all rows are added and the files are closed."""
        table, videos = self._plan.table, self._videos
        info = {
            "codebase_version": "v3.0",
            "robot_type": usable_robot(table.state.metadata).name or None,
            "fps": self._fps,
            "total_episodes": len(self._files),
            "total_frames": self._plan.selection.num_pairs,
            "total_tasks": len(self._texts),
            "splits": {"train": f"0:{len(self._files)}"},
            "chunks_size": CHUNK_FILES,
            "data_files_size_in_mb": FILE_MB,
            "video_files_size_in_mb": FILE_MB,
            "data_path": f"data/{PLACE}.parquet",
            "video_path": f"videos/{{video_key}}/{PLACE}.mp4" if videos else None,
            "features": {
                name: _describe(table, field, self._fps if name in videos else None)
                for name, field in self._features.items()
            },
        }
        _write_tasks(self._path, self._texts)
        for key, content in (("info", info), ("stats", self._stats()), (OURS, self._plan.about)):
            with open(os.path.join(self._path, "meta", f"{key}.json"), "w") as meta:
                json.dump(content, meta, indent=4)

    def _stats(self) -> dict[str, Any]:
        """Statistics of all features as ``stats.json`` has them: of images ``(C, 1, 1)``."""
        return {
            name: {
                key: value.reshape(-1, 1, 1).tolist()
                if is_image(self._features[name]) and key != "count"
                else value.tolist()
                for key, value in found.items()
            }
            for name, found in self._total.items()
        }

    def _describe_episodes(self) -> dict[str, Any]:
        """Columns of the table of episodes, beside their statistics."""
        files, fps, videos = self._files, self._fps, self._videos
        starts, found = self._rows.starts, self._rows.trajectories
        nothing = np.zeros(len(files), np.int64)
        before = starts[:-1] - starts[np.searchsorted(files, files)]  # in the same file
        table: dict[str, Any] = {
            "episode_index": np.arange(len(files)),
            "tasks": [[self._texts[number]] for number in self._task],
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
        return {name: self._pa.array(values) for name, values in table.items()}

    def _measure(self, columns: Mapping[str, Array], inside: slice) -> dict[str, Statistics]:
        return {name: measure(columns[name][inside], f) for name, f in self._features.items()}

    def _write(self, number: int, columns: dict[str, Any]) -> None:
        """Write rows into the files of a number."""
        if number != self._number:
            self._opened.close()
            name = place(self._path, "data", number)
            self._file = self._opened.enter_context(open_parquet(name, self._schema))
            for key in self._videos:
                name = place(self._path, f"videos/{key}", number, ".mp4")
                height, width, _ = self._features[key].row_shape
                opening = _open_video(name, (width, height), self._fps)
                self._send[key] = self._opened.enter_context(opening)
            self._number = number
        for key in self._videos:
            for image in columns.pop(key):
                self._send[key](image)
        for key in self._images:
            pngs = self._pool.map_ahead(_png, columns[key])
            kind = self._schema.field(key).type
            columns[key] = self._pa.array([{"bytes": png, "path": None} for png in pngs], kind)
        add_rows(self._file, columns)


def _statistics_types(pa: Any, field: Field) -> dict[str, Any]:
    kind = pa.float64()
    for size in (1, 1) if is_image(field) else ():
        kind = pa.list_(kind, size)
    kind = pa.list_(kind, num_channels(field))
    names = ("min", "max", "mean", "std", *_QUANTILES)
    return {**dict.fromkeys(names, kind), "count": pa.list_(pa.int64(), 1)}


def _merged(parts: Sequence[dict[str, Statistics]]) -> dict[str, Statistics]:
    if len(parts) == 1:
        return parts[0]
    return {name: merge([part[name] for part in parts]) for name in parts[0]}


def _column(pa: Any, name: str, field: Field) -> Any:
    if is_image(field):
        return pa.field(name, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    return column(pa, name, field if field.width > 1 else Field(name=name, dtype=field.dtype))


def _png(image: Array) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    picture = Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)
    picture.save(out, "png", compress_level=1)
    return out.getvalue()


@contextmanager
def _open_video(path: str, size: tuple[int, int], fps: float) -> Iterator[Callable[[Any], object]]:
    """Yield what takes the bytes of frames; the file is whole when the block is left.

    Raises:
        OSError: The encoder failed, a full disk for one.
    """
    from imageio_ffmpeg import get_ffmpeg_exe

    shape = f"{size[0]}x{size[1]}"
    frames = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", shape, "-r", str(fps), "-i", "-")
    command = [get_ffmpeg_exe(), "-v", "error", *frames, *_ENCODING, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it stopped, and its exit status says so
            yield process.stdin.write
        _, words = process.communicate()
    if process.returncode:
        raise OSError(f"ffmpeg: {words.decode(errors='replace').strip() or process.returncode}")
