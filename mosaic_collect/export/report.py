"""What is said of an export that was written."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from mosaic_collect.npyfile.layout import GRID
from mosaic_collect.reading.selection import Left
from mosaic_collect.reading.union import Source
from mosaic_collect.store.schema import TRAJECTORY_ID


@dataclass(frozen=True)
class ExportReport:
    """What was exported.

    Attributes:
        path: The file.
        layout: ``grid`` or ``compact``.
        num_pairs: Valid pairs in the file.
        shapes: Key -> shape.
        left_out: Pairs left out, by reason.
        file_nbytes: Size of the file; np.load needs about as much RAM.
        device_nbytes: What MOSAIC moves to the training device, on every rank.
        seconds: It took.
        notes: What the reader of the file should know.
    """

    path: str
    layout: str
    num_pairs: int
    shapes: dict[str, tuple[int, ...]]
    left_out: Left
    file_nbytes: int
    device_nbytes: int
    seconds: float
    notes: tuple[str, ...]


def notes(source: Source, layout: str, names: Collection[str]) -> Iterator[str]:
    """One sentence each, of a file with the arrays that are named."""
    if TRAJECTORY_ID in names:
        for part in source.parts[1:]:
            raised = f"its own and {part.first_id} more, to be unique"
            yield f"{TRAJECTORY_ID}: those of {part.path} are {raised}"
    if layout == GRID and source.num_valid < source.num_pairs:
        yield "MOSAIC ignores valid_mask and trains on the invalid rows of this grid"
    missing = {"actions", "action_mean", "action_sigma"} - set(names)
    if missing:
        yield f"MOSAIC's loss also reads {', '.join(sorted(missing))}, left out here"
    if {"observations", "student_observations"} <= set(names):
        yield "MOSAIC loads observations, but trains on student_observations only"
    if not {"observations", "student_observations"} & set(names):
        yield "MOSAIC cannot train on it: no observations"
