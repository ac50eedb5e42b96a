"""A small cluster of real processes, and one of its workers killed."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator

import pytest

from mosaic_collect import DaskEngine


@pytest.fixture(scope="package", autouse=True)
def needs_distributed() -> None:
    """Nothing here can be tested without it."""
    pytest.importorskip("distributed", reason="distributed is not installed")


@pytest.fixture(scope="package")
def engine(needs_distributed: None) -> Iterator[DaskEngine]:
    """Two workers."""
    with DaskEngine(workers=2) as engine:
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # of the dead
        yield engine


class Killing:
    """A ``progress`` that kills a worker, with no chance to say goodbye, once something is done.

    Attributes:
        done: What was done by then; None: nothing yet.
    """

    def __init__(self, victim: int) -> None:
        self._victim, self.done = victim, 0

    def __call__(self, done: int) -> None:
        if not self.done and done:
            self.done = done
            os.kill(self._victim, signal.SIGKILL)


@pytest.fixture
def mortal() -> Iterator[DaskEngine]:
    """Two workers of one test's own, which it may kill."""
    with DaskEngine(workers=2) as engine:
        yield engine


@pytest.fixture
def killing(mortal: DaskEngine) -> Iterator[Killing]:
    """One of the two workers dies."""
    killing = Killing(next(iter(mortal._client.run(os.getpid).values())))
    yield killing
    assert killing.done, "nothing was told, and nobody killed"
