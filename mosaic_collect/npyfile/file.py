"""What was found in a ``.npy`` file that holds a dict, its arrays' values left where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class StoredArray:
    """Where an array's values lie in a file: ``nbytes`` from ``offset`` on, C order."""

    offset: int
    nbytes: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class NpyFile:
    """What a file holds.

    Attributes:
        path: The file.
        nbytes: Its size.
        arrays: Key -> array.
        plain: Other keys and their values, of plain Python types.
    """

    path: str
    nbytes: int
    arrays: dict[str, StoredArray]
    plain: dict[str, Any]
