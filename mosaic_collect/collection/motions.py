"""Reference motions: files that are checked whole before a simulator starts.

    joint_pos, joint_vel              (T, J)      rad, rad/s
    body_pos_w                        (T, B, 3)   m, in the world
    body_quat_w                       (T, B, 4)   unit length, in the simulator's own order
    body_lin_vel_w, body_ang_vel_w    (T, B, 3)   m/s, rad/s, in the world
    fps                               () or (1,)  frames per second
    joint_names, body_names           (J,), (B,)  text; most files have none

Simulators look at one axis of one array, and index the others by it. A motion is identified by the
content of its file, so a list that was shuffled, extended or moved still means the same.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import LFS_NBYTES, lfs_pointer, local_path
from mosaic_collect.errors import InputError, StoreMismatchError
from mosaic_collect.text import reason

#: Arrays with a row per frame, and their further axes: J joints, B bodies.
ARRAYS: Mapping[str, tuple[str | int, ...]] = {
    "joint_pos": ("J",),
    "joint_vel": ("J",),
    "body_pos_w": ("B", 3),
    "body_quat_w": ("B", 4),
    "body_lin_vel_w": ("B", 3),
    "body_ang_vel_w": ("B", 3),
}
FPS, NAMES = "fps", ("joint_names", "body_names")
QUATERNIONS = "body_quat_w"
#: A motion of one frame is over before its first row in one simulator and not in another.
LEAST_FRAMES = 2
_FLOATS = tuple(np.dtype(kind) for kind in ("float16", "float32", "float64"))
_UNIT = 0.01  # of a quaternion's length; float16 and interpolation make some difference
#: Attributes of a motion that a store's metadata contain.
_ENTRY = ("path", "sha256", "frames", "fps", "played_fps", "resampled")
_Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Motion:
    """A reference motion; two are equal if path, content and length are.

    Attributes:
        path: Its ``.npz`` file.
        sha256: SHA-256 of the file's bytes, as hex.
        frames: Its length T, as it is played; at least 2.
        fps: Frames per second of the file; None: the file does not contain it.
        played_fps: Frames per second of the task; None: not known yet.
        resampled: The way in which its frames were made of the file's; None: they are the file's.
        joints: Number of joints J in the file; None: a motion of an earlier run.
        bodies: Number of bodies B in the file; None: a motion of an earlier run.
        joint_names: Joints in the order of the arrays; None: the file does not contain them.
        body_names: Bodies in the order of the arrays; None: the file does not contain them.
        copy: A file that a simulator reads in its place; None: its own.
    """

    path: str
    sha256: str
    frames: int
    fps: float | None = field(default=None, compare=False)
    played_fps: float | None = field(default=None, compare=False)
    resampled: str | None = field(default=None, compare=False)
    joints: int | None = field(default=None, compare=False, repr=False)
    bodies: int | None = field(default=None, compare=False, repr=False)
    joint_names: tuple[str, ...] | None = field(default=None, compare=False, repr=False)
    body_names: tuple[str, ...] | None = field(default=None, compare=False, repr=False)
    copy: str | None = field(default=None, compare=False, repr=False)

    @property
    def file(self) -> str:
        """The file that a simulator reads."""
        return self.copy or self.path

    @property
    def rate(self) -> float | None:
        """Frames per second of ``file``; None: unknown."""
        return self.played_fps if self.resampled else self.fps

    def entry(self) -> dict[str, Any]:
        """The motion as a store's metadata contain it."""
        return {name: getattr(self, name) for name in _ENTRY}


def recorded_motions(metadata: Mapping[str, Any]) -> list[Motion]:
    """Read the motions of a store's metadata, in the order of their ids."""
    entries = metadata.get("motions", [])
    if not isinstance(entries, Sequence) or not all(map(_is_entry, entries)):
        raise StoreMismatchError(
            f"motions: expected a list of entries with {', '.join(_ENTRY[:3])} as collect writes "
            f"it, got {entries!r:.80}"
        )
    return [Motion(**entry) for entry in entries]


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, Mapping)
        and set(_ENTRY[:3]) <= set(entry) <= set(_ENTRY)
        and isinstance(entry["path"], str)
        and isinstance(entry["sha256"], str)
        and type(entry["frames"]) is int
    )


def find_motions(path: str | os.PathLike[str]) -> list[Motion]:
    """``read_motions`` of ``motion_files``."""
    return read_motions(motion_files(path))


def motion_files(path: str | os.PathLike[str]) -> list[str]:
    """A motion file, or all ``.npz`` files of a folder and the folders in it, sorted by path.

    Hidden files and folders within are left out: copies of other systems (``._walk.npz``) and
    checkpoints of notebooks.
    """
    path = local_path(path, "motion")
    found = [path]
    if os.path.isdir(path):
        files = (file for file in Path(path).rglob("*.npz") if not file.is_dir())
        found = sorted(str(file) for file in files if not _is_hidden(file, path))
    if not found or not os.path.exists(found[0]):
        raise InputError(f"motion: expected .npz files at {path}, found none")
    return found


def has_hidden(folder: str) -> bool:
    """Whether a simulator would read files in a folder that are no motions."""
    return any(_is_hidden(path, folder) for path in Path(folder).rglob("*.npz"))


def _is_hidden(path: Path, folder: str) -> bool:
    """Whether a file in a folder, or a folder between the two, is hidden."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def read_motions(paths: Iterable[str]) -> list[Motion]:
    """Read and check motion files, sorted by path; of files with equal content the first."""
    motions: dict[str, Motion] = {}
    problems: dict[str, list[str]] = {}
    found = sorted(set(paths))
    for path in found:
        motion, wrong = read_motion(path)
        if motion is None:
            problems[path] = wrong
        else:
            motions.setdefault(motion.sha256, motion)
    refuse_files(problems, len(found), "cannot be played")
    return list(motions.values())


def refuse_files(problems: Mapping[str, Sequence[str]], count: int, words: str) -> None:
    """Raise one ``InputError`` for all problems of ``count`` files, by path."""
    if problems:
        told = [f"{path}: {'; '.join(wrong)}" for path, wrong in problems.items()]
        head = f"motion: {len(problems)} of {count} files {words}"
        raise InputError("\n  ".join([head, *told]) if count > 1 else told[0])


def file_sha256(path: str) -> str:
    """Hex digest of a file's content; ``InputError`` if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while data := file.read(1 << 20):
                digest.update(data)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason(error, path)}") from error
    return digest.hexdigest()


def read_arrays(path: str) -> dict[str, NDArray[Any]]:
    """All arrays of a motion file but pickled ones, which nothing here executes."""
    return {name: array for name, array in _load(path).items() if array.dtype != object}


def read_motion(path: str) -> tuple[Motion | None, list[str]]:
    """Check a motion file, its numbers included; nothing in it is executed.

    Returns:
        The motion, None if it cannot be played; and all problems, each with its key, what was
        expected and what the file has.
    """
    try:
        arrays = _load(path, (*ARRAYS, FPS, *NAMES))
    except Exception as error:  # noqa: BLE001  readers raise many for a broken file
        expected = f"expected an .npz with {', '.join(ARRAYS)} and {FPS}"
        hint = "; csv_to_npz of the simulator makes one of a .csv" if path.endswith(".csv") else ""
        return None, [f"{expected}: {reason(error, path)}{hint}"]
    sizes = _sizes(arrays)
    if problems := list(_problems(arrays, sizes)):
        return None, problems
    joint_names, body_names = (_texts(arrays.get(key)) for key in NAMES)
    motion = Motion(
        path,
        file_sha256(path),
        frames=int(sizes["T"]),
        fps=float(arrays[FPS].reshape(-1)[0]) if FPS in arrays else None,
        joints=int(sizes["J"]),
        bodies=int(sizes["B"]),
        joint_names=joint_names,
        body_names=body_names,
    )
    return motion, []


def _load(path: str, names: Iterable[str] | None = None) -> dict[str, NDArray[Any]]:
    """Arrays of an ``.npz``; a pickled one as an empty array of objects."""
    with open(path, "rb") as stream:
        if words := lfs_pointer(stream.read(LFS_NBYTES)):
            raise ValueError(f"it is {words}")
        stream.seek(0)
        file = np.load(stream, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it is one array")
        wanted = file.files if names is None else [name for name in names if name in file.files]
        return {name: _loaded(file, name) for name in wanted}


def _loaded(file: np.lib.npyio.NpzFile, name: str) -> NDArray[Any]:
    try:
        return np.asarray(file[name])
    except ValueError as error:
        if "allow_pickle" in str(error):
            return np.empty(0, object)
        raise ValueError(f"{name}: {error}") from error


def _sizes(arrays: _Arrays) -> dict[str | int, int | str]:
    """Lengths of the axes; an axis that no array tells is its own letter, which fits any length."""
    sizes: dict[str | int, int | str] = {"T": "T", "J": "J", "B": "B", 3: 3, 4: 4}
    for key, axis in (("body_pos_w", "B"), ("joint_pos", "J")):
        shape = arrays[key].shape if key in arrays else ()
        if len(shape) == 1 + len(ARRAYS[key]):
            sizes["T"], sizes[axis] = shape[:2]
    return sizes


def _problems(arrays: _Arrays, sizes: Mapping[str | int, int | str]) -> Iterator[str]:
    for key, axes in ARRAYS.items():
        yield from _array_problems(key, arrays.get(key), [sizes[axis] for axis in ("T", *axes)])
    frames = sizes["T"]
    if isinstance(frames, int) and frames < LEAST_FRAMES:
        yield f"joint_pos: expected {LEAST_FRAMES} frames or more, got {frames}"
    fps = arrays.get(FPS, np.ones(1))
    if fps.size != 1 or fps.dtype.kind not in "iuf":
        yield f"{FPS}: expected one number, got {fps.dtype} {fps.shape}"
    elif not 0 < float(fps.reshape(-1)[0]) < math.inf:
        yield f"{FPS}: expected a number above 0, got {float(fps.reshape(-1)[0]):g}"
    for key, axis in zip(NAMES, ("J", "B"), strict=True):
        if _texts(arrays.get(key)) is not None and arrays[key].shape != (sizes[axis],):
            yield f"{key}: expected ({sizes[axis]},), got {arrays[key].shape}"


def _array_problems(
    key: str, values: NDArray[Any] | None, wanted: Sequence[int | str]
) -> Iterator[str]:
    if values is None:
        yield f"{key}: expected an array, got none"
        return
    shape = values.shape
    fits = [isinstance(w, str) or w == n for w, n in zip(wanted, shape, strict=False)]
    if values.dtype == object:
        yield f"{key}: expected floats, got object"
    elif len(shape) != len(wanted) or not all(fits):
        yield f"{key}: expected ({', '.join(map(str, wanted))}), got {shape}"
    elif values.dtype not in _FLOATS:
        yield f"{key}: expected floats, got {values.dtype}"
    else:
        yield from _number_problems(key, values)


def _number_problems(key: str, values: NDArray[Any]) -> Iterator[str]:
    with np.errstate(over="ignore"):  # simulators take float32
        numbers = values.astype(np.float32, copy=False)
    bad = ~np.isfinite(numbers).all(axis=tuple(range(1, values.ndim)))
    if bad.any():
        first, count = int(bad.argmax()), int(bad.sum())
        yield f"{key}: expected finite numbers, got others in {count} frames, {first} the first"
    elif key == QUATERNIONS:
        lengths = np.linalg.norm(numbers.astype(np.float64), axis=-1)
        wrong = np.abs(lengths - 1.0) > _UNIT
        if wrong.any():
            frame, body = map(int, np.unravel_index(wrong.argmax(), wrong.shape))
            yield (
                f"{key}: expected quaternions of length 1, got others in "
                f"{int(wrong.any(axis=1).sum())} frames, {lengths[frame, body]:.3g} of body {body} "
                f"in frame {frame} the first"
            )


def _texts(names: NDArray[Any] | None) -> tuple[str, ...] | None:
    """Names as text; None where there are none, or pickled ones."""
    if names is None or names.dtype.kind not in "US":
        return None
    return tuple(names.astype(str).reshape(-1).tolist())
