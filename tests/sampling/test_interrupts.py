"""Ctrl-C between any two instructions: the loader goes on as if it had not been interrupted."""

from __future__ import annotations

import os
import threading
from itertools import islice

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed, which a loader needs")

from mosaic_collect import BatchLoader  # noqa: E402
from tests.durability.interrupts import Interrupter, below  # noqa: E402
from tests.helpers import wait_until  # noqa: E402
from tests.sampling.common import numbered, numbers, tile_mb  # noqa: E402

pytestmark = pytest.mark.usefixtures("small_chunks")
FILES = below("sampling")
EVERY = int(os.environ.get("MOSAIC_COLLECT_EVERY", "0"))


def work(loader: BatchLoader) -> None:
    """All that a consumer does: iterations that end and that do not, states, looks."""
    numbers(islice(loader, 4))
    loader.load_state_dict(loader.state_dict())
    iterator = iter(loader)
    numbers(islice(iterator, 9))
    loader.refresh()
    numbers(islice(iterator, 20))
    loader.close()
    numbers(islice(loader, 30))


@pytest.mark.parametrize("mode", ["epochs", "stream"])
def test_an_interrupt_leaves_nothing_behind(store: str, mode: str) -> None:
    numbered(store, 23, 7, 4)
    loader = BatchLoader(store, 6, mode=mode, shuffle_buffer_mb=9 * tile_mb(store), threads=2)
    threads = set(threading.enumerate())
    want = numbers(islice(loader, 27))

    def run(at: int) -> int:
        with pytest.MonkeyPatch.context() as patch:
            # Where a generator is dropped, an interrupt is told of and no more.
            patch.setattr("sys.unraisablehook", lambda told: None)
            try:
                with Interrupter(at, FILES) as interrupter:
                    work(loader)
            except KeyboardInterrupt:
                pass
        loader.set_epoch(0)
        assert np.array_equal(numbers(islice(loader, 27)), want)
        loader.close()
        # A pool that the interrupt left to the garbage collector ends in its own time.
        wait_until(lambda: set(threading.enumerate()) <= threads)
        return interrupter.count

    total = run(10**9)
    assert total > 2000
    for at in range(1, total, EVERY or total // 250):
        run(at)
