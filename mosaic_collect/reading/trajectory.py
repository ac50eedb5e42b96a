"""One trajectory, whose fields are read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from mosaic_collect.reading.lazy import LazyArray, Rows
from mosaic_collect.store.schema import Schema

#: Reads a field's steps and environments, both ascending, as ``(len(steps), len(envs)[, dim])``.
ReadField = Callable[[str, range, range], NDArray[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Trajectory(Mapping[str, "Rows"]):
    """A mapping from the names of a store's fields to lazy arrays ``(num_steps[, dim])``.

    Attributes:
        id: Its id.
        env: Its environment.
        first_step: Its first step.
        last_step: Its last one.
        num_valid: Its pairs with a true mask.
        end: How it ended: ``ended`` as it should, ``failed``, ``unsaid`` (it ended, the store does
            not say how), ``truncated`` (its run stopped before), ``open`` (it is going on).
        motion: Its motion's id; None if the store knows none.
    """

    id: int
    env: int
    first_step: int
    last_step: int
    num_valid: int
    end: str
    motion: int | None
    schema: Schema = field(repr=False)
    read_field: ReadField = field(repr=False)

    @property
    def num_steps(self) -> int:
        """Its length, valid or not."""
        return self.last_step - self.first_step + 1

    @property
    def steps(self) -> range:
        """Its steps in the store."""
        return range(self.first_step, self.last_step + 1)

    def __getitem__(self, name: str) -> Rows:
        """A field's rows, ``(num_steps[, dim])``.

        Raises:
            InputError: No such field.
        """
        found = self.schema[name]

        def read(steps: range, envs: range) -> NDArray[Any]:
            at = range(self.first_step + steps.start, self.first_step + steps.stop, steps.step)
            return self.read_field(name, at, range(self.env, self.env + 1))

        return Rows(LazyArray((self.num_steps, 1, *found.row_shape), found.dtype, read))

    def __contains__(self, name: object) -> bool:
        return any(name == mine for mine in self)

    def __iter__(self) -> Iterator[str]:
        return iter(self.schema.stored_names)

    def __len__(self) -> int:
        return len(self.schema.stored)
