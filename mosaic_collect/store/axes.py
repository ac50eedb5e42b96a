"""The shape of a row: one number, a width, or several axes."""

from __future__ import annotations

import operator
from math import prod
from typing import Any

from mosaic_collect.checks import is_whole

MAX_DIM = 1 << 24  # values of a row, along all its axes
MAX_AXES = 8  # of a row; NumPy before 2 has 32 in all


def plain_dim(dim: Any) -> Any:
    """Of Python's own numbers, as JSON takes no NumPy's; and one spelling of each shape."""
    if isinstance(dim, (list, tuple)):
        axes = tuple(operator.index(n) if is_whole(n, 1) else n for n in dim)
        single = len(axes) == 1 and is_whole(axes[0], 1)
        return axes[0] if single else axes or None
    return operator.index(dim) if is_whole(dim, 1) else dim


def dim_problems(dim: Any) -> list[str]:
    """What is wrong with a plain ``dim``, in words."""
    if not isinstance(dim, tuple):
        good = dim is None or is_whole(dim, 1, MAX_DIM)
        return [] if good else [f"dim must be None or 1..{MAX_DIM}, got {dim!r:.80}"]
    if len(dim) > MAX_AXES or not all(is_whole(n, 1, MAX_DIM) for n in dim):
        return [f"dim must be at most {MAX_AXES} whole numbers from 1, got {dim!r:.80}"]
    if prod(dim) > MAX_DIM:
        return [f"dim {dim} is {prod(dim)} values a row, at most {MAX_DIM} are possible"]
    return []
