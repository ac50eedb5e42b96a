"""The ledger of motions says what the rows say, wherever a run is interrupted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from mosaic_collect import TrajectoryDataset  # noqa: E402
from mosaic_collect.collection.motions import MotionQueue  # noqa: E402
from mosaic_collect.collection.record import record  # noqa: E402
from tests.collection.rank_worker import QueuedToy, QueuedToyTracker, toy_motions  # noqa: E402
from tests.collection.test_origin import MJLAB  # noqa: E402
from tests.collection.toys import ToyPolicy  # noqa: E402
from tests.durability.interrupts import Interrupter, below  # noqa: E402

MOTIONS = 4
#: Where an interrupt may tear ends from what is said of them.
TORN = below("collection/rollout.py", "collection/trackers.py", "collection/motions.py")


def recorded(store: str, interrupter: Interrupter | None = None) -> None:
    """Each motion once, in two environments; goes on if the store is there."""
    known = TrajectoryDataset(store) if Path(store).exists() else None
    queue = MotionQueue(toy_motions(MOTIONS), 1, known.metadata if known else {})
    simulation = QueuedToy(2, queue)
    tracker = QueuedToyTracker(simulation)
    arguments = (simulation, ToyPolicy(), tracker, store, MJLAB, 100, known)
    if interrupter is None:
        record(*arguments, buffer_mb=1, commit_seconds=None)
    else:
        with interrupter:
            record(*arguments, buffer_mb=1, commit_seconds=None)


def ended(store: str) -> list[int]:
    """Trajectories of each motion that reached its end, by the rows."""
    found = Counter(t.motion for t in TrajectoryDataset(store).where(end="ended", min_valid=1))
    return [found[motion] for motion in range(MOTIONS)]


def test_an_interrupt_loses_no_motion_and_records_none_twice(tmp_path: Path) -> None:
    counted = Interrupter(10**9, TORN)
    recorded(str(tmp_path / "whole.zarr"), counted)
    assert counted.count > 1000
    for at in range(1, counted.count, counted.count // 60):
        store = str(tmp_path / f"{at}.zarr")
        try:
            recorded(store, Interrupter(at, TORN))
        except KeyboardInterrupt:
            if Path(store).exists():
                told = TrajectoryDataset(store).metadata["motion_counts"]
                assert ended(store) == told["completed"]
        recorded(store)
        assert ended(store) == [1] * MOTIONS
