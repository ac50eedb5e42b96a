"""What somebody who is about to train on a store should know of it first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mosaic_collect.errors import InputError
from mosaic_collect.look.charts import recorded_pace
from mosaic_collect.look.statistics import StoreStatistics, oddities
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.store.metadata import COMPLETE
from mosaic_collect.text import shown

#: Shares from which it is told.
_IDLE, _STALLED, _FAILED, _ENDLESS, _SHORT = 0.05, 0.05, 0.5, 0.25, 0.01
_ALIKE, _MANY = 0.95, 20  # of so many trajectories, this share of one length
_MAY_BE_CONSTANT = ("action_sigma",)


@dataclass(frozen=True)
class Finding:
    """One thing to know.

    Attributes:
        grave: Whether the data are probably not what was meant.
        words: What it is.
        why: What it may come from, or what to do about it.
    """

    grave: bool
    words: str
    why: str


def findings(
    dataset: TrajectoryDataset,
    statistics: StoreStatistics,
    checks: Sequence[Mapping[str, Any]] = (),
) -> list[Finding]:
    """Grave ones first.

    Args:
        dataset: The store.
        statistics: Of it.
        checks: What ``mosaic-collect verify --json`` said of it, an object a line.

    Raises:
        CorruptStoreError: A damaged chunk of its ids, mask or ends.
    """
    found = [
        *_checks(checks),
        *_nonfinite(dataset),
        *_features(statistics),
        *_trajectories(dataset),
        *_shares(dataset),
        *_metadata(dataset),
    ]
    return sorted(found, key=lambda w: not w.grave)


def _checks(checks: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    for check in checks:
        if not check.get("ok", True):
            of = "replay" if check.get("of") == "rows" else "verification"
            problems = check.get("problems") or [check.get("verdict", "see its report")]
            first = problems[0] if isinstance(problems, list) else problems
            yield Finding(True, f"the {of} failed: {shown(first)}", "Do not train on it.")


def _nonfinite(dataset: TrajectoryDataset) -> Iterator[Finding]:
    for name, pairs in dataset.state.nonfinite.items():
        if pairs:
            share = pairs / max(dataset.state.num_pairs, 1)
            hold = f"{pairs:,} {'pair holds' if pairs == 1 else 'pairs hold'}"
            yield Finding(
                True,
                f"{name}: {hold} NaN or infinity ({share:.2g} of all)",
                "A diverged simulation or a division by zero; an export can leave them out.",
            )


def _features(statistics: StoreStatistics) -> Iterator[Finding]:
    part = "" if statistics.num_read == statistics.num_valid else " in the part that was read"
    for name, field in statistics.fields.items():
        for words in oddities(field):
            if "NaN" in words or "infinity" in words:
                continue  # counted exactly by the store, and told above
            dead = "always 0" in words
            if name not in _MAY_BE_CONSTANT or dead:
                yield Finding(
                    dead and name.endswith("observations"),
                    f"{words}{part}",
                    "An unused command, a sensor that is not connected, or a term of fixed values.",
                )


def _trajectories(dataset: TrajectoryDataset) -> Iterator[Finding]:
    table = dataset.trajectories
    counts, lengths = table.counts(), table.columns["num_steps"]
    over = np.isin(table.columns["end"], ("ended", "failed", "unsaid"))
    ended = int(over.sum())
    short = int((lengths[over] == 1).sum())
    if short:
        yield Finding(
            short > _SHORT * ended,
            f"{short:,} of {ended:,} trajectories that ended are one row long",
            "Resets that fail at once, or ends that are told twice.",
        )
    failed = counts.get("failed", 0)
    if failed > _FAILED * max(ended, 1):
        words = f"{failed:,} of {ended:,} trajectories that ended failed"
        yield Finding(True, words, "The policy falls: an export can leave them out.")
    endless = counts.get("truncated", 0)
    if endless > _ENDLESS * len(table):
        yield Finding(
            False,
            f"{endless:,} of {len(table):,} trajectories have no end",
            "Their run stopped first; an export can leave them out.",
        )
    if ended >= _MANY:
        values, numbers = np.unique(lengths[over], return_counts=True)
        most = int(numbers.argmax())
        if numbers[most] >= _ALIKE * ended:
            yield Finding(
                False,
                f"{numbers[most]:,} of {ended:,} trajectories end at frame {values[most]:,}",
                "A time limit, or motions of one length; else something ends them all.",
            )


def _shares(dataset: TrajectoryDataset) -> Iterator[Finding]:
    state, pace = dataset.state, recorded_pace(dataset.metadata)
    idle = 1 - state.num_valid / state.num_pairs if state.num_pairs else 0.0
    if idle > _IDLE:
        words = f"{idle:.1%} of all pairs are not valid"
        yield Finding(idle > 0.5, words, "Environments that had nothing to do, or were masked.")
    if pace is not None and pace.stalled_share > _STALLED:
        words = f"the writer waited for the disk {pace.stalled_share:.1%} of the time"
        yield Finding(False, words, "Nothing is lost, but a faster disk would have saved time.")
    if state.status != COMPLETE:
        why = "It is being written, or its writer was stopped; it can be resumed."
        yield Finding(False, "the store is not complete", why)
    if not state.num_pairs:
        yield Finding(True, "the store holds no step", "Nothing was committed yet.")


def _metadata(dataset: TrajectoryDataset) -> Iterator[Finding]:
    try:
        dataset.terms  # noqa: B018  reading it checks it
    except InputError as error:
        yield Finding(False, str(error), "Features are told by their numbers alone.")
