"""Options that choose a subset of pairs: the same for exports, loaders and filtered copies."""

from __future__ import annotations

import operator
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields as dataclass_fields
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import is_whole, pythons
from mosaic_collect.errors import InputError
from mosaic_collect.passes.engine import Engine
from mosaic_collect.reading.numbering import find_motions
from mosaic_collect.reading.selection import SIDES, Rules, Side, Split
from mosaic_collect.reading.store_set import ALIKE
from mosaic_collect.reading.table import Table
from mosaic_collect.reading.trajectories import failed_ids, interrupted_ids
from mosaic_collect.store.schema import Field
from mosaic_collect.text import shown

_EXCLUDING = (
    *("max_pairs", "exclude_interrupted", "exclude_failed", "skip_damaged", "split"),
    *("steps", "trajectories", "motions"),
)
_SPLIT = ("split", "validation_fraction", "split_seed")
_STEPS = re.compile(r"(\d*):(\d*)(?::(\d+))?")


@dataclass(frozen=True, kw_only=True)
class SubsetOptions:
    """Options that choose pairs and fields of stores; ``BatchLoader`` describes them.

    Raises:
        InputError: Names all bad values.
    """

    fields: Sequence[str] | None = None
    steps: str | slice | range | None = None
    trajectories: Iterable[int] | None = None
    motions: Sequence[str | int] | None = None
    split: Side | None = None
    validation_fraction: float = 0.1
    split_seed: int = 0
    exclude_interrupted: bool = False
    exclude_failed: bool = False
    skip_damaged: bool = False
    allow_different: Sequence[str] = ()
    allow_incomplete: bool = False

    def __post_init__(self) -> None:
        for name in ("fields", "finite_fields", "motions", "allow_different"):
            if hasattr(self, name):
                self._set(name, _names(getattr(self, name)))
        self._set("steps", _plain_steps(self.steps))
        self._set("trajectories", _plain_ids(self.trajectories))
        problems = list(self.problems())
        if problems:
            raise InputError("; ".join(problems))
        for name in ("validation_fraction", "split_seed"):
            self._set(name, pythons(getattr(self, name)))

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values, in words."""
        for name in ("fields", "finite_fields"):
            names = getattr(self, name, None)
            if names is not None and not all(isinstance(n, str) for n in names):
                yield self.wrong(name, "names")
        for name in (f.name for f in dataclass_fields(self) if f.type == "bool"):
            if not isinstance(getattr(self, name), bool):
                yield self.wrong(name, "True or False")
        if not all(isinstance(n, str) and n in ALIKE for n in self.allow_different):
            yield self.wrong("allow_different", f"some of {', '.join(ALIKE)}")
        if self.steps is not None and not _is_forward(self.steps):
            yield self.wrong("steps", "a slice of steps, or a range, that goes forward")
        if self.trajectories is not None and not isinstance(self.trajectories, tuple):
            yield self.wrong("trajectories", "ids")
        if not all(isinstance(m, str) or is_whole(m, 0) for m in self.motions or ()):
            yield self.wrong("motions", "names or ids")
        if self.split is not None and self.split not in SIDES:
            yield self.wrong("split", " or ".join(SIDES))
        fraction: Any = self.validation_fraction
        if not isinstance(fraction, Real) or not 0 < float(fraction) < 1:
            yield self.wrong("validation_fraction", "a number between 0 and 1")
        if not is_whole(self.split_seed, 0):
            yield self.wrong("split_seed", "a whole number from 0")

    def wrong(self, name: str, expected: str) -> str:
        """Message on a bad value of one option."""
        return f"{name}: expected {expected}, got {shown(getattr(self, name))}"

    @property
    def excluding(self) -> list[str]:
        """Names of the options in use that leave out pairs."""
        values = {name: getattr(self, name, None) for name in _EXCLUDING}
        return [name for name, value in values.items() if value is not None and value is not False]

    def as_json(self) -> dict[str, Any]:
        """The options as a file holds them: an object of these entries is equal to this one."""
        values = dict(vars(self))
        if self.split is None:
            values = {name: value for name, value in values.items() if name not in _SPLIT}
        if isinstance(self.steps, (slice, range)):
            start, stop, step = self.steps.start, self.steps.stop, self.steps.step
            values["steps"] = f"{start}:{'' if stop is None else stop}:{step}"
        for name in ("steps", "trajectories", "motions"):
            if values[name] is None:
                del values[name]
        tuples = {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
        return {**values, **tuples}

    def rules(
        self,
        table: Table,
        fields: Sequence[Field],
        nonfinite: Mapping[str, int],
        engine: Engine | None = None,
        committed: Sequence[int] | None = None,
        asked_ids: NDArray[np.int64] | None = None,
    ) -> Rules:
        """The rules for the pairs of some fields.

        Args:
            table: The stores.
            fields: Fields to read.
            nonfinite: Fields among them whose NaN or infinity excludes a pair.
            engine: Finds the failed trajectories; None: this thread.
            committed: Steps of each store to include at most; None: all.
            asked_ids: Trajectories to include; None: those of the options.

        Raises:
            InputError: A trajectory or a motion does not exist, or a store does not record how
                its trajectories ended.
        """
        state, floats = table.state, [f.name for f in fields if f.is_float]
        excluded, motion_ids, steps = dict[str, NDArray[np.int64]](), None, None
        if self.exclude_interrupted:
            excluded["interrupted"] = interrupted_ids(table)
        if self.exclude_failed:
            excluded["failed"] = failed_ids(table, engine)
        if self.motions is not None:
            motion_ids = find_motions(state.schema, state.metadata, self.motions)
        if committed is not None or self.steps is not None:
            asked = slice(None) if self.steps is None else self.steps
            lengths = committed or [part.state.committed_steps for part in table.parts]
            steps = [asked_steps(asked, length) for length in lengths]
        if asked_ids is None and self.trajectories is not None:
            used = state.next_trajectory_id
            strange = [i for i in self.trajectories if not 0 <= i < used]
            if strange:
                raise InputError(f"trajectories: expected ids of 0..{used - 1}, got {strange[0]}")
            asked_ids = np.array([*self.trajectories], np.int64)
        split = self.split and Split(self.split, float(self.validation_fraction), self.split_seed)
        return Rules(
            table,
            fields=[f.name for f in fields],
            finite_fields=floats if self.skip_damaged else list(nonfinite),
            skip_damaged=self.skip_damaged,
            excluded_ids=excluded,
            steps=steps,
            asked_ids=asked_ids,
            motion_ids=motion_ids,
            split=split,
            max_pairs=getattr(self, "max_pairs", None),
            seed=getattr(self, "seed", 0),
        )

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


def asked_steps(steps: Any, committed: int) -> range:
    """The committed steps among those of a slice or a range."""
    found = range(committed)[steps] if isinstance(steps, slice) else steps
    return range(found.start, max(found.start, min(found.stop, committed)), found.step)


def _names(names: Any) -> Any:
    """Take a single name for a list of one, and read iterators once."""
    if names is None:
        return None
    single = isinstance(names, (str, bytes)) or not isinstance(names, Iterable)
    return (names,) if single else tuple(names)


def _plain_ids(trajectories: Any) -> Any:
    """Ids as a tuple, each once, in order; what is no sequence of ids as it is."""
    if isinstance(trajectories, str) or not isinstance(trajectories, Iterable):
        return trajectories
    is_array = hasattr(trajectories, "__array__")
    ids = np.asarray(trajectories if is_array else tuple(trajectories))
    whole = ids.size == 0 or (ids.dtype.kind in "iu" and ids.max() <= np.iinfo(np.int64).max)
    return tuple(np.unique(ids).tolist()) if ids.ndim == 1 and whole else ids


def _plain_steps(steps: Any) -> Any:
    """A slice of Python's whole numbers, its start and step filled in; others as they are."""
    if isinstance(steps, str) and (parts := _STEPS.fullmatch(steps)):
        steps = slice(*(int(part) if part else None for part in parts.groups()))
    if not isinstance(steps, slice) or not _is_forward(steps):
        return steps
    start, step = steps.start or 0, steps.step or 1
    stop = None if steps.stop is None else operator.index(steps.stop)
    return slice(operator.index(start), stop, operator.index(step))


def _is_forward(steps: Any) -> bool:
    if isinstance(steps, range):
        return steps.start >= 0 and steps.step > 0
    if not isinstance(steps, slice):
        return False
    ends = all(e is None or is_whole(e, -sys.maxsize) for e in (steps.start, steps.stop))
    return ends and (steps.step is None or is_whole(steps.step, 1))
