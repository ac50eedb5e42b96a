"""Options of a loader, checked."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from mosaic_collect.checks import is_whole, thread_count, whole
from mosaic_collect.reading.subset import SubsetOptions

Mode = Literal["epochs", "stream"]
EPOCHS, STREAM = get_args(Mode)
#: Options that are whole numbers, and the least of each.
_WHOLE = {"batch_size": 1, "seed": 0, "world_size": 1, "rank": 0, "window": 2, "stride": 1}


@dataclass(frozen=True, kw_only=True)
class LoaderOptions(SubsetOptions):
    """Options of ``BatchLoader``, where they are described.

    Raises:
        InputError: Naming all that are at fault.
    """

    batch_size: int
    mode: Mode = "epochs"
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    shuffle_buffer_mb: float = 512
    drop_last: bool = False
    reuse: float = 4
    replace: bool = False
    threads: int | None = None
    pin_memory: bool = False
    finite_fields: Sequence[str] | None = None
    window: int | None = None
    stride: int = 1
    padding: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in _WHOLE.items():
            if (value := getattr(self, name)) is not None:
                self._set(name, whole(value, name, least))
        for name in ("shuffle_buffer_mb", "reuse"):
            self._set(name, float(getattr(self, name)))
        self._set("threads", thread_count(self.threads))

    @property
    def pool_nbytes(self) -> int:
        """Size of the shuffle buffer in bytes."""
        return int(self.shuffle_buffer_mb * 1e6)

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values, in words."""
        for name, least in _WHOLE.items():
            is_none = name == "window" and self.window is None
            if not is_none and not is_whole(getattr(self, name), least):
                or_none = ", or None" if name == "window" else ""
                yield self.wrong(name, f"a whole number from {least}{or_none}")
        if self.window is None and (self.stride, self.padding) != (1, False):
            yield "stride, padding: of windows, and no window is set"
        if is_whole(self.world_size, 1) and not is_whole(self.rank, 0, self.world_size - 1):
            yield self.wrong("rank", f"one of 0..{self.world_size - 1}")
        for name in ("shuffle_buffer_mb", "reuse"):
            if not _is_positive(getattr(self, name)):
                yield self.wrong(name, "a number above 0")
        if self.mode not in (EPOCHS, STREAM):
            yield self.wrong("mode", f"{EPOCHS} or {STREAM}")
        yield from super().problems()


def _is_positive(value: Any) -> bool:
    number = isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))
    return number and 0 < value < math.inf
