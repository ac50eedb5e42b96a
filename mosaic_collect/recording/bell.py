"""How threads wait for each other, and how a failure of any of them reaches the caller.

The caller's thread may be interrupted anywhere, so what it shares with the others are C-level
queues and single assignments, never a Python lock that an interrupt could leave held.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

from mosaic_collect.errors import StoreLostError, WriteError

_log = logging.getLogger(__name__)
REPORT_SECONDS = 30.0


class Bell:
    """Rung whenever something changed that somebody may wait for.

    Args:
        committed_steps: As the attribute, to begin with.
        explain: Gives what a failure comes from, if more is known by the time it is told.

    Attributes:
        committed_steps: Of the store, as last committed.
        stopped: Nothing more is to be written: it failed, or is being closed.
        threads: That must live while somebody waits.
    """

    def __init__(
        self, committed_steps: int, explain: Callable[[BaseException], BaseException]
    ) -> None:
        self.committed_steps, self.stopped, self._explain = committed_steps, False, explain
        self.threads: list[threading.Thread] = []
        self._failure: BaseException | None = None
        self._failing = threading.Lock()
        self._at_work: dict[str, str] = {}
        self._changes: SimpleQueue[None] = SimpleQueue()

    def ring(self) -> None:
        """Wake whoever waits; one note is enough, it is taken before the state is looked at."""
        if self._changes.empty():
            self._changes.put(None)

    def fail(self, error: BaseException) -> None:
        """Stop everything; the first failure is the one that is told."""
        with self._failing:
            self._failure = self._failure or error
        self.stopped = True
        self.ring()

    def check(self) -> None:
        """Raise the failure, if there is one.

        Raises:
            StoreLostError: What was opened is not what lies there any more.
            WriteError: Anything else, chained to its cause.
        """
        failure = self._failure and self._explain(self._failure)
        if isinstance(failure, StoreLostError):
            raise StoreLostError(
                f"{failure}; nothing that lies there was touched. Of this writer's steps the first "
                f"{self.committed_steps} of the store were committed to what it opened"
            ) from failure
        if failure is not None:
            message = f"writing failed: {failure}; the first {self.committed_steps} steps are safe"
            message += "; mend the cause and go on with resume=True"
            raise WriteError.because(message, failure) from failure

    def wait(self, ready: Callable[[], bool], what: str) -> None:
        """Return when it is so; logged every ``REPORT_SECONDS``.

        Raises:
            WriteError: Something failed.
        """
        start = time.monotonic()
        while not ready():
            self.check()
            try:
                self._changes.get(timeout=REPORT_SECONDS)
            except Empty:
                self._report(what, start)
                self._require_alive()

    def join(self, thread: threading.Thread, patience: float | None) -> bool:
        """Whether the thread ended within so many seconds; None: however long it takes."""
        start = time.monotonic()
        while patience is None and thread.is_alive():
            thread.join(REPORT_SECONDS)
            if thread.is_alive():
                self._report("the writing threads to end", start)
        thread.join(patience)
        return not thread.is_alive()

    def at(self, who: str, what: str) -> None:
        """Note what a thread is doing, for who waits for it."""
        self._at_work[who] = what

    def _report(self, what: str, since: float) -> None:
        seconds = time.monotonic() - since
        work = ", ".join(f"{who} at {at}" for who, at in self._at_work.items())
        _log.warning("waiting for %s since %.0f s: %s", what, seconds, work)

    def _require_alive(self) -> None:
        dead = [t.name for t in self.threads if not t.is_alive()]
        if dead:
            self.fail(RuntimeError(f"the thread {dead[0]} died at {self._at_work}"))
