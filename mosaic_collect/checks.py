"""Arguments that many calls take, checked where they come in."""

from __future__ import annotations

import operator
import os
import sys
from typing import Any

import numpy as np

from mosaic_collect.errors import InputError

_MOST_THREADS = 4  # more gain little beside a simulation


def whole(value: Any, name: str, least: int, most: int | None = None) -> int:
    """A whole number as Python's own; NumPy's are taken, too, but True and False are none.

    Raises:
        InputError: It is no such number, below ``least`` or above ``most``.
    """
    if is_whole(value, least, most):
        return operator.index(value)
    bounds = f"from {least}" if most is None else f"of {least}..{most}"
    raise InputError(f"{name}: expected a whole number {bounds}, got {value!r}")


def is_whole(value: Any, least: int, most: int | None = None) -> bool:
    """Whether ``whole`` would take the value."""
    if isinstance(value, (bool, np.bool_)):
        return False
    try:
        number = operator.index(value)
    except TypeError:
        return False
    return least <= number and (most is None or number <= most)


def is_tensor(value: Any) -> bool:
    """Whether ``value`` is a torch tensor: only if its caller has imported torch can it be one."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def thread_count(threads: Any = None) -> int:
    """How many threads are to work; None: one a processor, at most 4.

    Raises:
        InputError: No whole number of at least 1.
    """
    return min(processors(), _MOST_THREADS) if threads is None else whole(threads, "threads", 1)


def processors() -> int:
    """Processors that this process may use: a container or a job may have few of many."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
