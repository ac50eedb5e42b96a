"""Ending well when told to: termination signals as an ordinary exception.

A library must not take signals from its host, so nothing happens at import. A program that wants
its ``with`` blocks to be left properly says so:

    with termination_as_exit(), TrajectoryWriter(...) as writer:
        ...

SIGTERM (a job scheduler, ``kill``, ``docker stop``), SIGHUP (a lost terminal), and SIGUSR1 and
SIGUSR2 (a scheduler's warning that the job's time is nearly up) then raise
``SystemExit`` in the main thread, just as Ctrl-C raises ``KeyboardInterrupt``: the writer commits
what was added and leaves the store resumable. A second signal interrupts that commit; what was
committed before stays.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from mosaic_collect.errors import InputError

SIGNALS = (signal.SIGTERM, signal.SIGHUP)
#: Sent some time before the end by schedulers (Slurm's ``--signal=USR1@60``), whose default is to
#: kill at once. Whoever handles one already means something by it, and keeps it.
WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
#: All that a program, a scheduler or a launcher may handle.
HANDLED = (signal.SIGINT, *SIGNALS, *WARNINGS)

#: Termination contexts that are entered, the innermost last.
_entered: list[Termination] = []


class Termination:
    """Signals received inside ``termination_as_exit``.

    Attributes:
        signal: Number of the last signal received; None if there was none.
    """

    signal: int | None = None

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        raise SystemExit(128 + number)  # the status that a shell shows for it


@contextmanager
def termination_as_exit(signals: Iterable[int] | None = None) -> Iterator[Termination]:
    """Raise ``SystemExit(128 + number)`` in the main thread when a termination signal comes.

    A signal that is ignored stays so (``nohup``), and the handlers from before are put back at the
    end. Python loses an exception that is raised inside a finalizer or a callback of C code: check
    ``Termination.signal`` at each step of a loop of your own, as this package's loops do.

    Args:
        signals: Signal numbers; None: SIGTERM, SIGHUP, and SIGUSR1 and SIGUSR2 unless something of
            the program handles them.

    Raises:
        InputError: Called in another thread, where Python lets nobody handle signals.
    """
    if threading.current_thread() is not threading.main_thread():
        raise InputError("termination_as_exit: expected to be called in the main thread")
    termination, before = Termination(), {}
    free = [*SIGNALS, *(n for n in WARNINGS if signal.getsignal(n) == signal.SIG_DFL)]
    try:
        _entered.append(termination)
        for number in free if signals is None else signals:
            # None: a handler that C code put there, which Python could not put back.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, termination._receive)
        yield termination
    finally:
        _entered.remove(termination)
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_if_terminated() -> None:
    """Raise ``SystemExit`` if a signal came inside ``termination_as_exit`` and its exit got lost.

    In other threads this does nothing.
    """
    if threading.current_thread() is threading.main_thread():
        for termination in _entered:
            if termination.signal is not None:
                raise SystemExit(128 + termination.signal)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Put the program's signal handlers back that something inside replaces.

    Launchers of simulators install handlers that end the process without a commit.
    """
    before = {number: signal.getsignal(number) for number in HANDLED}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if callable(handler):
                    signal.signal(number, handler)
