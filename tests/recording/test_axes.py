"""Fields of several axes on their way into a store, their chunks cut in the middle of a block."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from mosaic_collect import TrajectoryDataset, TrajectoryWriter
from mosaic_collect.look.inspect import summarize, summary_text
from mosaic_collect.reading.verify import verify_store
from mosaic_collect.recording import budget
from tests.export import stores
from tests.helpers import CAMERA, add, assert_holds, open_writer, rows

N, S = 5, 6


@pytest.fixture(autouse=True)
def two_images_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mosaic_collect.store.grid.CHUNK_NBYTES", 80)


def camera_writer(store: str, **options: Any) -> TrajectoryWriter:
    return open_writer(store, N, CAMERA, block_steps=S, **options)


def check(store: str, steps: int) -> TrajectoryDataset:
    dataset = TrajectoryDataset(store)
    assert dataset.state.chunk_steps == {"rgb": 3, "depth": 2, "far": 2}
    assert dataset.state.block_steps == S
    assert_holds(dataset, range(steps))
    report = verify_store(store)
    assert report.ok, report.problems
    return dataset


@pytest.mark.parametrize("encode_in", ["threads", "process"])
@pytest.mark.parametrize("compressor", ["auto", "lz4", "none"])
def test_every_value_is_kept(store: str, encode_in: str, compressor: str) -> None:
    """Commits and resumes fall into the middle of chunks; the last run has full blocks."""
    steps = iter(range(100))
    for run, count in enumerate((1, 2, 5, 6, 1, 14)):
        options = {"encode_in": encode_in, "compressor": compressor, "resume": run > 0}
        with camera_writer(store, **options) as writer:
            for _ in range(count):
                add(writer, next(steps))
                if count < 14:
                    writer.commit()
    check(store, 29)


def test_a_pair_of_many_values_counts_once_as_nonfinite(store: str) -> None:
    with camera_writer(store) as writer:
        for step in range(8):
            given = rows(step, N, CAMERA)
            if step in (1, 7):
                given["depth"][2, :, 1:] = np.nan
                given["depth"][3, 0, 0] = np.inf
            writer.add_step(**given)
    assert TrajectoryDataset(store).state.nonfinite["depth"] == 4
    assert verify_store(store).ok


def test_a_stand_in_shares_the_file(store: str) -> None:
    with camera_writer(store) as writer:
        for step in range(2 * S + 1):
            given = rows(step, N, CAMERA)
            given["far"] = given["depth"].copy()
            given["far"][2, 1, 4] += step == S + 4  # within the second block's last chunk
            writer.add_step(**given)
    shared = [
        os.path.samefile(*(os.path.join(store, n, f"c.{b}.0.0.0") for n in ("depth", "far")))
        for b in range(3)
    ]
    assert shared == [True, False, False]
    assert verify_store(store).ok


def test_the_ring_counts_every_value(store: str) -> None:
    pair = 4 * 3 * 2 + 2 * (4 * 2 * 5) + 4 + 4 * 3 + 1 + 8
    assert CAMERA.pair_nbytes == pair
    grids = budget.plan_ring(CAMERA, N, budget.Budget(3 * 7 * pair * N))
    assert grids["rgb"].block_steps == 6, "seven would leave chunks of a single step"
    assert budget.block_nbytes(grids) <= 7 * pair * N


def test_inspect_tells_the_axes(store: str) -> None:
    with camera_writer(store) as writer:
        add(writer, *range(3))
    summary = summarize(store)
    (found,) = [f for f in summary.fields if f.name == "rgb"]
    assert found.shape == (3, N, 4, 3, 2)
    assert found.raw_nbytes == 3 * N * 24
    assert "3 x 5 x 4 x 3 x 2" in summary_text(summary)


def test_a_damaged_chunk_is_told_with_its_steps(store: str) -> None:
    with camera_writer(store) as writer:
        add(writer, *range(8))
    path = os.path.join(store, "rgb", "c.0.0.0.0.0")
    with TrajectoryDataset(store).view.parts[0].shard("rgb", 0) as shard:
        offset = sum(map(shard.stored_nbytes, range(N + 1)))
    stores.flip(path, offset)
    (problem,) = verify_store(store).problems
    assert f"rgb, block 0, chunk {N + 1}" in problem
    assert problem.endswith("(steps 3..5, envs 1..1)")
