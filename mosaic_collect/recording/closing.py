"""How a writer ends: by its caller, an interrupt, a takeover, or the interpreter's exit."""

from __future__ import annotations

import atexit
import logging
import os
import weakref

from mosaic_collect.errors import ClosedError
from mosaic_collect.recording.alone import Alone, one_caller
from mosaic_collect.recording.pipeline import Pipeline
from mosaic_collect.recording.steps import Steps
from mosaic_collect.store.blobs import Blobs
from mosaic_collect.store.metadata import COMPLETE

_log = logging.getLogger(__name__)
_INTERRUPTS = (KeyboardInterrupt, SystemExit)
_INTERRUPTED_SECONDS = 0.5
_BUSY_SECONDS = 10.0
#: Of the writers of this process that began.
_begun: weakref.WeakSet[Closing] = weakref.WeakSet()


class Closing:
    """The end of one writer, in the process that opened it.

    Args:
        blobs: Its store.
        steps: To be committed first.
        pipeline: To be ended then.
        alone: What the writer's calls enter.

    Attributes:
        closed: Whether nothing can be added any more.
    """

    def __init__(self, blobs: Blobs, steps: Steps, pipeline: Pipeline, alone: Alone) -> None:
        self._blobs, self._path = blobs, blobs.address
        self._steps, self._pipeline, self._alone = steps, pipeline, alone
        self._pid, self.closed, self._shut_down = os.getpid(), False, False

    def begin(self) -> None:
        """From now on the interpreter's exit closes it, and so does a takeover."""
        atexit.register(self._at_exit)
        _begun.add(self)

    def require_open(self) -> None:
        """Refuse a call that comes too late, or from a fork of the process.

        Raises:
            ClosedError: It does.
        """
        if self.closed:
            raise ClosedError(f"the writer of {self._path} is closed; resume=True opens another")
        if os.getpid() != self._pid:
            raise ClosedError(f"the writer of {self._path} belongs to process {self._pid}")

    @one_caller
    def close(self, complete: bool, interrupts: int = 1) -> None:
        """As ``TrajectoryWriter.close``.

        Args:
            complete: Whether the collection is finished.
            interrupts: How many wait until everything is committed; the next one does not.
        """
        if self._shut_down or os.getpid() != self._pid:
            return
        came, patience = None, None
        # Only a commit that was begun is given up: an interrupt outside this try leaves the writer
        # open, for another close or the interpreter's exit to finish.
        while not self.closed:
            try:
                self._steps.commit(COMPLETE if complete else None, release=True)
                self.closed = True
            except _INTERRUPTS as interrupt:
                came = interrupt
                if not interrupts:
                    patience, self.closed = _INTERRUPTED_SECONDS, True
                else:
                    interrupts -= 1
                    _log.warning("%s: committing first; interrupt again to leave", self._path)
            except BaseException:
                self.shut(None)
                raise
        self.shut(patience)
        if came is not None:
            raise came

    def close_after(self, error: BaseException) -> None:
        """Close where an error comes through, and let it: what fails now is told beside it."""
        # Who interrupts the commit that an interrupt caused wants to be gone.
        interrupts = 0 if isinstance(error, _INTERRUPTS) else 1
        try:
            self.close(complete=False, interrupts=interrupts)
        except Exception as failure:  # noqa: BLE001  the caller's goes through, this one beside it
            kind, path = type(error).__name__, self._path
            _log.error("after %s, closing %s failed: %s", kind, path, failure)
            if hasattr(error, "add_note"):
                error.add_note(f"mosaic_collect: closing {path} failed, too: {failure}")

    def shut(self, patience: float | None) -> None:
        """End the threads, whose last one releases the lock; called again, it does the rest.

        Args:
            patience: Seconds to wait for what the threads are at; None: until it is over.
        """
        self.closed = True
        atexit.unregister(self._at_exit)
        if not self._pipeline.close(patience):
            return
        self._steps.give_back()
        self._shut_down = True

    def forget(self) -> None:
        """Nobody closes it: no writer came of it."""
        atexit.unregister(self._at_exit)

    def _at_exit(self) -> None:
        if os.getpid() != self._pid:
            return
        _log.warning("%s was not closed; committing what was added", self._path)
        self._alone.enter(_BUSY_SECONDS)  # a thread that runs on may be in a call
        self.close(complete=False)


def close_others(blobs: Blobs) -> None:
    """Close the writer of this process that is at work on the store, if there is one."""
    place = blobs.place()
    for other in list(_begun):
        if not other.closed and place is not None and other._blobs.place() == place:
            _log.warning("%s: closing the writer that was at work on it", other._path)
            other.close(complete=False)
