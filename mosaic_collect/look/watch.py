"""A store that is being written, seen from outside by its root document, again and again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from mosaic_collect.look.charts import PaceSpans, recorded_pace
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.summary import (
    STOPPED,
    status_words,
    store_status,
    trajectories_words,
)
from mosaic_collect.reading.table import Table
from mosaic_collect.reading.trajectories import failed_in
from mosaic_collect.store.blobs import Version
from mosaic_collect.store.metadata import COMPLETE
from mosaic_collect.text import size_of

_LATE = 8  # commits that the rate of late is of


@dataclass(frozen=True, kw_only=True)
class Look:
    """One look; None where a number is not known."""

    status: str  # ``collecting``, ``complete``, or ``stopped`` if no writer is at work
    num_steps: int
    num_envs: int
    num_valid: int
    num_ended: int
    num_failed: int | None
    stored_nbytes: int
    free_nbytes: int | None  # room left on the store's medium
    rate: float | None  # recent steps per second
    overall: float | None  # steps per second of the whole run
    max_steps: int | None  # steps that the store is to have
    stalled: float | None  # share of time
    since_commit: float  # seconds since the last commit was seen, or since the first look
    saw_commit: bool

    @property
    def is_complete(self) -> bool:
        """Whether the recording is complete."""
        return self.status == COMPLETE

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes, unless a writer resumes the store."""
        return self.status in (COMPLETE, STOPPED)

    @property
    def left_seconds(self) -> float | None:
        """Seconds until ``max_steps``, at the recent rate."""
        return self._left_steps / self.rate if self.max_steps is not None and self.rate else None

    @property
    def nbytes_at_end(self) -> float | None:
        """Bytes that are still to come until ``max_steps``, at the size of those so far."""
        if self.max_steps is None or not self.num_steps:
            return None
        return self.stored_nbytes / self.num_steps * self._left_steps

    @property
    def _left_steps(self) -> int:
        return max((self.max_steps or 0) - self.num_steps, 0)


class Watcher:
    """Looks at a store; reads of each new block no more than its ends, and never disturbs a writer.

    ``max_steps`` None: what the store's collection recorded. The clock is for tests.
    """

    def __init__(
        self,
        dataset: TrajectoryDataset,
        max_steps: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dataset, self._max_steps, self._clock = dataset, max_steps, clock
        self._committed: float | None = None
        self._versions: dict[str, dict[int, Version | None]] = {}
        self._failed: dict[int, int] = {}
        #: The first block that may have changed since the last look. An end may be told of a row
        #: after that was committed, so the block before the newest is one of them.
        self._open = 0
        #: (seconds, steps) at which commits were seen, the latest last.
        self._commits: list[tuple[float, int]] = []

    def look(self) -> Look:
        """Look now.

        Raises:
            StoreError: The store is gone or damaged.
        """
        self._dataset.refresh()
        now, data = self._clock(), self._dataset
        if not self._commits or self._commits[-1][1] != data.num_steps:
            if self._commits:
                self._committed = time.time()
            self._commits = [*self._commits[-_LATE:], (now, data.num_steps)]
        pace = recorded_pace(data.metadata)
        told = pace.max_steps if pace is not None else None
        stalls = None if pace is None or not len(pace.stalled) else pace.stalled_share
        born = data.num_envs > 0
        failed = self._count_failed(data.view) if born else None
        stored = self._stored(data.view) if born else 0
        self._open = max(data.state.num_blocks - 2, 0) if born else 0
        return Look(
            status=store_status(data),
            num_steps=data.num_steps,
            num_envs=data.num_envs,
            num_valid=data.num_valid,
            num_ended=data.num_ended,
            num_failed=failed,
            stored_nbytes=stored,
            free_nbytes=data.view.parts[0].blobs.free_nbytes() if born else None,
            rate=self._rate(now),
            overall=self._overall(pace) if born else None,
            max_steps=told if self._max_steps is None else self._max_steps,
            stalled=stalls,
            since_commit=now - self._commits[-1][0],
            saw_commit=self._committed is not None,
        )

    def _rate(self, now: float) -> float | None:
        (begin, first), (end, last) = self._commits[0], self._commits[-1]
        if end <= begin:
            return None
        # Who has committed nothing for longer than usual is slower by now, or gone.
        usual = (end - begin) / (len(self._commits) - 1)
        return (last - first) / (max(end, now - usual) - begin)

    def _overall(self, pace: PaceSpans | None) -> float | None:
        """Of the newest run, as its collection tells, or since it began until the last commit."""
        data = self._dataset
        if pace is not None and len(pace.run):
            mine = pace.run == pace.run[-1]
            seconds = float(pace.end[mine].max() - pace.begin[mine].min())
            return float(pace.steps[mine].sum()) / seconds
        if self._committed is None or not data.state.runs:
            return None
        run = data.state.runs[-1]
        seconds = self._committed - datetime.fromisoformat(run.started).timestamp()
        return (data.num_steps - run.first_step) / seconds if seconds > 0 else None

    def _stored(self, table: Table) -> int:
        """Bytes of shards, each file once.

        The first look lists them, as one request each is dear in object storage; later looks ask
        for those that may be new.
        """
        found: dict[object, int] = {}
        for name in table.grids:
            known = self._versions.setdefault(name, {})
            listed = dict(enumerate(table.versions(name))) if not known else {}
            whole = len(listed) == table.state.num_blocks
            for block in range(self._open, table.state.num_blocks):
                known[block] = listed[block] if whole else table.find(name, block)
                if known[block] is None:
                    break  # a state may claim any number of blocks behind one that is missing
            for block, version in known.items():
                if version is not None:
                    key = version.tag if table.parts[0].blobs.links else (name, block)
                    found[key] = version.nbytes
        return sum(found.values())

    def _count_failed(self, table: Table) -> int | None:
        if not table.state.schema.has_ends:
            return None
        for block in range(self._open, table.state.num_blocks):
            self._failed[block] = failed_in(table, block)
        return sum(self._failed.values())


_BAR = 24
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


#: A fact in a line of all of them.
_IN_LINE = {
    "steps": "{} steps",
    "pairs": "{} pairs",
    "trajectories": "trajectories: {}",
    "stalled": "{} stalled",
    "commit": "last commit {}",
}


def look_lines(look: Look) -> list[str]:
    """A line per fact, the most important first."""
    facts = _facts(look)
    facts["stalled"] = f"{facts['stalled']} of the time" if facts["stalled"] else "not told"
    return [f"  {name + ':':14}{words}" for name, words in facts.items() if words]


def look_line(look: Look) -> str:
    """All facts in one line."""
    facts = _facts(look, bar=False).items()
    parts = [_IN_LINE.get(name, "{}").format(words) for name, words in facts if words]
    return "; ".join([status_words(look.status), *parts])


def _facts(look: Look, bar: bool = True) -> dict[str, str]:
    """The facts in words; empty where nothing is known."""
    return {
        "steps": _steps(look, bar),
        "pairs": _pairs(look),
        "rate": _rate(look),
        "disk": _disk(look),
        "trajectories": trajectories_words(look.num_ended, look.num_failed),
        "stalled": "" if look.stalled is None else f"{look.stalled:.1%}",
        "commit": _commit(look),
    }


def duration(seconds: float) -> str:
    """Such as ``3 h 12 min`` or ``8 s``: the two greatest units that say something."""
    whole = max(round(seconds), 0)
    for (unit, name), (smaller, lower) in pairwise(_UNITS):
        if whole >= unit:
            rest = whole % unit // smaller
            return f"{whole // unit} {name}" + (f" {rest} {lower}" if rest else "")
    return f"{whole} s"


def _steps(look: Look, bar: bool = True) -> str:
    words = f"{look.num_steps:,}"
    if look.max_steps is None or look.is_complete:
        return words
    share = min(look.num_steps / look.max_steps, 1.0)
    done = round(share * _BAR)
    drawn = f"  [{'#' * done}{'-' * (_BAR - done)}]" if bar else ""
    left = look.left_seconds
    when = "" if left is None else f", {duration(left)} left"
    return f"{words} of {look.max_steps:,}{drawn} {share:.0%}{when}"


def _pairs(look: Look) -> str:
    pairs = look.num_steps * look.num_envs
    share = f", {look.num_valid / pairs:.1%} valid" if pairs else ""
    return f"{pairs:,}{share}"


def _rate(look: Look) -> str:
    now, overall = (
        "-" if rate is None else f"{rate * look.num_envs:,.0f}"
        for rate in (look.rate, look.overall)
    )
    if look.is_complete:
        return "" if look.overall is None else f"{overall} pairs/s overall"
    return f"{now} pairs/s now, {overall} overall"


def _disk(look: Look) -> str:
    words, free = f"{size_of(look.stored_nbytes)} used", look.free_nbytes
    coming = None if look.is_complete else look.nbytes_at_end
    if coming is not None:
        words += f", {size_of(coming)} to come"
    if free is not None:
        words += f", {size_of(free)} free"
        words += ": NOT ENOUGH" if coming is not None and coming > free else ""
    return words


def _commit(look: Look) -> str:
    """When the last commit was seen; empty for a complete store."""
    if look.is_complete:
        return ""
    ago = duration(look.since_commit)
    return f"{ago} ago" if look.saw_commit else f"none in the {ago} of this watch"
