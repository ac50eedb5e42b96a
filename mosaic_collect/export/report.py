"""What is said of an export that was written."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from mosaic_collect.export.rows import is_flattened
from mosaic_collect.npyfile.layout import GRID
from mosaic_collect.reading.numbering import MOTION_ID
from mosaic_collect.reading.provenance import alike_notes
from mosaic_collect.reading.selection import Left
from mosaic_collect.reading.table import Table
from mosaic_collect.store.schema import TRAJECTORY_ID

#: What a store's metadata tells under "acting" if its actions are not the policy's mean.
_DISTURBING = {"action_noise", "act_by"}


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


def notes(table: Table, layout: str, names: Collection[str]) -> Iterator[str]:
    """One sentence each, of a file with the arrays that are named."""
    yield from alike_notes({p.address: p.state.metadata for p in table.parts})
    if len(table.parts) > 1:
        yield from _of_ids(table, names)
    if layout == GRID and table.state.num_valid < table.state.num_pairs:
        yield "MOSAIC ignores valid_mask and trains on the invalid rows of this grid"
    for field in filter(is_flattened, table.state.schema.fields):
        if field.name in names:
            yield f"{field.name}: its axes {field.dim} became one of {field.width}, in C order"
    missing = {"actions", "action_mean", "action_sigma"} - set(names)
    if missing:
        yield f"MOSAIC's loss also reads {', '.join(sorted(missing))}, left out here"
    yield from _of_labels(table, names)
    if {"observations", "student_observations"} <= set(names):
        yield "MOSAIC loads observations, but trains on student_observations only"
    if not {"observations", "student_observations"} & set(names):
        yield "MOSAIC cannot train on it: no observations"


def _of_ids(table: Table, names: Collection[str]) -> Iterator[str]:
    """Note how the ids of several stores became unique."""
    numbered = [(p.address, n) for p, n in zip(table.parts, table.numberings, strict=True)]
    if TRAJECTORY_ID in names:
        for address, numbering in numbered[1:]:
            raised = f"its own and {numbering.first_id} more, to be unique"
            yield f"{TRAJECTORY_ID}: those of {address} are {raised}"
    if MOTION_ID not in names:
        return
    if any(numbering.changes(MOTION_ID) for numbering in table.numberings):
        yield (
            f"{MOTION_ID}: numbered through {table.numberings[0].num_motions} motions of all "
            "stores; the file's metadata hold the new ids of each store under motion_ids"
        )
    unnamed = [address for address, numbering in numbered if not numbering.motions]
    if unnamed:
        yield (
            f"{MOTION_ID}: the metadata of {', '.join(unnamed)} name no motions, so one id of "
            "theirs may mean several motions"
        )


def _of_labels(table: Table, names: Collection[str]) -> Iterator[str]:
    """What a trainer learns from, where what was executed is not what the policy would do."""
    told = (part.state.metadata.get("acting") for part in table.parts)
    disturbed = any(isinstance(acting, dict) and _DISTURBING & set(acting) for acting in told)
    if "actions" not in names or not disturbed:
        return
    if "action_mean" in names:
        yield "MOSAIC learns from action_mean; actions are what was executed, disturbed on purpose"
    else:
        yield (
            "WARNING: the labels left are actions, which were disturbed on purpose, and MOSAIC "
            "would learn the disturbance: export action_mean, too"
        )
