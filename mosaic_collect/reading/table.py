"""The trajectories of a store as a table."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import InputError
from mosaic_collect.reading.labelled import analysis_by
from mosaic_collect.reading.numbering import MOTION_ID
from mosaic_collect.reading.tracing import ENDS, Traced
from mosaic_collect.reading.trajectory import ReadField, Trajectory
from mosaic_collect.store.schema import Schema
from mosaic_collect.text import table

_SHOWN = 10


class Trajectories(Sequence[Trajectory]):
    """Trajectories by ascending ids; a sequence of ``Trajectory``, and columns of equal length.

    Args:
        traced: What was found.
        schema: Of the store.
        read: Reads its fields.
        metadata: Of the store, which may name motions.
    """

    def __init__(
        self, traced: Traced, schema: Schema, read: ReadField, metadata: Mapping[str, Any]
    ) -> None:
        self._traced, self._schema, self._read, self._told = traced, schema, read, metadata

    @cached_property
    def columns(self) -> dict[str, NDArray[Any]]:
        """Names to columns, in the order of the table; ``motion`` only where the store knows it."""
        t = self._traced
        columns: dict[str, NDArray[Any]] = {
            "id": t.id,
            "env": t.env,
            "first_step": t.first,
            "last_step": t.last,
            "num_steps": t.last - t.first + 1,
            "num_valid": t.valid,
            "end": np.asarray(ENDS)[t.end],
        }
        return {**columns, "motion": t.motion} if self._has_motions else columns

    @property
    def _has_motions(self) -> bool:
        return MOTION_ID in self._schema.stored_names

    def __len__(self) -> int:
        return len(self._traced.id)

    @overload
    def __getitem__(self, index: int) -> Trajectory: ...
    @overload
    def __getitem__(self, index: slice) -> Trajectories: ...
    def __getitem__(self, index: Any) -> Any:
        """One by its place in the table, or those of a slice."""
        if isinstance(index, slice):
            return self._of(index)
        row = {name: values[index].item() for name, values in self.columns.items()}
        del row["num_steps"]
        row.setdefault("motion", None)
        return Trajectory(**row, schema=self._schema, read_field=self._read)

    def __iter__(self) -> Iterator[Trajectory]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"<Trajectories: {len(self):,}>\n{self._text()}"

    def by_id(self, number: int) -> Trajectory:
        """The one of an id.

        Raises:
            InputError: There is none.
        """
        found = np.flatnonzero(self._traced.id == number)
        if not len(found):
            ids = self._traced.id
            have = f"ids {ids[0]}..{ids[-1]}" if len(ids) else "no trajectories"
            raise InputError(f"trajectory {number!r}: there is none; the store has {have}")
        return self[int(found[0])]

    def where(
        self,
        *,
        min_steps: int | None = None,
        max_steps: int | None = None,
        end: str | Collection[str] | None = None,
        motion: int | str | None = None,
        min_valid: int | None = None,
    ) -> Trajectories:
        """Those of some lengths, ends and motions.

        Args:
            min_steps: The least length.
            max_steps: The greatest length.
            end: One or several of ``ended``, ``failed``, ``unsaid``, ``truncated``, ``open``.
            motion: A motion's id, or the name of its file with or without ending.
            min_valid: Of its pairs with a true mask.

        Raises:
            InputError: No such end or motion.
        """
        t, length = self._traced, self._traced.last - self._traced.first + 1
        chosen = np.ones(len(self), np.bool_)
        if min_steps is not None:
            chosen &= length >= min_steps
        if max_steps is not None:
            chosen &= length <= max_steps
        if min_valid is not None:
            chosen &= t.valid >= min_valid
        if end is not None:
            chosen &= np.isin(t.end, _ends([end] if isinstance(end, str) else end))
        if motion is not None:
            chosen &= np.isin(t.motion, self._motions(motion))
        return self._of(chosen)

    def to_pandas(self) -> Any:
        """The table as a ``pandas.DataFrame``, its index the ids.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        with analysis_by("pandas"):
            import pandas as pd
        return pd.DataFrame(self.columns).set_index("id")

    def counts(self) -> dict[str, int]:
        """How many ended how, only those that there are, in the order of ``ENDS``."""
        numbers = np.bincount(self._traced.end, minlength=len(ENDS)).tolist()
        return {name: n for name, n in zip(ENDS, numbers, strict=True) if n}

    def _of(self, which: Any) -> Trajectories:
        return Trajectories(self._traced.chosen(which), self._schema, self._read, self._told)

    def _motions(self, motion: int | str) -> list[int]:
        if not self._has_motions:
            raise InputError(f"motion: the store has no field {MOTION_ID}")
        if not isinstance(motion, str):
            return [motion]
        names = motion_names(self._told)
        found = [i for i, n in enumerate(names) if motion in (n, os.path.splitext(n)[0])]
        if not found:
            have = ", ".join(names[:20]) or "no names of motions"
            raise InputError(f"motion {motion!r}: there is none; the store tells {have}")
        return found

    def _text(self) -> str:
        columns = self.columns
        rows = [[str(v[i]) for v in columns.values()] for i in range(min(len(self), _SHOWN))]
        more = len(self) - len(rows)
        return table(list(columns), rows, 0) + (f"\n  ... {more:,} more" if more else "")


def motion_names(metadata: Mapping[str, Any]) -> list[str]:
    """File names of the motions that a collection told of, by their ids."""
    told = metadata.get("motions")
    entries = told if isinstance(told, list) else []
    return [os.path.basename(str(e.get("path"))) if isinstance(e, dict) else "" for e in entries]


def _ends(names: Collection[str]) -> list[int]:
    unknown = [n for n in names if n not in ENDS]
    if unknown:
        raise InputError(f"end: expected some of {', '.join(ENDS)}, got {unknown[0]!r}")
    return [ENDS.index(n) for n in names]
