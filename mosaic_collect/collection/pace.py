"""How a collection's steps came in over time, as its store tells it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mosaic_collect.recording.writer import TrajectoryWriter

PACE = "pace"
_SECONDS = 10.0  # between entries, at first
_MOST = 256  # entries, some 10 kB of the root document


class Pace:
    """Notes ``[run, UTC seconds, steps, seconds stalled in this run]`` every ten seconds.

    When there are too many entries every second one is dropped, and they come half as often; so a
    run of days and one of minutes take the same room.

    Args:
        max_steps: Of the store in all.
        told: The metadata of the store that is gone on with.
        wall: UTC seconds, read once, for tests; the clock may be set at any time.
        clock: Seconds that only grow, for tests.
    """

    def __init__(
        self,
        max_steps: int,
        told: Mapping[str, Any],
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        before = told.get(PACE)
        entries = before.get("entries") if isinstance(before, Mapping) else None
        self._entries: list[list[float]] = list(entries or [])
        self._run = int(self._entries[-1][0]) + 1 if self._entries else 0
        self._max_steps, self._clock, self._every = max_steps, clock, _SECONDS
        self._noted = clock()
        self._utc = wall() - self._noted
        self._begun: list[float] | None = None

    def note(self, writer: TrajectoryWriter) -> None:
        """Called after each step: tells the store, if it is time."""
        if self._begun is None:
            self._begun = [self._run, self._time(self._noted), writer.num_steps - 1, 0.0]
        now = self._clock()
        if now - self._noted < self._every:
            return
        self._noted = now
        if not self._entries or self._entries[-1][0] != self._run:
            self._entries.append(self._begun)
        stalled = round(writer.stats.stalled_seconds, 2)
        self._entries.append([self._run, self._time(now), writer.num_steps, stalled])
        if len(self._entries) > _MOST:
            self._thin()
        told = {"max_steps": self._max_steps, "entries": self._entries}
        writer.update_metadata(**{PACE: told})

    def _time(self, noted: float) -> float:
        return round(self._utc + noted, 1)

    def _thin(self) -> None:
        """Drop every second entry, but the first and the last of a run."""
        runs = [None, *(entry[0] for entry in self._entries), None]
        self._entries = [
            entry
            for i, entry in enumerate(self._entries)
            if i % 2 == 0 or runs[i] != entry[0] or runs[i + 2] != entry[0]
        ]
        self._every *= 2
