"""The ledger of motions says what the rows say, wherever a run is interrupted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mosaic_collect import TrajectoryDataset  # noqa: E402
from mosaic_collect.collection.motion_queue import MotionQueue  # noqa: E402
from mosaic_collect.collection.ranks import RankStore  # noqa: E402
from mosaic_collect.collection.record import record  # noqa: E402
from mosaic_collect.reading.verify import verify_store  # noqa: E402
from tests.collection.rank_worker import QueuedToy, toy_motions  # noqa: E402
from tests.collection.toys import ORIGIN, ToyPolicy  # noqa: E402
from tests.durability.interrupts import Interrupter, below  # noqa: E402

MOTIONS = 4
#: Where an interrupt may tear ends from what is said of them.
TORN = below("collection/record.py", "collection/protocols.py", "collection/motions.py")


def recorded(store: str, interrupter: Interrupter | None = None) -> None:
    """Each motion once, in two environments; goes on if the store is there."""
    known = TrajectoryDataset(store) if Path(store).exists() else None
    queue = MotionQueue(toy_motions(MOTIONS), 1, known.metadata if known else {})
    simulation = QueuedToy(2, queue)
    arguments = (simulation, ToyPolicy(), store, ORIGIN, 100, known)
    if interrupter is None:
        record(*arguments, buffer_mb=1, commit_seconds=None)
    else:
        with interrupter:
            record(*arguments, buffer_mb=1, commit_seconds=None)


def ended(store: str) -> list[int]:
    """Trajectories of each motion that reached its end, by the rows."""
    found = Counter(t.motion for t in TrajectoryDataset(store).where(end="truncated", min_valid=1))
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


def test_who_idles_before_its_first_motion_has_a_trajectory_of_its_own(tmp_path: Path) -> None:
    """A rank takes no more than its share at first: more environments than that wait."""
    told = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
    seat = RankStore.of(tmp_path / "ranks", True, told)
    queue = seat.queue(toy_motions(MOTIONS), 1, {}, 4)
    assert seat.begins(queue)
    simulation = QueuedToy(4, queue)
    record(
        *(simulation, ToyPolicy(), seat.whole, ORIGIN, 100),
        buffer_mb=1,
        **seat.writer_options,
    )
    dataset = TrajectoryDataset(tmp_path / "ranks")
    valid, motions = dataset.read("valid_mask"), dataset.read("motion_id")
    assert not valid[0].all()
    assert (~valid[:-1] & valid[1:]).any(), "somebody idled, and was at work later"
    for trajectory in dataset.trajectories:
        rows = trajectory.steps, trajectory.env
        assert len(set(valid[rows].tolist())) == 1
        assert not valid[rows].any() or set(motions[rows].tolist()) == {trajectory.motion}
    assert [len(dataset.where(motion=m, min_valid=1)) for m in range(MOTIONS)] == [1] * MOTIONS
    assert np.count_nonzero(valid) == sum(m.frames - 1 for m in toy_motions(MOTIONS))
    assert verify_store(tmp_path / "ranks").ok
