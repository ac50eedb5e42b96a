"""What a motion file holds, looked at whole before any simulator is built.

    joint_pos, joint_vel              (T, J)      rad, rad/s
    body_pos_w                        (T, B, 3)   m, in the world
    body_quat_w                       (T, B, 4)   in the simulator's own order
    body_lin_vel_w, body_ang_vel_w    (T, B, 3)   m/s, rad/s, in the world
    fps                               () or (1,)  frames a second
    joint_names, body_names           (J,), (B,)  texts; most files have none

Simulators look at one axis of one array, and index the others by it.
"""

from __future__ import annotations

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.text import reason

#: What is there for every frame: key -> the axes behind frames; J joints, B bodies.
ARRAYS: Mapping[str, tuple[str | int, ...]] = {
    "joint_pos": ("J",),
    "joint_vel": ("J",),
    "body_pos_w": ("B", 3),
    "body_quat_w": ("B", 4),
    "body_lin_vel_w": ("B", 3),
    "body_ang_vel_w": ("B", 3),
}
FPS, NAMES = "fps", ("joint_names", "body_names")
#: A frame alone is over before its first row in one simulator and not in another.
LEAST_FRAMES = 2
_FLOATS = tuple(np.dtype(kind) for kind in ("float16", "float32", "float64"))
#: What broken archives and headers raise, in NumPy's and Python's readers.
_BROKEN = (
    *(OSError, EOFError, LookupError, ValueError, RuntimeError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, SyntaxError),
)


@dataclass(frozen=True, kw_only=True)
class Contents:
    """A motion file that can be played.

    Attributes:
        frames: T, at least 2.
        joints, bodies: J and B.
        fps: Frames a second; None: it does not say.
        joint_names, body_names: In the arrays' order; None: it does not say.
    """

    frames: int
    joints: int
    bodies: int
    fps: float | None = None
    joint_names: tuple[str, ...] | None = None
    body_names: tuple[str, ...] | None = None


def read_contents(path: str) -> tuple[Contents | None, list[str]]:
    """Look at a motion file, its numbers included; nothing in it is executed.

    Returns:
        What it holds; None if it cannot be played. And all that is wrong with it, each with its
        key, what was expected and what it has.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            file = _File(archive)
            problems = list(file.problems())
            return (None if problems else file.contents()), problems
    except _BROKEN as error:
        expected = f"expected an .npz with {', '.join(ARRAYS)} and {FPS}"
        return None, [f"{expected}: {reason(error, path)}" + _hint(path)]


def read_arrays(path: str) -> dict[str, NDArray[Any]]:
    """All arrays of a file that ``read_contents`` found nothing wrong with."""
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _hint(path: str) -> str:
    return "; csv_to_npz of the simulator makes one of a .csv" if path.endswith(".csv") else ""


class _File:
    """An archive, and what its headers say."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        names = {n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")}
        self._heads = {n: self._read(n, _head) for n in (*ARRAYS, FPS, *NAMES) if n in names}
        self._sizes: dict[str | int, int] = {3: 3, 4: 4}
        for key, axes in (("joint_pos", "J"), ("body_pos_w", "B")):
            shape = self._shape(key)
            if len(shape) == 1 + len(ARRAYS[key]):
                self._sizes.setdefault("T", shape[0])
                self._sizes[axes] = shape[1]

    def problems(self) -> Iterator[str]:
        for key in ARRAYS:
            yield from self._array_problems(key)
        yield from self._frames_problems()
        yield from self._fps_problems()
        for key, axis in zip(NAMES, ("J", "B"), strict=True):
            if self._is_text(key) and self._shape(key) != (self._sizes.get(axis),):
                yield f"{key}: expected ({self._sizes.get(axis)},), got {self._shape(key)}"

    def contents(self) -> Contents:
        joint_names, body_names = (self._names(key) for key in NAMES)
        return Contents(
            frames=self._sizes["T"],
            joints=self._sizes["J"],
            bodies=self._sizes["B"],
            fps=float(self._values(FPS).reshape(-1)[0]) if FPS in self._heads else None,
            joint_names=joint_names,
            body_names=body_names,
        )

    def _array_problems(self, key: str) -> Iterator[str]:
        if key not in self._heads:
            yield f"{key}: expected an array, got none"
            return
        shape, dtype = self._shape(key), self._heads[key][1]
        wanted = [self._sizes.get(axis, axis) for axis in ("T", *ARRAYS[key])]
        # What no array could say stands as a letter, and fits any number.
        fits = [isinstance(w, str) or w == n for w, n in zip(wanted, shape, strict=False)]
        if len(shape) != len(wanted) or not all(fits):
            yield f"{key}: expected ({', '.join(map(str, wanted))}), got {shape}"
        elif dtype not in _FLOATS:
            yield f"{key}: expected floats, got {dtype}"
        else:
            yield from _number_problems(key, self._values(key))

    def _frames_problems(self) -> Iterator[str]:
        frames = self._sizes.get("T", LEAST_FRAMES)
        if frames < LEAST_FRAMES:
            yield f"joint_pos: expected {LEAST_FRAMES} frames or more, got {frames}"

    def _fps_problems(self) -> Iterator[str]:
        if FPS not in self._heads:
            return
        shape, dtype = self._heads[FPS]
        if math.prod(shape) != 1 or dtype.kind not in "iuf":
            yield f"{FPS}: expected one number, got {dtype} {shape}"
            return
        value = float(self._values(FPS).reshape(-1)[0])
        if not 0 < value < math.inf:
            yield f"{FPS}: expected a number above 0, got {value:g}"

    def _is_text(self, key: str) -> bool:
        return key in self._heads and self._heads[key][1].kind in "US"

    def _names(self, key: str) -> tuple[str, ...] | None:
        """None for names that were pickled, too: nothing is executed to read them."""
        return tuple(self._values(key).astype(str).tolist()) if self._is_text(key) else None

    def _shape(self, key: str) -> tuple[int, ...]:
        return self._heads[key][0] if key in self._heads else ()

    def _values(self, key: str) -> NDArray[Any]:
        values: NDArray[Any] = self._read(key, _values)
        return values

    def _read(self, key: str, how: Callable[[Any, int], Any]) -> Any:
        name = f"{key}.npy"
        with self._archive.open(name) as file:
            try:
                return how(file, self._archive.getinfo(name).file_size)
            except _BROKEN as error:
                raise ValueError(f"{key}: {error}") from error


def _head(file: Any, nbytes: int) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """An array's shape and dtype.

    Raises:
        ValueError: Its bytes are more or fewer than those say; no memory is taken for them.
    """
    version = np.lib.format.read_magic(file)
    first = version == (1, 0)
    reader = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    shape, _, dtype = reader(file)
    wanted = file.tell() + math.prod(shape) * dtype.itemsize
    if dtype.kind != "O" and wanted != nbytes:
        raise ValueError(f"expected {wanted} bytes of {dtype} {shape}, got {nbytes}")
    return shape, dtype


def _values(file: Any, nbytes: int) -> NDArray[Any]:
    values = np.lib.format.read_array(file, allow_pickle=False)
    file.read()  # up to the end, where the checksum is compared
    return np.asarray(values)


def _number_problems(key: str, values: NDArray[Any]) -> Iterator[str]:
    with np.errstate(over="ignore"):  # simulators take float32
        finite = np.isfinite(values.astype(np.float32, copy=False))
    bad = ~finite.all(axis=tuple(range(1, values.ndim)))
    if bad.any():
        first, count = int(bad.argmax()), int(bad.sum())
        yield f"{key}: expected finite numbers, got others in {count} frames, {first} the first"
