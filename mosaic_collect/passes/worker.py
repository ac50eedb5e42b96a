"""What a worker of a cluster does: pieces of one pass, a batch at a time."""

from __future__ import annotations

import os
import pickle
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

from mosaic_collect.errors import ClusterError, MosaicCollectError
from mosaic_collect.passes.identity import package_identity


class Job:
    """One pass, for the threads of one worker.

    Args:
        identity: Of the package that asks.
        pickled: The function of a piece, and what ``Engine.map`` requires.
    """

    def __init__(self, identity: str, pickled: bytes) -> None:
        self._identity, self._pickled = identity, pickled
        #: Each thread has a function of its own: policies remember what they said last.
        self._own = threading.local()

    def __reduce__(self) -> Any:
        # Whoever gets it from another worker has everything to prove.
        return Job, (self._identity, self._pickled)

    def __call__(self, pieces: Sequence[Any]) -> list[Any]:
        """Do some pieces.

        Raises:
            ClusterError: This process has another copy of the package, or sees other files.
        """
        if not hasattr(self._own, "function"):
            self._own.function = self._admitted()
        return [self._own.function(piece) for piece in pieces]

    def _admitted(self) -> Callable[[Any], Any]:
        mine = package_identity()
        if mine != self._identity:  # before anything of it is unpickled
            raise ClusterError(f"{here()}: expected mosaic_collect {self._identity}, got {mine}")
        function, require = pickle.loads(self._pickled)  # noqa: S301  from this package's other half
        try:
            if require is not None:
                require()
        except (MosaicCollectError, OSError) as error:
            raise ClusterError(
                f"{here()} does not see the files that are to be worked on: they must lie on "
                f"storage that all workers share, under one name: {error}"
            ) from error
        return function  # type: ignore[no-any-return]


def work(job: Job, pieces: Sequence[Any]) -> list[Any]:
    """Do some pieces."""
    return job(pieces)


def here() -> str:
    """This process, for people."""
    return f"worker {socket.gethostname()}, process {os.getpid()}"
