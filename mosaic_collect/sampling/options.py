"""Options of a loader, checked."""

from __future__ import annotations

import math
import numbers
import operator
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from mosaic_collect.checks import is_whole, thread_count, whole
from mosaic_collect.errors import InputError
from mosaic_collect.reading.provenance import ALIKE
from mosaic_collect.reading.selection import Split
from mosaic_collect.text import shown

Mode = Literal["epochs", "stream"]
EPOCHS, STREAM = get_args(Mode)
_FLAGS = (
    *("drop_last", "replace", "pin_memory"),
    *("exclude_interrupted", "exclude_failed", "skip_damaged", "allow_incomplete"),
)


@dataclass(frozen=True, kw_only=True)
class LoaderOptions:
    """Options of ``BatchLoader``, where they are described.

    Raises:
        InputError: Naming all that are at fault.
    """

    batch_size: int
    fields: Any = None
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
    steps: Any = None
    trajectories: Any = None
    split: str | None = None
    validation_fraction: float = 0.1
    split_seed: int = 0
    exclude_interrupted: bool = False
    exclude_failed: bool = False
    skip_damaged: bool = False
    finite_fields: Any = None
    allow_different: Any = ()
    allow_incomplete: bool = False

    def __post_init__(self) -> None:
        for name in ("fields", "finite_fields", "allow_different"):
            self._set(name, _names(getattr(self, name)))
        self._set("trajectories", _ids(self.trajectories))
        problems = list(_problems(self))
        if problems:
            raise InputError("; ".join(problems))
        Split.of(self.split, self.validation_fraction, self.split_seed)
        for name in ("batch_size", "seed", "world_size", "rank", "split_seed"):
            self._set(name, whole(getattr(self, name), name, 0))
        for name in ("shuffle_buffer_mb", "reuse", "validation_fraction"):
            self._set(name, float(getattr(self, name)))
        if isinstance(self.steps, slice):
            self._set("steps", _plain(self.steps))
        self._set("threads", thread_count(self.threads))

    @property
    def side(self) -> Split | None:
        """Side of a split to keep."""
        return Split.of(self.split, self.validation_fraction, self.split_seed)

    @property
    def pool_nbytes(self) -> int:
        """Size of the shuffle buffer in bytes."""
        return int(self.shuffle_buffer_mb * 1e6)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


def _names(fields: Any) -> Any:
    return (fields,) if isinstance(fields, str) else _once(fields)


def _ids(trajectories: Any) -> Any:
    """As an array, in which order and how often they are given; no ids as they are."""
    ids = np.asarray(_once(trajectories))
    whole = ids.size == 0 or (ids.dtype.kind in "iu" and ids.max() <= np.iinfo(np.int64).max)
    return np.unique(ids).astype(np.int64) if ids.ndim == 1 and whole else trajectories


def _once(values: Any) -> Any:
    """Iterators as tuples, as they can be read only once."""
    plain = isinstance(values, Iterable) and not isinstance(values, str)
    return tuple(values) if plain and not hasattr(values, "__array__") else values


def _plain(steps: slice) -> slice:
    """A slice of Python's whole numbers, with its start and step filled in."""
    start, step = steps.start or 0, steps.step or 1
    stop = None if steps.stop is None else operator.index(steps.stop)
    return slice(operator.index(start), stop, operator.index(step))


def asked_steps(steps: range | slice, committed: int) -> range:
    """The committed steps among those that are asked for."""
    found = range(committed)[steps] if isinstance(steps, slice) else steps
    return range(found.start, max(found.start, min(found.stop, committed)), found.step)


def _problems(options: LoaderOptions) -> Iterator[str]:
    for name, least in (("batch_size", 1), ("seed", 0), ("world_size", 1), ("rank", 0)):
        if not is_whole(getattr(options, name), least):
            yield _wrong(options, name, f"a whole number from {least}")
    if is_whole(options.world_size, 1) and not is_whole(options.rank, 0, options.world_size - 1):
        yield _wrong(options, "rank", f"one of 0..{options.world_size - 1}")
    for name in ("shuffle_buffer_mb", "reuse"):
        if not _is_positive(getattr(options, name)):
            yield _wrong(options, name, "a number above 0")
    if options.mode not in (EPOCHS, STREAM):
        yield _wrong(options, "mode", f"{EPOCHS} or {STREAM}")
    for name in _FLAGS:
        if not isinstance(getattr(options, name), bool):
            yield _wrong(options, name, "True or False")
    yield from _filter_problems(options)


def _filter_problems(options: LoaderOptions) -> Iterator[str]:
    for name in ("fields", "finite_fields"):
        names = getattr(options, name)
        several = isinstance(names, tuple) and all(isinstance(n, str) for n in names)
        if names is not None and not several:
            yield _wrong(options, name, "names")
    different = options.allow_different
    if not isinstance(different, tuple) or not all(n in ALIKE for n in different):
        yield _wrong(options, "allow_different", f"some of {', '.join(ALIKE)}")
    if options.steps is not None and not _is_forward(options.steps):
        yield _wrong(options, "steps", "a slice of steps, or a range, that goes forward")
    if options.trajectories is not None and not isinstance(options.trajectories, np.ndarray):
        yield _wrong(options, "trajectories", "ids")


def _is_forward(steps: Any) -> bool:
    if isinstance(steps, range):
        return steps.start >= 0 and steps.step > 0
    if not isinstance(steps, slice):
        return False
    ends = all(e is None or is_whole(e, -sys.maxsize) for e in (steps.start, steps.stop))
    return ends and (steps.step is None or is_whole(steps.step, 1))


def _is_positive(value: Any) -> bool:
    number = isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))
    return number and 0 < value < math.inf


def _wrong(options: LoaderOptions, name: str, expected: str) -> str:
    return f"{name}: expected {expected}, got {shown(getattr(options, name))}"
