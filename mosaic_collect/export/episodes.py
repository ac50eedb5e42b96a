"""Files of a LeRobot dataset: data, videos, and the table of episodes with their statistics.

    number 0    episodes 0, 1, 2    data/chunk-000/file-000.parquet    videos/KEY/chunk-000/...
    number 1    episodes 3, 4       data/chunk-000/file-001.parquet

An episode lies in one file, and in the videos of the same number. Statistics are as LeRobot defines
them, per episode and merged for all rows: of images per colour, 1 being full brightness.
"""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import thread_count
from mosaic_collect.export.parquet import ParquetFile, column
from mosaic_collect.export.rows import TrajectoryRows
from mosaic_collect.store.schema import Field
from mosaic_collect.store.workers import WorkerPool

Array = NDArray[Any]
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


@dataclass
class EpisodeFiles:
    """Files of rows that are added in order; ``opened`` closes them.

    Attributes:
        files: Number of each episode's file.
        episodes: Columns of the table of episodes, beside their statistics.
    """

    opened: ExitStack
    path: str
    rows: TrajectoryRows
    features: Mapping[str, Field]
    videos: Sequence[str]
    fps: float
    files: Array
    episodes: Mapping[str, Any]

    def __post_init__(self) -> None:
        import pyarrow as pa

        self._pa, self._number = pa, -1
        stored = {name: f for name, f in self.features.items() if name not in self.videos}
        self._schema = pa.schema([_column(pa, name, field) for name, field in stored.items()])
        self._images = [name for name, field in stored.items() if is_image(field)]
        self._send = dict[str, Callable[[Any], object]]()
        self._total: dict[str, Statistics] = {}
        self._parts: list[dict[str, Statistics]] = []  # of an episode that goes on
        types = [(name, values.type) for name, values in self.episodes.items()]
        for name, field in self.features.items():
            types += [(f"stats/{name}/{k}", t) for k, t in _statistics_types(pa, field).items()]
        self._columns = [name for name, _ in types]
        table = ParquetFile(place(self.path, "meta/episodes", 0), pa.schema(types))
        self._table = self.opened.enter_context(table)
        self._pool = self.opened.enter_context(WorkerPool(thread_count(), "mosaic-episodes"))
        self._opened = self.opened.enter_context(ExitStack())

    def add(self, first: int, columns: Mapping[str, Array]) -> None:
        """Add consecutive rows of all features, the first of them by its number."""
        stop = first + len(next(iter(columns.values())))
        owners = self.rows.owners(first, stop)
        starts = self.rows.starts[owners.start : owners.stop + 1]
        cuts = np.clip(starts - first, 0, stop - first).tolist()
        measured = [
            self._pool.submit(self._measure, columns, slice(*inside)) for inside in pairwise(cuts)
        ]
        numbers = self.files[owners.start : owners.stop]
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
        if not whole:
            return
        self._total = _merged([self._total, *whole] if self._total else whole)
        ended = slice(owners.start, owners.start + len(whole))
        table = {name: values[ended] for name, values in self.episodes.items()}
        for key in self._columns[len(table) :]:
            name, _, kind = key.removeprefix("stats/").rpartition("/")
            table[key] = np.stack([one[name][kind] for one in whole])
        self._table.add(table)

    def stats(self) -> dict[str, Any]:
        """Statistics of all features as ``stats.json`` has them: of images ``(C, 1, 1)``."""
        return {
            name: {
                key: value.reshape(-1, 1, 1).tolist()
                if is_image(self.features[name]) and key != "count"
                else value.tolist()
                for key, value in found.items()
            }
            for name, found in self._total.items()
        }

    def _measure(self, columns: Mapping[str, Array], inside: slice) -> dict[str, Statistics]:
        return {name: measure(columns[name][inside], f) for name, f in self.features.items()}

    def _write(self, number: int, columns: dict[str, Any]) -> None:
        """Write rows into the files of a number."""
        if number != self._number:
            self._opened.close()
            name = place(self.path, "data", number)
            self._file = self._opened.enter_context(ParquetFile(name, self._schema))
            for key in self.videos:
                name = place(self.path, f"videos/{key}", number, ".mp4")
                height, width, _ = self.features[key].row_shape
                opening = _open_video(name, (width, height), self.fps)
                self._send[key] = self._opened.enter_context(opening)
            self._number = number
        for key in self.videos:
            for image in columns.pop(key):
                self._send[key](image)
        for key in self._images:
            pngs = self._pool.map_ahead(_png, columns[key])
            kind = self._schema.field(key).type
            columns[key] = self._pa.array([{"bytes": png, "path": None} for png in pngs], kind)
        self._file.add(columns)


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
