"""What several stores say together, as one store would say it: their steps one behind the other.

    store    rank-00000, T = 5    rank-00001, T = 3
    step     0  1  2  3  4        5  6  7
    block    0        1           2               numbered through; of S = 3
    env      0 .. 3               0 .. 1          N is the greatest, here 4

What a store does not have beside a wider one is not valid.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

from mosaic_collect.errors import StoreMismatchError
from mosaic_collect.reading.numbering import join_motions
from mosaic_collect.store.metadata import COLLECTING, COMPLETE, Run, StoreState


@dataclass(frozen=True, kw_only=True)
class JoinedState(StoreState):
    """The states of several stores as one; what differs in them is the widest store's.

    Attributes:
        parts: The states, in order.
    """

    parts: tuple[StoreState, ...]

    @cached_property
    def first_steps(self) -> list[int]:
        """Of each store, where its steps begin."""
        return _sums(part.committed_steps for part in self.parts)

    @cached_property
    def first_blocks(self) -> list[int]:
        """Of each store, where its blocks begin."""
        return _sums(part.num_blocks for part in self.parts)

    @property
    def num_pairs(self) -> int:
        return sum(part.num_pairs for part in self.parts)

    @property
    def num_blocks(self) -> int:
        return sum(part.num_blocks for part in self.parts)

    @property
    def has_one_width(self) -> bool:
        """Whether all stores have as many environments."""
        return len({part.num_envs for part in self.parts}) == 1

    def place(self, block: int) -> tuple[int, int]:
        """Which store a block is of, and its number there."""
        at = bisect_right(self.first_blocks, block) - 1
        return at, block - self.first_blocks[at]

    def steps_of(self, block: int) -> range:
        at, inside = self.place(block)
        return _shifted(self.parts[at].steps_of(inside), self.first_steps[at])

    def block_of(self, step: int) -> int:
        at = bisect_right(self.first_steps, step) - 1
        return self.first_blocks[at] + self.parts[at].block_of(step - self.first_steps[at])

    def spans(self) -> tuple[tuple[Run, range], ...]:
        return tuple(
            (replace(run, first_step=run.first_step + first), _shifted(steps, first))
            for part, first in zip(self.parts, self.first_steps, strict=True)
            for run, steps in part.spans()
        )


def joined_state(states: Mapping[str, StoreState], is_whole: bool) -> JoinedState:
    """The state of stores together.

    Args:
        states: By addresses, at least one.
        is_whole: Whether nothing is missing beside them.

    Raises:
        StoreMismatchError: Their fields differ.
    """
    first, *others = states
    for other in others:
        wrong = states[first].schema.differences(states[other].schema)
        if wrong:
            raise StoreMismatchError(
                f"stores that are read as one must have the same fields: {other} is not like "
                f"{first}: {'; '.join(wrong)}"
            )
    parts = tuple(states.values())
    widest = max(parts, key=lambda part: part.num_envs)
    complete = is_whole and all(part.status == COMPLETE for part in parts)
    own = {
        **_totals(parts),
        "status": COMPLETE if complete else COLLECTING,
        "metadata": _told([part.metadata for part in parts]),
    }
    widests = {f.name: getattr(widest, f.name) for f in fields(StoreState)}
    joined = JoinedState(**{**widests, **own}, parts=parts)
    return replace(joined, runs=tuple(run for run, _steps in joined.spans()))


def _totals(parts: Sequence[StoreState]) -> dict[str, Any]:
    names = ("committed_steps", "num_valid", "num_trajectories", "next_trajectory_id")
    counted = [name for part in parts for name in part.nonfinite]
    return {
        **{name: sum(getattr(part, name) for part in parts) for name in names},
        "nonfinite": {n: sum(p.nonfinite.get(n, 0) for p in parts) for n in dict.fromkeys(counted)},
        "has_mask": any(part.has_mask for part in parts) or len({p.num_envs for p in parts}) > 1,
        "identity": "",
    }


def _told(metadata: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all say alike; and all their motions, with what became of them anywhere."""
    first, *others = metadata
    told = {k: v for k, v in first.items() if all(k in o and o[k] == v for o in others)}
    return {**told, **join_motions(metadata)}


def _shifted(steps: range, by: int) -> range:
    return range(steps.start + by, steps.stop + by, steps.step)


def _sums(lengths: Iterable[int]) -> list[int]:
    return list(accumulate(lengths, initial=0))[:-1]
