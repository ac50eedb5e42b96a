"""What a verification found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MOST_PROBLEMS = 1000


@dataclass(frozen=True)
class VerifyReport:
    """What was found.

    Attributes:
        path: What was looked at.
        problems: In words, each naming its place; empty if all is well.
        notes: Harmless findings, such as a killed run's leftovers.
        checked: How many shards (of a store) or arrays (of a file).
        nbytes: Bytes read and checked.
        seconds: It took.
    """

    path: str
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    checked: int
    nbytes: int
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems


def together(
    path: str,
    problems: Iterable[str],
    notes: Iterable[str],
    reports: Sequence[VerifyReport],
    seconds: float,
) -> VerifyReport:
    """The reports of several stores as one, behind what there is to say of all of them."""
    found = [*problems, *(f"{one.path}: {problem}" for one in reports for problem in one.problems)]
    return VerifyReport(
        path,
        tuple(found[:MOST_PROBLEMS]),
        (*notes, *(f"{one.path}: {note}" for one in reports for note in one.notes)),
        sum(one.checked for one in reports),
        sum(one.nbytes for one in reports),
        seconds,
    )
