"""Findings: what somebody who is about to train on a store should know of it first.

Each rule is a function that reads as its definition. ``error`` means that the data are not what was
meant, ``warning`` that they probably are not, and ``note`` that somebody may want to know. Rules
compare a feature, an environment or a motion with the others by medians and quantiles, so that the
odd one does not hide itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from mosaic_collect.errors import InputError
from mosaic_collect.look.charts import recorded_pace
from mosaic_collect.look.measure import store_statistics
from mosaic_collect.look.motions import (
    FRAME,
    MotionCounts,
    failure_frames,
    motion_name,
    tracking_errors,
)
from mosaic_collect.look.statistics import (
    ACTIONS,
    FAR,
    MEAN,
    SIGMA,
    FieldStatistics,
    Mask,
    StoreStatistics,
    feature_words,
    number_ranges,
)
from mosaic_collect.look.watch import duration
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.moments import Floats
from mosaic_collect.reading.summary import STOPPED, store_status
from mosaic_collect.reading.terms import usable_robot
from mosaic_collect.reading.trajectories import OVER
from mosaic_collect.store.metadata import COMPLETE
from mosaic_collect.store.parsing import object_in
from mosaic_collect.store.ranks import Addresses
from mosaic_collect.store.schema import TRAJECTORY_ID, VALID_MASK
from mosaic_collect.text import shown

ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = (ERROR, WARNING, NOTE)
ACTION_FIELDS = (*ACTIONS, MEAN)
MAX_PAIRS = 1_000_000
_MOST_NAMED = 8  # environments or places that a finding names one by one
#: Parts of the names of commands and of fixed places: they may well be constant.
_ASKED = ("command", "reference", "ref_", "_ref", "motion", "goal", "target", "origin", "phase")


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
    """Look for problems in what was measured and checked; the gravest come first.

    ``checks`` are objects that ``mosaic-collect verify --json`` printed about the store.
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
        self.statistics, self.fields = statistics, statistics.fields
        part = statistics.num_read < statistics.num_valid
        self.part = " in the part that was read" if part else ""
        self.state, self.columns = dataset.state, dataset.trajectories.columns
        self.over: Mask = np.isin(self.columns["end"], OVER)
        self.failed: Mask = self.columns["end"] == "failed"
        self.num_over = int(self.over.sum())
        self.motions = MotionCounts.of(dataset)
        self.is_perturbed = not _PERTURBS.isdisjoint(object_in(dataset.metadata, "acting"))

    @property
    def over_time(self) -> list[FieldStatistics]:
        """Statistics of the fields with values that were measured over time."""
        return [f for f in self.fields.values() if f.stride and len(f.sample)]

    @property
    def actions(self) -> list[FieldStatistics]:
        """Statistics of the fields of actions."""
        return [self.fields[name] for name in ACTION_FIELDS if name in self.fields]

    @property
    def measured(self) -> list[FieldStatistics]:
        """Statistics of the other fields that may vary."""
        fields = self.fields.items()
        return [f for name, f in fields if name not in ACTION_FIELDS and f.may_vary]

    def name_of(self, motion: int) -> str:
        """A motion as texts name it, such as ``motion 13 walk.npz``."""
        return f"motion {motion_name(self.dataset, motion)}"

    def new_in(self, field: FieldStatistics) -> Mask:
        """Columns of a field, without observations that repeat the recorded actions."""
        repeats = field.name.endswith("observations") and "actions" in self.fields
        return ~field.columns_of(("action",) if repeats else ())

    def spot(
        self, name: str, block: int, value: float | None = None, feature: int = 0
    ) -> _Spot | None:
        """The first valid row of a block with a value of a feature; None: that is not finite."""
        table = self.dataset.view
        cell = table.whole_block(block)
        rows = table.read_cell(name, cell).reshape(*cell.shape, -1)
        wanted = ~np.isfinite(rows).all(axis=2) if value is None else rows[..., feature] == value
        places = np.argwhere(wanted & table.read_cell(VALID_MASK, cell))
        if not len(places):
            return None
        at, env = map(int, places[0])
        number = int(table.read_cell(TRAJECTORY_ID, cell)[at, env])
        return _Spot(self.state.steps_of(block)[at], env, number)


#: Ways of acting in which trajectories are meant to fail more often.
_PERTURBS = {"action_noise", "push", "act_by"}
_MEANT = "Actions were perturbed, so that trajectories fail more often than the policy would."
Found = Iterator[dict[str, Any]]
Look = Callable[[_Evidence], Found]
_RULES: list[Callable[[_Evidence], Iterator[Finding]]] = []


def _rule(severity: str, cause: str) -> Callable[[Look], Look]:
    """Add a rule, whose name is its kind: it yields what differs from this severity and cause."""

    def add(look: Look) -> Look:
        usual = Finding(kind=look.__name__, severity=severity, text="", cause=cause)
        _RULES.append(lambda evidence: (replace(usual, **found) for found in look(evidence)))
        return look

    return add


def _some_in(
    field: FieldStatistics, where: Mask, what: str, more: str = "", **others: Any
) -> Found:
    """Features of a field and what they are, if there are any."""
    if where.any():
        text = f"{field.name}: {feature_words(field, where, what)}{more}"
        yield {"text": text, "field": field.name, "features": _numbers(where), **others}


@_rule(ERROR, "Do not train on it.")
def failed_check(e: _Evidence) -> Found:
    """Checks of the store that found problems."""
    for check in e.checks:
        if not check.get("ok", True):
            of = "replay" if check.get("of") == "rows" else "verification"
            problems = check.get("problems") or [check.get("verdict", "see its report")]
            first = problems[0] if isinstance(problems, list) else problems
            yield {"text": f"the {of} failed: {shown(first)}"}


@_rule(ERROR, "A diverged simulation or a division by zero; an export can leave them out.")
def nonfinite(e: _Evidence) -> Found:
    """Pairs with NaN or infinity, as the store counts them, and the first valid one of them."""
    for name, pairs in e.state.nonfinite.items():
        if not pairs:
            continue
        field = e.fields.get(name)
        blocks = field.odd_block if field is not None and field.stride else np.empty(0)
        there, spot, named = blocks[blocks >= 0], None, ""
        if len(there):
            spot = e.spot(name, int(there.min()))
            every = f" in all {len(blocks)} features" if len(blocks) > 1 else ""
            some = feature_words(e.fields[name], blocks >= 0, " in")
            named = every if (blocks >= 0).all() else some
        share = pairs / max(e.state.num_pairs, 1)
        hold = f"{pairs:,} {'pair holds' if pairs == 1 else 'pairs hold'} NaN or infinity"
        first = f"; the first valid one: {spot}" if spot else ""
        yield {
            "text": f"{name}: {hold}{named} ({share:.2g} of all{first})",
            "field": name,
            "features": _numbers(blocks >= 0),
            **({} if spot is None else _at([spot])),
        }


@_rule(ERROR, "The policy does not drive it, or its action is not recorded.")
def dead_actuator(e: _Evidence) -> Found:
    """Actions that are always 0."""
    return _unchanging(e, e.actions, "dead", "always 0")


@_rule(WARNING, "The policy never changes this action.")
def constant_action(e: _Evidence) -> Found:
    """Actions that always have the same value, but not 0."""
    return _unchanging(e, e.actions, "fixed", "constant")


@_rule(WARNING, "A sensor that is not connected, or a term of fixed values.")
def dead_feature(e: _Evidence) -> Found:
    """Other features that are always 0."""
    return _unchanging(e, e.measured, "dead", "always 0")


@_rule(WARNING, "A sensor that stands still, or a term of fixed values.")
def constant_feature(e: _Evidence) -> Found:
    """Other features that always have the same value, but not 0."""
    return _unchanging(e, e.measured, "fixed", "constant")


def _unchanging(e: _Evidence, fields: Sequence[FieldStatistics], which: str, what: str) -> Found:
    """Actions and observations should vary; commands, sigmas and extra fields need not."""
    cause = "Nothing, if it is meant to be constant, as an unused command is."
    for field in fields:
        where, asked = getattr(field, which) & e.new_in(field), np.zeros(len(field.names), np.bool_)
        if field.name not in ACTION_FIELDS:
            asked = field.columns_of(_ASKED) | (not field.name.endswith("observations"))
        yield from _some_in(field, where & ~asked, what, e.part)
        yield from _some_in(field, where & asked, what, e.part, severity=NOTE, cause=cause)


@_rule(WARNING, "An actuator or sensor at its limit: more was asked or measured.")
def clipped(e: _Evidence) -> Found:
    """Continuous features of which 5 % of the values are exactly the least or the greatest one."""
    for field in e.over_time:
        is_action, share = field.name in ACTION_FIELDS, field.saturation
        where = (share > max(0.05, 20 / len(field.sample))) & e.new_in(field)
        where &= ~field.columns_of(_ASKED)
        where[where] = [len(np.unique(field.sample[:, i])) > 20 for i in np.flatnonzero(where)]
        if where.any():
            worst, m = int(np.where(where, share, 0).argmax()), field.moments
            edges = f"at {m.low[worst]:.4g} or {m.high[worst]:.4g}"
            most = f" ({share[worst]:.0%} of {field.names[worst]} {edges})"
            severity = WARNING if is_action else NOTE
            yield from _some_in(field, where, "clipped", most, severity=severity)


@_rule(WARNING, "A value far beyond all others: it dominates means and normalizers.")
def outlier(e: _Evidence) -> Found:
    """Values whose distance from the median is over ten times the span of 98 % of the values."""
    for field in e.over_time:
        (q1, q50, q99), m = field.quantiles((0.01, 0.5, 0.99)), field.moments
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            apart = np.maximum(m.high - q50, q50 - m.low) / (q99 - q1)
        where = (q99 > q1) & (apart > 10) & e.new_in(field)
        spots, words = [], []
        for i in sorted(_numbers(where), key=lambda i: -apart[i])[:3]:
            up = m.high[i] - q50[i] >= q50[i] - m.low[i]
            value, block = (m.high, field.high_block) if up else (m.low, field.low_block)
            spot = e.spot(field.name, int(block[i]), value[i], i)
            if spot is not None:
                spots.append(spot)
                words.append(f"{field.names[i]} is {value[i]:.4g} at {spot}")
        if words:
            more = f"; {'; '.join(words)}"
            yield from _some_in(field, where, "outliers", more, **_at(spots))


@_rule(WARNING, "An encoder or estimator that drifts, or a task that changes with time.")
def drift(e: _Evidence) -> Found:
    """Features whose mean moves steadily, by over half of their spread, through the recording.

    Short recordings have no drift: there the motions themselves are a trend.
    """
    edges, lengths = e.statistics.edges, e.columns["num_steps"]
    middles = (edges[1:] + edges[:-1]) / 2
    if len(lengths) < 200 or e.state.committed_steps < 8 * np.median(lengths):
        return
    for field in e.over_time:
        there = (field.bin_counts > 0).all(axis=1)
        if there.sum() < 10:
            continue
        change, fit, rest = _trend(middles[there], field.bin_means[there], field.std)
        where = (fit > 0.9) & (np.abs(change) > 0.5 * rest) & ~field.constant
        if where.any():
            worst = int(np.where(where, np.abs(change) / np.maximum(rest, 1e-12), 0).argmax())
            first, last = field.bin_means[there][[0, -1], worst]
            span = f"; {field.names[worst]} from {first:.3g} to {last:.3g}"
            yield from _some_in(field, where, "drifting", span)


def _trend(at: Floats, means: Floats, std: Floats) -> tuple[Floats, Floats, Floats]:
    """Change along a straight line, the share of variance that it explains, the spread beside."""
    x, y = at - at.mean(), means - means.mean(axis=0)
    slope = x @ y / (x @ x)
    total = (y**2).sum(axis=0)
    fit = np.divide(slope**2 * (x @ x), total, out=np.zeros_like(total), where=total > 0)
    rest = np.sqrt(np.maximum(std**2 - total / len(x), 0))
    return slope * (at[-1] - at[0]), fit, rest


@_rule(WARNING, "The policy does not explore this dimension, or its noise is not recorded.")
def collapsed_sigma(e: _Evidence) -> Found:
    """Action dimensions whose median sigma is below a thousandth of the median dimension's."""
    field = e.fields.get(SIGMA)
    if field is None or not len(field.sample):
        return
    median = field.quantiles((0.5,))[0]
    if (known := median[np.isfinite(median)]).size:
        others = float(np.median(known))
        words = f" (median {known.min():.2g}; of all {others:.2g})"
        yield from _some_in(field, median < others / 1000, "collapsed", words)


@_rule(ERROR, "Its simulation stopped, or its observations are not updated.")
def frozen_environment(e: _Evidence) -> Found:
    """Environments whose valid rows stay as they are for a 32nd of the recording or longer."""
    p = e.statistics
    still = (p.same > 0.9 * p.compared) & (p.compared >= 10)
    spans = _spans(p, still)
    if len(spans) > still.shape[1] / 2:
        return  # of most of them: the field is constant
    for env, (first, last) in list(spans.items())[:_MOST_NAMED]:
        spans[env] = (_first_still(e, env, first), last)
    yield from _by_environment(e, "stand still for a while", spans, field=p.watched)


@_rule(NOTE, "They had nothing to do, or were masked; exports and loaders skip these rows.")
def idle_environment(e: _Evidence) -> Found:
    """Environments without a valid row for a 32nd of the recording, while most others have some."""
    p = e.statistics
    share, read = p.valid / np.maximum(p.read, 1), p.read > 0
    most = [
        np.median(row[there]) if there.any() else 0 for row, there in zip(share, read, strict=True)
    ]
    idle = (p.read >= 10) & (share == 0) & (np.array(most) > 0.5)[:, None]
    severity = WARNING if idle.sum(axis=0).max(initial=0) > len(idle) / 2 else NOTE
    yield from _by_environment(e, "are idle for a while", _spans(p, idle), severity=severity)


def _first_still(e: _Evidence, env: int, step: int) -> int:
    """The step from which on an environment stands still, within a bin before ``step``."""
    steps = range(max(0, step - e.statistics.width), step + 1)
    rows = e.dataset.view.read(str(e.statistics.watched), steps, range(env, env + 1))[:, 0]
    changed = (rows[1:] != rows[:-1]).reshape(len(rows) - 1, -1).any(axis=1)
    return steps.start + int(np.max(np.flatnonzero(changed) + 1, initial=0))


def _spans(statistics: StoreStatistics, where: Mask) -> dict[int, tuple[int, int]]:
    """First and last step of the bins, ``(bins, N)``, that are true, per environment with some."""
    at = {int(env): np.flatnonzero(where[:, env]) for env in np.flatnonzero(where.any(axis=0))}
    edges = statistics.edges.tolist()
    return {env: (edges[bins[0]], edges[bins[-1] + 1] - 1) for env, bins in at.items()}


def _by_environment(
    e: _Evidence, words: str, spans: Mapping[int, tuple[int, int]], **others: Any
) -> Found:
    """Environments by the steps in which they are so, if there are any."""
    if not spans:
        return
    groups: dict[tuple[int, int], list[int]] = {}
    for env, span in spans.items():
        groups.setdefault(span, []).append(env)
    named = [
        f"{number_ranges(envs)} (steps {first:,} to {last:,})"
        for (first, last), envs in list(groups.items())[:_MOST_NAMED]
    ]
    more = f" and {len(groups) - len(named):,} more groups" if len(groups) > len(named) else ""
    which = f"{', '.join(named)}{more}{e.part}"
    yield {
        "text": f"{len(spans):,} of {e.state.num_envs:,} environments {words}: {which}",
        "environments": tuple(spans),
        "steps": (min(a for a, _ in spans.values()), max(b for _, b in spans.values())),
        **others,
    }


@_rule(WARNING, "Another robot, terrain or state than the others have: look at its trajectories.")
def far_environment(e: _Evidence) -> Found:
    """Environments whose mean lies far outside of the others' means, and of all values' spread."""
    for field in e.over_time:
        means = field.env_means
        if len(means) < 8:
            continue
        apart, spread, q50 = field.far_environments()
        with np.errstate(invalid="ignore"):
            odd = (apart > FAR) & (np.abs(means - q50) > 3 * spread)
        odd &= e.new_in(field)[:: field.stride]
        envs = np.flatnonzero(odd.any(axis=1))
        if not len(envs) or len(envs) > len(means) / 4:
            continue
        ratio = np.where(odd, np.abs(means - q50) / np.maximum(spread, 1e-12), 0)
        env, column = np.unravel_index(ratio.argmax(), odd.shape)
        name = field.names[int(column) * field.stride]
        far = f"{len(envs):,} of {len(means):,} environments far from the others"
        mean = f"{means[env, column]:.3g} in environment {env}, {q50[column]:.3g} in the median one"
        yield {
            "text": f"{field.name}: {far}: {number_ranges(envs)}; {name} has the mean {mean}",
            "field": field.name,
            "features": tuple(int(c) * field.stride for c in np.flatnonzero(odd.any(axis=0))),
            "environments": tuple(map(int, envs)),
        }


@_rule(WARNING, "The policy does not track this motion: leave its failures out, or train it on.")
def failing_motion(e: _Evidence) -> Found:
    """Motions with at least a quarter of failed trajectories, and the frames of the failures.

    With perturbed actions failures are meant: then only motions that fail twice as often as the
    median one are a warning.
    """
    counts = e.motions
    failing = (counts.rate >= 0.25) & (counts.ended >= 5)
    if not failing.any():
        return
    frames, usual = failure_frames(e.dataset), np.median(counts.rate[counts.ended >= 5])
    for at in sorted(np.flatnonzero(failing), key=lambda at: -counts.rate[at]):
        motion, rate = int(counts.ids[at]), counts.rate[at]
        falls = e.columns["motion"][e.failed] == motion
        low, high = np.quantile(frames[falls], (0.1, 0.9)).round().astype(int).tolist()
        span = f"{low:,} to {high:,}" if low < high else f"{low:,}"
        where = f"at frames {span}" if FRAME in e.dataset else f"after {span} steps"
        failed = f"{counts.failed[at]:,} of {counts.ended[at]:,} trajectories fail ({rate:.0%})"
        yield {
            "severity": NOTE if e.is_perturbed and rate <= 2 * usual else WARNING,
            "text": f"{e.name_of(motion)}: {failed}, most {where}",
            "motions": (motion,),
            "trajectories": tuple(e.columns["id"][e.failed][falls][:100].tolist()),
            **({"cause": _MEANT} if e.is_perturbed else {}),
        }


@_rule(WARNING, "Its share of the training data is small; record more passes of it.")
def rare_motion(e: _Evidence) -> Found:
    """Motions with less than a tenth of the median motion's trajectories."""
    counts = e.motions
    if len(counts.ids) < 3 or np.median(counts.total) < 5:
        return
    median = int(np.median(counts.total))
    for at in np.flatnonzero(counts.total < median / 10):
        motion = int(counts.ids[at])
        number = f"{counts.total[at]:,} trajectories" if counts.total[at] else "no trajectory"
        others = f"the median motion has {median:,}"
        yield {
            "severity": WARNING if e.state.status == COMPLETE else NOTE,
            "text": f"{e.name_of(motion)} is hardly recorded: {number}, {others}",
            "motions": (motion,),
        }


@_rule(
    WARNING, "The policy lags behind or ignores this motion, though it may not fail: look at it."
)
def tracking_error(e: _Evidence) -> Found:
    """Motions whose tracking error is over three times the median motion's."""
    tracking = tracking_errors(e.fields)
    if tracking is None or len(tracking.ids) < 3:
        return
    usual, units = float(np.median(tracking.errors)), usable_robot(e.dataset.metadata).units
    unit = f" {units[tracking.robot]}" if tracking.robot in units else ""
    for at in np.flatnonzero(tracking.errors > 3 * max(usual, 1e-9)):
        motion, ratio = int(tracking.ids[at]), tracking.errors[at] / max(usual, 1e-9)
        words = f"{tracking.errors[at]:.2g}{unit} from {tracking.reference}"
        beside = f"{ratio:.1f} times the median motion's {usual:.2g}"
        text = f"{e.name_of(motion)} tracks badly: {tracking.robot} is {words}, {beside}"
        yield {"text": text, "motions": (motion,)}


@_rule(NOTE, "Resets that fail at once, or ends that are recorded twice.")
def short_trajectories(e: _Evidence) -> Found:
    """Trajectories of one row."""
    short = int((e.columns["num_steps"][e.over] == 1).sum())
    if short:
        text = f"{short:,} of {e.num_over:,} trajectories that ended are one row long"
        yield {"text": text, "severity": WARNING if short > 0.01 * e.num_over else NOTE}


@_rule(WARNING, "The policy falls: an export can leave them out.")
def failing(e: _Evidence) -> Found:
    """More than half of the trajectories failed, of several motions or without motions."""
    failed = int(e.failed.sum())
    if failed > 0.5 * e.num_over and len(e.motions.ids) != 1:
        meant = {"severity": NOTE, "cause": _MEANT} if e.is_perturbed else {}
        yield {"text": f"{failed:,} of {e.num_over:,} trajectories that ended failed", **meant}


@_rule(NOTE, "Their run stopped first; an export can leave them out.")
def endless_trajectories(e: _Evidence) -> Found:
    """More than a quarter of the trajectories have no end."""
    endless, total = int((e.columns["end"] == "interrupted").sum()), len(e.over)
    if endless > 0.25 * total:
        yield {"text": f"{endless:,} of {total:,} trajectories have no end"}


@_rule(NOTE, "A time limit, or motions of one length; else something ends them.")
def equal_lengths(e: _Evidence) -> Found:
    """95 % of at least 20 trajectories that ended have one length."""
    lengths, numbers = np.unique(e.columns["num_steps"][e.over], return_counts=True)
    if e.num_over >= 20 and numbers.max() >= 0.95 * e.num_over:
        most = f"{numbers.max():,} of {e.num_over:,} trajectories that ended"
        yield {"text": f"{most} have {lengths[numbers.argmax()]:,} steps"}


@_rule(ERROR, "Nothing was committed yet.")
def empty(e: _Evidence) -> Found:
    """No step."""
    if not e.state.num_pairs:
        yield {"text": "the store holds no step"}


@_rule(NOTE, "Environments that had nothing to do, or were masked.")
def invalid_pairs(e: _Evidence) -> Found:
    """More than 5 % of the pairs are not valid."""
    share = 1 - e.state.num_valid / e.state.num_pairs if e.state.num_pairs else 0.0
    if share > 0.05:
        severity = WARNING if share > 0.5 else NOTE
        yield {"text": f"{share:.1%} of all pairs are not valid", "severity": severity}


@_rule(NOTE, "Nothing is lost, but a faster disk would have saved time.")
def stalls(e: _Evidence) -> Found:
    """The writer waited for more than 5 % of the time."""
    pace = recorded_pace(e.dataset.metadata)
    if pace is not None and (share := pace.stalled_share) > 0.05:
        text = f"the writer waited for the disk {share:.1%} of the time"
        yield {"text": text, "severity": WARNING if share > 0.2 else NOTE}


@_rule(NOTE, "It was interrupted and resumed.")
def gap(e: _Evidence) -> Found:
    """More than ten minutes lie between two runs."""
    pace = recorded_pace(e.dataset.metadata)
    gap = 0.0 if pace is None else float(max(pace.begin[1:] - pace.end[:-1], default=0))
    if gap > 600:
        yield {"text": f"the recording paused for {duration(gap)} between two runs"}


@_rule(NOTE, "It is being written, or its writer was stopped; it can be resumed.")
def incomplete(e: _Evidence) -> Found:
    """Not closed as complete."""
    if (status := store_status(e.dataset)) != COMPLETE:
        severity = WARNING if status == STOPPED else NOTE
        yield {"text": f"the store is not complete: {status}", "severity": severity}


@_rule(WARNING, "Features have numbers only, and no names.")
def terms(e: _Evidence) -> Found:
    """Metadata that contradict the fields."""
    try:
        e.dataset.terms  # noqa: B018  reading it checks it
    except InputError as error:
        yield {"text": str(error)}


def _numbers(where: Mask) -> tuple[int, ...]:
    return tuple(map(int, np.flatnonzero(where)))


def _at(spots: Sequence[_Spot]) -> dict[str, Any]:
    steps = [spot.step for spot in spots]
    return {
        "environments": tuple(spot.env for spot in spots),
        "steps": (min(steps), max(steps)),
        "trajectories": tuple(spot.trajectory for spot in spots),
    }
