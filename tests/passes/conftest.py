"""A small cluster of real processes, and one of its workers killed."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("distributed", reason="distributed is not installed")

from mosaic_collect import DaskEngine


@pytest.fixture(scope="session")
def engine() -> Iterator[DaskEngine]:
    """Two workers; those that tests kill are started again."""
    with DaskEngine(workers=2) as engine:
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # of the dead
        yield engine


@pytest.fixture
def killing(engine: DaskEngine) -> Iterator[Callable[[int], None]]:
    """A ``progress`` that kills a worker, with no chance to say goodbye, once something is done."""
    engine._client.wait_for_workers(2, timeout=60)
    victims = [next(iter(engine._client.run(os.getpid).values()))]

    def progress(done: int) -> None:
        while victims:
            os.kill(victims.pop(), signal.SIGKILL)

    yield progress
    assert not victims, "nothing was told, and nobody killed"
    engine._client.wait_for_workers(2, timeout=60)
