"""Frames of cameras that look over a tiled floor: edges, shades and motion, made from numbers.

Each environment's camera swings and drives over its floor, under a sky; a shaded ball crosses the
picture. All of it closes on itself after the pool's steps, as the other signals do.

    ┌────────────┐  sky: a gradient
    │     ◍ →    │  ball: shaded
    ├────────────┤  horizon
    │ ▞▞▚▚▞▞▚▚▞▞ │  floor: tiles in perspective, darker with the distance
    └────────────┘
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchlib.workload import Workload

#: (environments, shape of an image): about 3 MB a step, and one for tests.
CAMERAS = {"small": (256, (64, 64, 3)), "large": (16, (224, 224, 3)), "tiny": (3, (8, 8, 3))}
FPS = 30
_POOL_STEPS, _JOINTS, _ACTIONS = 128, 48, 12
_TINT = np.array([1.0, 0.92, 0.8], np.float32)


def camera_workload(num_envs: int, shape: tuple[int, ...], noise: float = 0.0) -> Workload:
    """Images beside flat rows; ``noise`` is the sensor's standard deviation, of 256 levels."""
    rng = np.random.default_rng(0)
    steps = _POOL_STEPS
    joints = rng.standard_normal((steps, num_envs, _JOINTS), np.float32)
    pool: dict[str, NDArray[Any]] = {
        "observations": joints,
        "actions": joints[..., :_ACTIONS].copy(),
        "camera": np.empty((steps, num_envs, *shape), np.uint8),
        "valid_mask": np.ones((steps, num_envs), np.bool_),
    }
    where = rng.uniform(0, 2 * np.pi, num_envs)
    speed = rng.choice((1, 3), num_envs)  # odd: no image comes twice
    for step, images in enumerate(pool["camera"]):
        angle = where + 2 * np.pi * speed * step / steps
        images[...] = _seen(angle.astype(np.float32), shape, noise, rng)
    return Workload(pool)


def _seen(
    angle: NDArray[np.float32], shape: tuple[int, ...], noise: float, rng: Any
) -> NDArray[np.uint8]:
    """One step's images, of cameras at these angles of their courses."""
    height, width, _ = shape
    y = (np.arange(height, dtype=np.float32) + 0.5)[:, None] / height
    x = (np.arange(width, dtype=np.float32) + 0.5)[None, :] / width - 0.5
    away = 0.5 / np.maximum(y - 0.45, 0.02)  # of the floor behind each row
    swing, drive = 4 * np.sin(angle)[:, None, None], 8 * angle[:, None, None] / np.pi
    odd = (np.floor(x * away * 4 + swing) + np.floor(away * 2 + drive)) % 2
    light = np.where(y < 0.45, 0.9 - 0.5 * y, (0.35 + 0.4 * odd) / (1 + 0.15 * away))
    bx, by = x - 0.4 * np.cos(angle)[:, None, None], y - 0.4
    inside = 1 - (bx**2 + by**2) / 0.03
    light = np.where(inside > 0, 0.3 + 0.6 * np.sqrt(np.maximum(inside, 0)), light)
    corners = 1 - 0.3 * (x**2 + (y - 0.5) ** 2)  # darker, as of a lens
    levels = 255 * (light * corners)[..., None] * _TINT
    if noise:
        levels += np.float32(noise) * rng.standard_normal(levels.shape, np.float32)
    return np.clip(levels, 0, 255).astype(np.uint8)
