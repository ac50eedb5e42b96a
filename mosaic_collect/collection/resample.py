"""A motion at another number of frames a second.

    30 frames a second   0     1     2     3        a new frame lies between two of the file's:
    50 frames a second   0   1   2   3   4   5      positions and velocities linear, quaternions
                                                    on the shorter arc

Velocities are what the robot's are, a second and not a frame, so they are interpolated and not
scaled: it moves as fast as it did. The first frame is the file's; the last one is where the last
whole new frame falls, at most one of them before the file's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.collection.motion_contents import ARRAYS, FPS

#: What a ledger says of it.
HOW = "linear, quaternions spherical, velocities kept as rates"
_SPHERICAL = "body_quat_w"
_CLOSE = 0.9995  # cosine beyond which an arc is a line, to float32
_WHOLE = 1e-6  # of a frame: 2.5 s at 50 a second are 125 steps, whatever floats say


def resampled_frames(frames: int, fps: float, wanted: float) -> int:
    """How many there will be."""
    return math.floor((frames - 1) / fps * wanted + _WHOLE) + 1


def resampled(arrays: Mapping[str, NDArray[Any]], wanted: float) -> dict[str, NDArray[Any]]:
    """A motion's arrays at ``wanted`` frames a second.

    Args:
        arrays: Of a file that can be played, with ``fps``.
        wanted: Frames a second.

    Raises:
        ValueError: There is an array of as many rows as frames of which nobody knows what it is.
    """
    frames, fps = len(arrays["joint_pos"]), float(arrays[FPS].reshape(-1)[0])
    unknown = [
        name
        for name, a in arrays.items()
        if name not in ARRAYS and a.dtype.kind not in "US" and a.shape[:1] == (frames,)
    ]
    if unknown:
        raise ValueError(f"expected only {', '.join(ARRAYS)} by frame, got {', '.join(unknown)}")
    places = np.arange(resampled_frames(frames, fps, wanted)) * (fps / wanted)
    before = np.minimum(places.astype(np.int64), frames - 2)
    share = np.minimum(places - before, 1.0)
    made = {name: _between(name, arrays[name], before, share) for name in ARRAYS}
    return {**arrays, **made, FPS: np.array([wanted])}


def _between(
    name: str, values: NDArray[Any], before: NDArray[np.int64], share: NDArray[np.float64]
) -> NDArray[Any]:
    """Values ``share`` of the way from a frame to the next, of the file's dtype."""
    a, b = (values[i].astype(np.float64) for i in (before, before + 1))
    w = share.reshape(-1, *(1,) * (values.ndim - 1))
    made = _slerp(a, b, w) if name == _SPHERICAL else a + w * (b - a)
    return made.astype(values.dtype)


def _slerp(
    a: NDArray[np.float64], b: NDArray[np.float64], w: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Unit quaternions along the shorter arc, whichever component is the real one."""
    a, b = _unit(a), _unit(b)
    cosine = (a * b).sum(axis=-1, keepdims=True)
    b, cosine = np.where(cosine < 0, -b, b), np.abs(cosine)
    angle = np.arccos(np.minimum(cosine, 1.0))
    sine = np.where(cosine > _CLOSE, 1.0, np.sin(angle))
    first = np.where(cosine > _CLOSE, 1.0 - w, np.sin((1.0 - w) * angle) / sine)
    second = np.where(cosine > _CLOSE, w, np.sin(w * angle) / sine)
    return _unit(first * a + second * b)


def _unit(q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of length one; what has none stays as it is."""
    length = np.linalg.norm(q, axis=-1, keepdims=True)
    unit: NDArray[np.float64] = q / np.where(length > 0, length, 1.0)
    return unit
