"""One thread at a time: a writer's calls are not meant for two, and say so."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from mosaic_collect.errors import BusyError


class Alone:
    """Entered by one thread at a time, which may enter it again; others are refused, not kept.

    An interrupt may leave it entered. Then the thread that was interrupted, the main one, can go on
    with the writer and end it, and only others are still refused.

    Args:
        what: For errors.
    """

    def __init__(self, what: str) -> None:
        self._what, self._pid = what, os.getpid()
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self.enter()

    def __exit__(self, *exc: object) -> None:
        self.leave()

    def enter(self, seconds: float = 0.0) -> None:
        """Enter, and wait so long at most for who is inside.

        Raises:
            BusyError: Another thread is.
        """
        # A forked child may have the lock of a thread that it has not.
        if os.getpid() == self._pid and not self._lock.acquire(timeout=seconds):
            raise BusyError(
                f"{self._what}: another thread is in a call of this writer; give each thread a "
                "writer of its own, or let them take turns"
            )

    def leave(self) -> None:
        """Let others in."""
        if os.getpid() == self._pid:
            self._lock.release()


_Method = TypeVar("_Method", bound=Callable[..., Any])


def one_caller(method: _Method) -> _Method:
    """A method that enters its object's ``_alone`` first."""

    @functools.wraps(method)
    def alone(self: Any, /, *args: Any, **options: Any) -> Any:
        with self._alone:
            return method(self, *args, **options)

    return alone  # type: ignore[return-value]  # of the same signature
