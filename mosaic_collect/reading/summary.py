"""What a store is, in numbers and in words: the one description behind every view of it.

``inspect`` prints it, a notebook shows it as a card, a report begins with it, and ``watch`` tells
of a growing store in the same words. So they count trajectories alike:

    all trajectories = those that ended, some of them by failing + those without an end
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mosaic_collect.errors import CorruptStoreError, InputError
from mosaic_collect.passes.engine import Engine
from mosaic_collect.reading.table import Table
from mosaic_collect.reading.terms import TERMS, parse_terms
from mosaic_collect.reading.trajectories import count_failed, interrupted_ids
from mosaic_collect.store.metadata import COMPLETE, StoreState
from mosaic_collect.store.robot import ROBOT, Robot
from mosaic_collect.text import shown, size_of

if TYPE_CHECKING:
    from mosaic_collect.reading.dataset import TrajectoryDataset

FIELD_HEAD = ("field", "dtype", "shape", "chunk", "raw", "stored", "ratio", "NaN/inf pairs")
STOPPED = "stopped"
_UNBORN = "no steps yet: an empty folder, or a writer killed before its first commit"
#: Numbers of a store's state that programs get by the same names.
_NUMBERS = ("num_envs", "num_pairs", "num_valid", "block_steps", "num_blocks")
_MOST_STORES = 20
_MOST_TERMS = 40


@dataclass(frozen=True)
class FieldSummary:
    """One array of a store or an export.

    A file that several arrays share is stored once, and counts for the first of them.

    Attributes:
        name: Its name.
        shape: Shape of all rows. Of several stores, the greatest number of environments.
        dtype: Type of its values.
        raw_nbytes: Uncompressed bytes.
        stored_nbytes: Bytes of its files.
        nonfinite: Pairs with NaN or infinity; None where they are not counted.
        chunk: Shape of a chunk of a store; None in an export.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    raw_nbytes: int
    stored_nbytes: int
    nonfinite: int | None
    chunk: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Summary:
    """A store or an export.

    Attributes:
        path: Address of the store, or path of the export.
        kind: ``store`` or ``export``.
        fields: Its arrays.
        facts: (name, value) in words, in the order to be shown.
        figures: The same for programs, as numbers and names.
        metadata: The user's own metadata, or MOSAIC's of an export.
    """

    path: str
    kind: str
    fields: tuple[FieldSummary, ...]
    facts: tuple[tuple[str, str], ...]
    figures: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def raw_nbytes(self) -> int:
        """Uncompressed bytes of all arrays."""
        return sum(f.raw_nbytes for f in self.fields)

    @property
    def stored_nbytes(self) -> int:
        """Bytes of all arrays' files."""
        return sum(f.stored_nbytes for f in self.fields)


def store_summary(dataset: TrajectoryDataset, engine: Engine | None = None) -> Summary:
    """Summarise a store, or several that are read as one.

    Args:
        dataset: The store.
        engine: Engine that counts failed trajectories; None: this thread.

    Raises:
        ClusterError: The engine's workers fail.
    """
    path = dataset.path
    if not dataset.num_envs:
        figures = {"status": "unborn", "num_steps": 0}
        return Summary(path, "store", (), (("status", _UNBORN),), figures)
    state, status = dataset.state, store_status(dataset)
    ends, problem = _count_ends(dataset.view, engine)
    last = max((run.started for run in state.runs), default="never")
    versions = state.runs[-1].versions if state.runs else {}
    valid = f"{state.num_valid / state.num_pairs:.1%}" if state.num_pairs else "none yet"
    part_facts, part_figures = _parts(dataset)
    facts = (
        ("status", status_words(status)),
        *part_facts,
        *_robot_facts(state),
        ("steps", _steps_words(dataset)),
        ("pairs", f"{state.num_pairs:,}, of them {state.num_valid:,} valid ({valid})"),
        ("trajectories", problem or trajectories_words(**ends)),
        ("block", f"{state.block_steps} steps, {state.num_blocks} blocks"),
        ("compressor", f"{state.compressor.name}, level {state.compressor.level}"),
        ("runs", f"{len(state.runs)}, the last from {last}"),
        ("written by", ", ".join(f"{n} {v}" for n, v in versions.items()) or "not said"),
    )
    figures = {
        "status": status,
        "num_steps": state.committed_steps,
        **{name: getattr(state, name) for name in _NUMBERS},
        "compressor": asdict(state.compressor),
        "runs": [run.told() for run in state.runs],
        **{f"num_{name}": number for name, number in ends.items()},
        **part_figures,
    }
    return Summary(path, "store", _fields(dataset.view), facts, figures, dataset.metadata)


def store_status(dataset: TrajectoryDataset) -> str:
    """``complete``, ``collecting``, or ``stopped`` if it is known that no writer is at work."""
    if dataset.status == COMPLETE:
        return COMPLETE
    undone = [p.blobs for p in dataset.parts if p.status != COMPLETE and p.num_envs]
    alone = undone and all(blobs.is_claimed() is False for blobs in undone)
    return STOPPED if alone else dataset.status


def status_words(status: str) -> str:
    """A store's status in words, and what to do about it."""
    resume = ": no writer is at work; resume it with --resume, or resume=True in Python"
    return status + (resume if status == STOPPED else "")


def stored_nbytes(view: Table) -> dict[str, int]:
    """Bytes of each field's shards; files shared with a field before it count there, once."""
    counted, sizes = set[str](), dict[str, int]()
    for name in view.grids:
        found = view.versions(name)
        if view.parts[0].blobs.links:
            found = [version for version in found if version.tag not in counted]
            counted.update(version.tag for version in found)
        sizes[name] = sum(version.nbytes for version in found)
    return sizes


def trajectories_words(
    ended: int,
    failed: int | None,
    without_end: int | None = None,
    trajectories: int | None = None,
) -> str:
    """Numbers of trajectories in words; None where a number is not known."""
    words = "" if trajectories is None else f"{trajectories:,}: "
    words += f"{ended:,} ended"
    words += "" if failed is None else f", {failed:,} of them failed"
    return words + ("" if without_end is None else f", {without_end:,} without an end")


def _steps_words(dataset: TrajectoryDataset) -> str:
    widths = {part.num_envs for part in dataset.parts}
    most = f"{max(widths):,} envs"
    return f"{dataset.num_steps:,} x {most if len(widths) == 1 else f'{min(widths):,} to {most}'}"


def field_rows(summary: Summary) -> list[list[str]]:
    """Cells under ``FIELD_HEAD`` for each field, and for all of them in sum."""
    rows = [
        [
            shown(f.name),
            f.dtype,
            _shape(f),
            _times(f.chunk or ()),
            *_sizes(f.raw_nbytes, f.stored_nbytes),
            "" if f.nonfinite is None else f"{f.nonfinite:,}",
        ]
        for f in summary.fields
    ]
    return [*rows, ["all", "", "", "", *_sizes(summary.raw_nbytes, summary.stored_nbytes), ""]]


def _count_ends(view: Table, engine: Engine | None) -> tuple[dict[str, Any], str | None]:
    """Numbers of trajectories by their ends; and in words what is wrong if they are damaged."""
    ended = view.state.num_trajectories
    ends: dict[str, Any] = dict.fromkeys(("trajectories", "ended", "failed", "without_end"))
    ends["ended"] = ended
    try:
        if view.state.schema.has_ends:
            ends["failed"] = count_failed(view, engine)
    except CorruptStoreError as error:
        return {**ends, "failed": "damaged"}, f"{ended:,} ended, how is damaged: {error}"
    try:
        ends["without_end"] = len(interrupted_ids(view))
    except CorruptStoreError as error:
        return ends, f"{ended:,} ended; ids are damaged: {error}"
    return {**ends, "trajectories": ended + ends["without_end"]}, None


def _parts(dataset: TrajectoryDataset) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """Facts and figures per store, where there are several."""
    if not dataset.stores.are_several:
        return [], {}
    parts, shown_parts = dataset.parts, dataset.parts[:_MOST_STORES]
    facts = [("parts", f"{len(parts)}")]
    facts += [
        ("part", f"{_name(p.path)}: {store_status(p)}, {_steps_words(p)}") for p in shown_parts
    ]
    more = len(parts) - len(shown_parts)
    facts += [("part", f"{more} more")] if more else []
    facts += [("missing", f"{_name(path)}: joined, and is not there") for path in dataset.missing]
    facts += [("never joined", _name(path)) for path in dataset.never_joined]
    names = ("path", "status", "num_steps", "num_envs", "num_valid")
    each = [{name: getattr(part, name) for name in names} for part in parts]
    return facts, {"parts": each, "missing": dataset.missing}


def _robot_facts(state: StoreState) -> list[tuple[str, str]]:
    try:
        robot = Robot.from_metadata(state.metadata)
    except InputError as error:
        return [(ROBOT, str(error))]
    return [] if robot is None else [(ROBOT, str(robot))]


def _name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _fields(view: Table) -> tuple[FieldSummary, ...]:
    state, stored = view.state, stored_nbytes(view)
    return tuple(
        FieldSummary(
            name,
            (state.committed_steps, state.num_envs, *grid.field.row_shape),
            grid.field.dtype,
            state.num_pairs * grid.field.row_nbytes,
            stored[name],
            state.nonfinite.get(name),
            (grid.chunk_steps, grid.chunk_envs, *grid.field.row_shape),
        )
        for name, grid in view.grids.items()
    )


def _sizes(raw: int, stored: int) -> list[str]:
    return [size_of(raw), size_of(stored), f"{raw / stored:.2f}" if stored else "-"]


def _shape(f: FieldSummary) -> str:
    """Shape in words; of several stores, some may have fewer environments."""
    full = prod(f.shape) * np.dtype(f.dtype).itemsize == f.raw_nbytes
    return _times(f.shape) if full else _times(f.shape).replace(" x ", " x up to ", 1)


def _times(sizes: Sequence[int]) -> str:
    return " x ".join(f"{n:,}" for n in sizes)


#: Texts of a table, row by row.
Rows: TypeAlias = Sequence[Sequence[str]]
#: Text takes the page's own colour or a shade of it, so light and dark both read well.
_STYLE = """\
.mosaic-card{font:13px/1.45 system-ui,sans-serif;color:inherit;max-width:72em}
.mosaic-card .wide{overflow-x:auto}
.mosaic-card table{border-collapse:collapse;color:inherit;margin:.4em 0}
.mosaic-card :is(th,td){padding:.15em .9em .15em 0;text-align:left;background:none;\
color:inherit;vertical-align:top;border-bottom:1px solid rgba(128,128,128,.35)}
.mosaic-card .n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.mosaic-card details td{overflow-wrap:anywhere}"""


def card(dataset: TrajectoryDataset) -> str:
    """A store as a card for notebooks: HTML that takes its colours from where it is shown."""
    summary = store_summary(dataset)
    name, facts = f"<strong>{escape(shown(summary.path))}</strong>", summary.facts
    if not summary.fields:
        return f"<div>{name}<br>{escape(shown(facts[0][1]))}</div>"
    told = [(k, v) for k, v in summary.metadata.items() if k != TERMS]
    parts = [
        name,
        _table([(shown(k), shown(v)) for k, v in facts]),
        f'<div class="wide">{_table(field_rows(summary), FIELD_HEAD)}</div>',
        _terms(dataset.state),
        _folded("metadata", [(shown(k), shown(v)) for k, v in told]),
    ]
    return f'<div class="mosaic-card"><style>{_STYLE}</style>{"".join(parts)}</div>'


def _terms(state: StoreState) -> str:
    try:
        terms = parse_terms(state.schema, state.metadata)
    except InputError as error:
        return f"<p>{escape(shown(str(error)))}</p>"
    labels = [(n, ", ".join(t.label for t in of[:_MOST_TERMS])) for n, of in terms.items()]
    return _folded("observation terms", labels)


def _folded(title: str, rows: Rows) -> str:
    return f"<details><summary>{title}</summary>{_table(rows)}</details>" if rows else ""


def _table(rows: Rows, head: Sequence[str] = ()) -> str:
    """A table of texts; the first of each row is its head, those from the third on are numbers."""
    top = "".join(f'<th scope="col"{_flush(i)}>{escape(n)}</th>' for i, n in enumerate(head))
    body = [
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td{_flush(i)}>{escape(text)}</td>" for i, text in enumerate(row[1:], 1))
        + "</tr>"
        for row in rows
    ]
    above = f"<thead><tr>{top}</tr></thead>" if top else ""
    return f"<table>{above}<tbody>{''.join(body)}</tbody></table>"


def _flush(column: int) -> str:
    return ' class="n"' if column > 1 else ""
