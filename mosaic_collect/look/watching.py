"""A store that is being written, seen from outside by its root document, again and again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from mosaic_collect.look.pace import told_pace
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.trajectories import failed_in
from mosaic_collect.store.blobs import Version
from mosaic_collect.store.metadata import COMPLETE
from mosaic_collect.store.view import StoreView

_LATE = 8  # commits that the rate of late is of


@dataclass(frozen=True, kw_only=True)
class Look:
    """One look.

    Attributes:
        seconds: When, by a clock that only goes forward.
        status: ``collecting`` or ``complete``.
        num_steps: Committed steps.
        num_envs: Environments.
        num_valid: Valid pairs.
        num_trajectories: Trajectories that ended.
        num_failed: Of those, the ones that failed; None if the store does not say.
        stored_nbytes: Of its shards.
        free_nbytes: Room left on its medium; None if it does not say.
        rate: Steps a second of late; None as long as nothing was added.
        overall: Steps a second of the whole run; None if its begin is not known.
        max_steps: Steps it is to have; None: not told.
        stalled: Share of time stalled, as the collection tells it; None if it does not.
        since_commit: Seconds since the last commit was seen, or since the first look.
        saw_commit: Whether one was seen.
    """

    seconds: float
    status: str
    num_steps: int
    num_envs: int
    num_valid: int
    num_trajectories: int
    num_failed: int | None
    stored_nbytes: int
    free_nbytes: int | None
    rate: float | None
    overall: float | None
    max_steps: int | None
    stalled: float | None
    since_commit: float
    saw_commit: bool

    @property
    def is_complete(self) -> bool:
        """Whether nothing more will come."""
        return self.status == COMPLETE

    @property
    def left_seconds(self) -> float | None:
        """Until ``max_steps``, at the rate of late; None if not to be known."""
        if self.max_steps is None or not self.rate:
            return None
        return max(self.max_steps - self.num_steps, 0) / self.rate

    @property
    def nbytes_at_end(self) -> float | None:
        """Bytes that are still to come until ``max_steps``, as those so far."""
        if self.max_steps is None or not self.num_steps:
            return None
        steps = max(self.max_steps - self.num_steps, 0)
        return self.stored_nbytes / self.num_steps * steps


class Watcher:
    """Looks at a store; reads of each new block no more than its ends, and never disturbs a writer.

    Args:
        dataset: The store.
        max_steps: Steps it is to have; None: what it tells.
        clock: Seconds that only go forward; for tests.
        wall: UTC seconds; for tests.

    Raises:
        StoreError: As ``TrajectoryDataset``'s.
    """

    def __init__(
        self,
        dataset: TrajectoryDataset,
        max_steps: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._dataset, self._max_steps = dataset, max_steps
        self._clock, self._wall = clock, wall
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
            StoreError: It is gone or damaged.
        """
        self._dataset.refresh()
        now, data = self._clock(), self._dataset
        if not self._commits or self._commits[-1][1] != data.num_steps:
            if self._commits:
                self._committed = self._wall()
            self._commits = [*self._commits[-_LATE:], (now, data.num_steps)]
        pace = told_pace(data.metadata)
        told = pace.max_steps if pace is not None else None
        stalls = None if pace is None or not len(pace.stalled) else pace.stalled_share
        born = data.num_envs > 0
        failed = self._count_failed(data.view) if born else None
        stored = self._stored(data.view) if born else 0
        self._open = max(data.state.num_blocks - 2, 0) if born else 0
        return Look(
            seconds=now,
            status=data.status,
            num_steps=data.num_steps,
            num_envs=data.num_envs,
            num_valid=data.num_valid,
            num_trajectories=data.num_trajectories,
            num_failed=failed,
            stored_nbytes=stored,
            free_nbytes=data.view.blobs.free_nbytes() if born else None,
            rate=self._rate(now),
            overall=self._overall() if born else None,
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

    def _overall(self) -> float | None:
        """Of the newest run, as its collection tells, or since it began until the last commit."""
        data, pace = self._dataset, told_pace(self._dataset.metadata)
        if pace is not None and len(pace.run):
            mine = pace.run == pace.run[-1]
            seconds = float(pace.end[mine].max() - pace.begin[mine].min())
            return float(pace.steps[mine].sum()) / seconds
        if self._committed is None or not data.state.runs:
            return None
        run = data.state.runs[-1]
        seconds = self._committed - datetime.fromisoformat(run.started).timestamp()
        return (data.num_steps - run.first_step) / seconds if seconds > 0 else None

    def _stored(self, view: StoreView) -> int:
        """Bytes of shards, each file once.

        The first look lists them, for asking of each takes a request in object storage; later ones
        ask of those that may be new.
        """
        found: dict[object, int] = {}
        for name in view.grids:
            known = self._versions.setdefault(name, {})
            listed = dict(enumerate(view.versions(name))) if not known else {}
            whole = len(listed) == view.state.num_blocks
            for block in range(0 if whole else self._open, view.state.num_blocks):
                known[block] = listed[block] if whole else view.find(name, block)
                if known[block] is None:
                    break  # a state may claim any number of blocks behind one that is missing
            for block, version in known.items():
                if version is not None:
                    key = version.tag if view.blobs.links else (name, block)
                    found[key] = version.nbytes
        return sum(found.values())

    def _count_failed(self, view: StoreView) -> int | None:
        if not view.state.schema.has_ends:
            return None
        for block in range(view.state.num_blocks):
            if block >= self._open or block not in self._failed:
                self._failed[block] = failed_in(view, block)
        return sum(self._failed.values())
