"""Findings: what somebody who is about to train on a store should know of it first.

Each rule is a function that reads as its definition. ``error`` means that the data are not what was
meant, ``warning`` that they probably are not, and ``note`` that somebody may want to know. Rules
compare a feature, an environment or a motion with the others by medians and quantiles, so that the
odd one does not hide itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import InputError
from mosaic_collect.look.charts import recorded_pace
from mosaic_collect.look.measure import store_statistics
from mosaic_collect.look.motions import FRAME, MotionCounts, failure_frames, motion_name
from mosaic_collect.look.statistics import (
    FieldProfile,
    FieldStatistics,
    StoreProfile,
    StoreStatistics,
    feature_words,
    number_ranges,
)
from mosaic_collect.look.watch import duration
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.summary import STOPPED, store_status
from mosaic_collect.reading.trajectories import OVER
from mosaic_collect.store.metadata import COMPLETE
from mosaic_collect.store.ranks import Addresses
from mosaic_collect.store.schema import TRAJECTORY_ID, VALID_MASK
from mosaic_collect.text import shown

ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = (ERROR, WARNING, NOTE)
ACTION_FIELDS = ("actions", "action", "action_mean")
SIGMA = "action_sigma"
MAX_PAIRS = 1_000_000
_MOST_NAMED = 8  # environments or places that a finding names one by one

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One finding.

    Attributes:
        kind: Name of the rule, such as ``dead_actuator``.
        severity: ``error``, ``warning`` or ``note``.
        text: The finding in words, with its place.
        cause: Possible causes, or what to do.
        field: Field that it is about; None: the whole store.
        features: Columns of that field.
        environments: Environments that it is about.
        motions: Ids of motions that it is about.
        steps: First and last step that it is about; None: all.
        trajectories: Ids of trajectories that show it.
    """

    kind: str
    severity: str
    text: str
    cause: str
    field: str | None = None
    features: tuple[int, ...] = ()
    environments: tuple[int, ...] = ()
    motions: tuple[int, ...] = ()
    steps: tuple[int, int] | None = None
    trajectories: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The finding as plain values."""
        return asdict(self)


def store_findings(
    path: Addresses | TrajectoryDataset, max_pairs: int | None = MAX_PAIRS
) -> list[Finding]:
    """Measure a store and look for problems; the gravest come first.

    Args:
        path: The store, or a dataset of it.
        max_pairs: Read an even part of about that many pairs; None: all.

    Raises:
        InputError: ``max_pairs`` is no whole number of at least 1.
        StoreNotFoundError: No store there, or one without a step's fields.
        CorruptStoreError: A damaged chunk.
    """
    dataset = path if isinstance(path, TrajectoryDataset) else TrajectoryDataset(path)
    return find(dataset, store_statistics(dataset, max_pairs=max_pairs))


def find(
    dataset: TrajectoryDataset,
    statistics: StoreStatistics,
    checks: Sequence[Mapping[str, Any]] = (),
) -> list[Finding]:
    """Look for problems in what was measured; the gravest come first.

    Args:
        dataset: The store.
        statistics: Its statistics.
        checks: Objects that ``mosaic-collect verify --json`` printed about it.

    Raises:
        CorruptStoreError: A damaged chunk of its ids, mask or ends.
    """
    evidence = _Evidence(dataset, statistics, checks)
    found = [finding for rule in _RULES for finding in rule(evidence)]
    actions = {(f.kind, f.features) for f in found if f.field == "actions"}
    # Means that equal the actions share their problems, which are one.
    found = [f for f in found if f.field != "action_mean" or (f.kind, f.features) not in actions]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


class _Spot(NamedTuple):
    """One value's place."""

    step: int
    env: int
    trajectory: int

    def __str__(self) -> str:
        return f"step {self.step:,}, environment {self.env:,}, trajectory {self.trajectory:,}"


class _Evidence:
    """What the rules look at."""

    def __init__(
        self,
        dataset: TrajectoryDataset,
        statistics: StoreStatistics,
        checks: Sequence[Mapping[str, Any]],
    ) -> None:
        self.dataset, self.checks = dataset, checks
        self.fields, self.profile = statistics.fields, statistics.profile
        part = statistics.num_read < statistics.num_valid
        self.part = " in the part that was read" if part else ""
        self.state, self.columns = dataset.state, dataset.trajectories.columns
        self.over: Mask = np.isin(self.columns["end"], OVER)
        self.failed: Mask = self.columns["end"] == "failed"

    def profiles(self) -> Iterator[tuple[FieldStatistics, FieldProfile]]:
        """Statistics and profile of each field of numbers that may vary."""
        for name, profile in self.profile.fields.items():
            yield self.fields[name], profile

    def spot(self, name: str, block: int, wanted: Callable[[NDArray[Any]], Mask]) -> _Spot | None:
        """The first valid row of a block for which ``wanted`` of its values is true."""
        table = self.dataset.view
        cell = table.whole_block(block)
        rows = table.read_cell(name, cell).reshape(*cell.shape, -1)
        places = np.argwhere(wanted(rows) & table.read_cell(VALID_MASK, cell))
        if not len(places):
            return None
        at, env = map(int, places[0])
        number = int(table.read_cell(TRAJECTORY_ID, cell)[at, env])
        return _Spot(self.state.steps_of(block)[at], env, number)


def _failed_checks(e: _Evidence) -> Iterator[Finding]:
    for check in e.checks:
        if not check.get("ok", True):
            of = "replay" if check.get("of") == "rows" else "verification"
            problems = check.get("problems") or [check.get("verdict", "see its report")]
            first = problems[0] if isinstance(problems, list) else problems
            text = f"the {of} failed: {shown(first)}"
            yield Finding(
                kind="failed_check", severity=ERROR, text=text, cause="Do not train on it."
            )


def _nonfinite(e: _Evidence) -> Iterator[Finding]:
    """Pairs with NaN or infinity, as the store counts them, and the first valid one of them."""
    for name, pairs in e.state.nonfinite.items():
        if not pairs:
            continue
        blocks = e.profile.fields[name].odd_block if name in e.profile.fields else np.empty(0)
        there = blocks[blocks >= 0]
        spot = None
        if len(there):
            spot = e.spot(name, int(there.min()), lambda rows: ~np.isfinite(rows).all(axis=2))
        share = pairs / max(e.state.num_pairs, 1)
        hold = f"{pairs:,} {'pair holds' if pairs == 1 else 'pairs hold'}"
        first = f"; the first valid one: {spot}" if spot else ""
        named = _feature_names(e.fields.get(name), blocks >= 0)
        yield Finding(
            kind="nonfinite",
            severity=ERROR,
            text=f"{name}: {hold} NaN or infinity{named} ({share:.2g} of all{first})",
            cause="A diverged simulation or a division by zero; an export can leave them out.",
            field=name,
            features=_numbers(blocks >= 0),
            **({} if spot is None else _at([spot])),
        )


def _feature_names(field: FieldStatistics | None, where: Mask) -> str:
    if field is None or not where.any():
        return ""
    if where.all() and len(where) > 1:
        return f" in all {len(where)} features"
    return feature_words(field, where, " in")


def _unchanging(e: _Evidence) -> Iterator[Finding]:
    """Features that always have one value: dead actuators, dead sensors, constants."""
    for name, field in e.fields.items():
        for words, where in (("always 0", field.dead), ("constant", field.constant & ~field.dead)):
            if not field.may_vary or not where.any():
                continue
            kind, severity, cause = _UNCHANGING[_role(name), words]
            yield Finding(
                kind=kind,
                severity=severity,
                text=f"{name}: {feature_words(field, where, words)}{e.part}",
                cause=cause,
                field=name,
                features=_numbers(where),
            )


def _role(name: str) -> str:
    if name in ACTION_FIELDS:
        return "action"
    return "observation" if name.endswith("observations") else "other"


_SENSOR = "An unused command, a sensor that is not connected, or a term of fixed values."
_UNCHANGING = {
    ("action", "always 0"): (
        "dead_actuator",
        ERROR,
        "This actuator never moves: the policy does not drive it, or its action is not recorded.",
    ),
    ("action", "constant"): ("constant_action", WARNING, "The policy never changes this action."),
    ("observation", "always 0"): ("dead_feature", WARNING, _SENSOR),
    ("observation", "constant"): ("constant_feature", NOTE, _SENSOR),
    ("other", "always 0"): ("dead_feature", NOTE, _SENSOR),
    ("other", "constant"): ("constant_feature", NOTE, "Nothing, if it is meant to be constant."),
}


def _clipped(e: _Evidence) -> Iterator[Finding]:
    """Continuous features of which 5 % of the values are exactly the least or the greatest one."""
    for field, _profile in e.profiles():
        low, high = field.moments.low, field.moments.high
        sample, is_action = field.sample, field.name in ACTION_FIELDS
        ends = [
            np.where((edge != 0) | is_action, (sample == edge).mean(axis=0), 0)
            for edge in (low, high)
            if len(sample)
        ]
        share = sum(ends, np.zeros(len(low)))
        where = (share > max(0.05, 20 / max(len(sample), 1))) & ~field.constant
        where[where] = [len(np.unique(sample[:, i])) > 20 for i in np.flatnonzero(where)]
        if where.any():
            worst = int(np.where(where, share, 0).argmax())
            words = feature_words(field, where, "clipped")
            most = f"{share[worst]:.0%} of {field.feature(worst)} at {low[worst]:.4g} or "
            yield Finding(
                kind="clipped",
                severity=WARNING if is_action else NOTE,
                text=f"{field.name}: {words} ({most}{high[worst]:.4g})",
                cause="An actuator or sensor at its limit: more than that was asked or measured.",
                field=field.name,
                features=_numbers(where),
            )


def _outliers(e: _Evidence) -> Iterator[Finding]:
    """Values whose distance from the median is over ten times the span of 98 % of the values."""
    for field, profile in e.profiles():
        if not len(field.sample):
            continue
        (q1, q50, q99), m = field.quantiles((0.01, 0.5, 0.99)), field.moments
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            apart = np.maximum(m.high - q50, q50 - m.low) / (q99 - q1)
        where = (q99 > q1) & (apart > 10)
        spots, words = [], []
        for i in sorted(_numbers(where), key=lambda i: -apart[i])[:3]:
            up = m.high[i] - q50[i] >= q50[i] - m.low[i]
            value, block = (m.high, profile.high_block) if up else (m.low, profile.low_block)
            spot = e.spot(field.name, int(block[i]), partial(_equals, i, value[i]))
            if spot is not None:
                spots.append(spot)
                words.append(f"{field.feature(i)} is {value[i]:.4g} at {spot}")
        if words:
            yield Finding(
                kind="outlier",
                severity=WARNING,
                text=f"{field.name}: {feature_words(field, where, 'outliers')}; {'; '.join(words)}",
                cause="A value far beyond all others: it dominates means and normalizers.",
                field=field.name,
                features=_numbers(where),
                **_at(spots),
            )


def _equals(feature: int, value: float, rows: NDArray[Any]) -> Mask:
    return np.asarray(rows[:, :, feature] == value)


def _drifts(e: _Evidence) -> Iterator[Finding]:
    """Features whose mean moves steadily, by over half of their spread, through the recording.

    Of short recordings nothing is said: there the motions themselves are a trend.
    """
    edges, lengths = e.profile.edges, e.columns["num_steps"]
    middles = (edges[1:] + edges[:-1]) / 2
    if len(lengths) < 200 or e.state.committed_steps < 8 * np.median(lengths):
        return
    for field, profile in e.profiles():
        there = (profile.counts > 0).all(axis=1)
        if there.sum() < 10:
            continue
        change, fit, rest = _trend(middles[there], profile.means[there], field.std)
        where = (fit > 0.9) & (np.abs(change) > 0.5 * rest) & ~field.constant
        if where.any():
            worst = int(np.where(where, np.abs(change) / np.maximum(rest, 1e-12), 0).argmax())
            first, last = profile.means[there][[0, -1], worst]
            yield Finding(
                kind="drift",
                severity=WARNING,
                text=f"{field.name}: {feature_words(field, where, 'drifting')}; "
                f"{field.feature(worst)} from {first:.3g} to {last:.3g}",
                cause="An encoder or estimator that drifts, or a task that changes with time.",
                field=field.name,
                features=_numbers(where),
            )


def _trend(
    at: NDArray[np.float64], means: NDArray[np.float64], std: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Change along a straight line, the share of variance that it explains, the spread beside."""
    x, y = at - at.mean(), means - means.mean(axis=0)
    slope = x @ y / (x @ x)
    total = (y**2).sum(axis=0)
    fit = np.divide(slope**2 * (x @ x), total, out=np.zeros_like(total), where=total > 0)
    rest = np.sqrt(np.maximum(std**2 - total / len(x), 0))
    return slope * (at[-1] - at[0]), fit, rest


def _collapsed_sigma(e: _Evidence) -> Iterator[Finding]:
    """Action dimensions whose median sigma is below a thousandth of the median dimension's."""
    field = e.fields.get(SIGMA)
    if field is None or not len(field.sample):
        return
    median = field.quantiles((0.5,))[0]
    where = median < np.nanmedian(median) / 1000
    if where.any():
        worst = int(np.nanargmin(median))
        yield Finding(
            kind="collapsed_sigma",
            severity=WARNING,
            text=f"{SIGMA}: {feature_words(field, where, 'collapsed')} "
            f"(median {median[worst]:.2g}; of all dimensions {np.nanmedian(median):.2g})",
            cause="The policy does not explore this dimension, or its noise is not recorded.",
            field=SIGMA,
            features=_numbers(where),
        )


def _frozen(e: _Evidence) -> Iterator[Finding]:
    """Environments whose valid rows stay as they are for a 32nd of the recording or longer."""
    p = e.profile
    still = (p.same > 0.9 * p.compared) & (p.compared >= 10)
    envs = np.flatnonzero(still.any(axis=0))
    if not len(envs) or len(envs) > still.shape[1] / 2:
        return  # of most of them: the field is constant
    spans = {int(env): _span(p, still[:, env]) for env in envs}
    for env in list(spans)[:_MOST_NAMED]:
        spans[env] = (_first_still(e, env, spans[env][0]), spans[env][1])
    cause = "The simulation of this environment stopped, or its observations are not updated."
    yield _by_environment(
        e, "frozen_environment", ERROR, "stand still for a while", spans, cause, p.watched
    )


def _idle(e: _Evidence) -> Iterator[Finding]:
    """Environments without a valid row for a 32nd of the recording, while most others have some."""
    p = e.profile
    share, read = p.valid / np.maximum(p.read, 1), p.read > 0
    most = [
        np.median(row[there]) if there.any() else 0 for row, there in zip(share, read, strict=True)
    ]
    idle = (p.read >= 10) & (share == 0) & (np.array(most) > 0.5)[:, None]
    envs = np.flatnonzero(idle.any(axis=0))
    if not len(envs):
        return
    spans = {int(env): _span(p, idle[:, env]) for env in envs}
    severity = WARNING if idle[:, envs].mean(axis=0).max() > 0.5 else NOTE
    cause = "They had nothing to do, or were masked; exports and loaders skip these rows."
    yield _by_environment(e, "idle_environment", severity, "are idle for a while", spans, cause)


def _first_still(e: _Evidence, env: int, step: int) -> int:
    """The step from which on an environment stands still, within a bin before ``step``."""
    steps = range(max(0, step - e.profile.width), step + 1)
    rows = e.dataset.view.read(str(e.profile.watched), steps, range(env, env + 1))[:, 0]
    changed = (rows[1:] != rows[:-1]).reshape(len(rows) - 1, -1).any(axis=1)
    return steps.start + int(np.max(np.flatnonzero(changed) + 1, initial=0))


def _span(profile: StoreProfile, where: Mask) -> tuple[int, int]:
    """First and last step of the bins that are true."""
    at = np.flatnonzero(where)
    return int(profile.edges[at[0]]), int(profile.edges[at[-1] + 1]) - 1


def _by_environment(
    e: _Evidence,
    kind: str,
    severity: str,
    words: str,
    spans: Mapping[int, tuple[int, int]],
    cause: str,
    field: str | None = None,
) -> Finding:
    groups: dict[tuple[int, int], list[int]] = {}
    for env, span in spans.items():
        groups.setdefault(span, []).append(env)
    named = [
        f"{_list(envs)} (steps {first:,} to {last:,})"
        for (first, last), envs in list(groups.items())[:_MOST_NAMED]
    ]
    more = f" and {len(groups) - len(named):,} more groups" if len(groups) > len(named) else ""
    return Finding(
        kind=kind,
        severity=severity,
        text=f"{len(spans):,} of {e.state.num_envs:,} environments {words}: "
        f"{', '.join(named)}{more}{e.part}",
        cause=cause,
        field=field,
        environments=tuple(spans),
        steps=(min(a for a, _ in spans.values()), max(b for _, b in spans.values())),
    )


def _far(e: _Evidence) -> Iterator[Finding]:
    """Environments whose mean lies far outside of the others' means, and of all values' spread."""
    for field, profile in e.profiles():
        means = profile.env_means
        if len(means) < 8 or not len(field.sample):
            continue
        with np.errstate(invalid="ignore"):
            q25, q50, q75 = _quartiles(means)
            apart = np.abs(means - q50)
            spread = np.diff(field.quantiles((0.16, 0.84)), axis=0)[0, :: profile.stride] / 2
            odd = (apart > 8 * (q75 - q25)) & (apart > 3 * spread)
        envs = np.flatnonzero(odd.any(axis=1))
        if not len(envs) or len(envs) > len(means) / 4:
            continue
        ratio = np.where(odd, apart / np.maximum(spread, 1e-12), 0)
        env, column = np.unravel_index(ratio.argmax(), odd.shape)
        feature = int(column) * profile.stride
        yield Finding(
            kind="far_environment",
            severity=WARNING,
            text=f"{field.name}: {len(envs):,} of {len(means):,} environments far from the others: "
            f"{_list(envs)}; {field.feature(feature)} has the mean {means[env, column]:.3g} in "
            f"environment {env}, {q50[column]:.3g} in the median one",
            cause="Another robot, terrain or state than the others have: look at its trajectories.",
            field=field.name,
            features=tuple(int(c) * profile.stride for c in np.flatnonzero(odd.any(axis=0))),
            environments=tuple(map(int, envs)),
        )


def _quartiles(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each column's finite values; NaN of none."""
    there = np.isfinite(means).any(axis=0)
    found = np.full((3, means.shape[1]), np.nan)
    found[:, there] = np.nanquantile(means[:, there], (0.25, 0.5, 0.75), axis=0)
    return found


def _failing_motions(e: _Evidence) -> Iterator[Finding]:
    """Motions with at least a quarter of failed trajectories, and the frames of the failures."""
    counts = MotionCounts.of(e.dataset)
    if counts is None:
        return
    failing = (counts.rate >= 0.25) & (counts.ended >= 5)
    frames = failure_frames(e.dataset) if failing.any() else np.empty(0, np.int64)
    for at in sorted(np.flatnonzero(failing), key=lambda at: -counts.rate[at]):
        motion = int(counts.ids[at])
        falls = e.columns["motion"][e.failed] == motion
        low, high = np.quantile(frames[falls], (0.1, 0.9)).round().astype(int).tolist()
        span = f"{low:,} to {high:,}" if low < high else f"{low:,}"
        where = f"at frames {span}" if FRAME in e.dataset else f"after {span} steps"
        yield Finding(
            kind="failing_motion",
            severity=WARNING,
            text=f"motion {motion_name(e.dataset, motion)}: {counts.failed[at]:,} of "
            f"{counts.ended[at]:,} trajectories fail ({counts.rate[at]:.0%}), most {where}",
            cause="The policy does not track this motion: leave its failures out, or train it on.",
            motions=(motion,),
            trajectories=tuple(e.columns["id"][e.failed][falls][:100].tolist()),
        )


def _rare_motions(e: _Evidence) -> Iterator[Finding]:
    """Motions with less than a tenth of the median motion's trajectories."""
    counts = MotionCounts.of(e.dataset)
    if counts is None or len(counts.ids) < 3 or np.median(counts.total) < 5:
        return
    median = int(np.median(counts.total))
    for at in np.flatnonzero(counts.total < median / 10):
        motion = int(counts.ids[at])
        number = f"{counts.total[at]:,} trajectories" if counts.total[at] else "no trajectory"
        yield Finding(
            kind="rare_motion",
            severity=WARNING if e.state.status == COMPLETE else NOTE,
            text=f"motion {motion_name(e.dataset, motion)} is hardly recorded: {number}, "
            f"the median motion has {median:,}",
            cause="Its share of the training data is small; record more passes of it.",
            motions=(motion,),
        )


def _trajectories(e: _Evidence) -> Iterator[Finding]:
    """Ends that do not look like those of motions: at once, by failing, never, all alike."""
    lengths, total, ended = e.columns["num_steps"], len(e.over), int(e.over.sum())
    short, failed = int((lengths[e.over] == 1).sum()), int(e.failed.sum())
    endless = int((e.columns["end"] == "interrupted").sum())
    values, numbers = np.unique(lengths[e.over], return_counts=True)
    most = int(numbers.argmax()) if ended else 0
    over = f"of {ended:,} trajectories that ended"
    for is_so, kind, severity, text, cause in (
        (
            short > 0,
            "short_trajectories",
            WARNING if short > 0.01 * ended else NOTE,
            f"{short:,} {over} are one row long",
            "Resets that fail at once, or ends that are recorded twice.",
        ),
        (
            failed > 0.5 * ended,
            "failing",
            WARNING,
            f"{failed:,} {over} failed",
            "The policy falls: an export can leave them out.",
        ),
        (
            endless > 0.25 * total,
            "endless_trajectories",
            NOTE,
            f"{endless:,} of {total:,} trajectories have no end",
            "Their run stopped first; an export can leave them out.",
        ),
        (
            ended >= 20 and max(numbers, default=0) >= 0.95 * ended,
            "equal_lengths",
            NOTE,
            f"{max(numbers, default=0):,} {over} have {values[most] if ended else 0:,} steps",
            "A time limit, or motions of one length; else something ends them all.",
        ),
    ):
        if is_so:
            yield Finding(kind=kind, severity=severity, text=text, cause=cause)


def _recording(e: _Evidence) -> Iterator[Finding]:
    """Pauses, stalls, rows that do not count, and a recording that is not complete."""
    state, pace, status = e.state, recorded_pace(e.dataset.metadata), store_status(e.dataset)
    idle = 1 - state.num_valid / state.num_pairs if state.num_pairs else 0.0
    stalled = 0.0 if pace is None else pace.stalled_share
    gap = 0.0 if pace is None else float(max(pace.begin[1:] - pace.end[:-1], default=0))
    for is_so, kind, severity, text, cause in (
        (
            not state.num_pairs,
            "empty",
            ERROR,
            "the store holds no step",
            "Nothing was committed yet.",
        ),
        (
            idle > 0.05,
            "invalid_pairs",
            WARNING if idle > 0.5 else NOTE,
            f"{idle:.1%} of all pairs are not valid",
            "Environments that had nothing to do, or were masked.",
        ),
        (
            stalled > 0.05,
            "stalls",
            WARNING if stalled > 0.2 else NOTE,
            f"the writer waited for the disk {stalled:.1%} of the time",
            "Nothing is lost, but a faster disk would have saved time.",
        ),
        (
            gap > 600,
            "gap",
            NOTE,
            f"the recording paused for {duration(gap)} between two runs",
            "It was interrupted and resumed.",
        ),
        (
            status != COMPLETE,
            "incomplete",
            WARNING if status == STOPPED else NOTE,
            f"the store is not complete: {status}",
            "It is being written, or its writer was stopped; it can be resumed.",
        ),
    ):
        if is_so:
            yield Finding(kind=kind, severity=severity, text=text, cause=cause)


def _metadata(e: _Evidence) -> Iterator[Finding]:
    try:
        e.dataset.terms  # noqa: B018  reading it checks it
    except InputError as error:
        yield Finding(
            kind="terms",
            severity=WARNING,
            text=str(error),
            cause="Features have numbers only, and no names.",
        )


_RULES = (
    *(_failed_checks, _nonfinite, _unchanging, _clipped, _outliers, _drifts, _collapsed_sigma),
    *(_frozen, _idle, _far, _failing_motions, _rare_motions, _trajectories, _recording, _metadata),
)


def _numbers(where: Mask) -> tuple[int, ...]:
    return tuple(map(int, np.flatnonzero(where)))


def _list(numbers: Sequence[int] | Ints) -> str:
    """Such as ``3, 5-8``."""
    where = np.zeros(max(numbers) + 1, np.bool_)
    where[np.asarray(numbers)] = True
    return number_ranges(where)


def _at(spots: Sequence[_Spot]) -> dict[str, Any]:
    steps = [spot.step for spot in spots]
    return {
        "environments": tuple(spot.env for spot in spots),
        "steps": (min(steps), max(steps)),
        "trajectories": tuple(spot.trajectory for spot in spots),
    }
