"""The timeline's cells and shares against the rows."""

from __future__ import annotations

import numpy as np
import pytest

from mosaic_collect import TrajectoryDataset
from mosaic_collect.look.charts import (
    ENDED,
    ENDED2,
    FAILED,
    INTERRUPTED,
    INVALID,
    OPEN,
    Timeline,
)
from tests import helpers


@pytest.mark.parametrize("most_bins", [1, 7, 13, 60, 600])
@pytest.mark.parametrize("most_envs", [1, 4, 64])
def test_cells_are_the_worst_of_their_rows(
    dataset: TrajectoryDataset, most_bins: int, most_envs: int
) -> None:
    timeline = Timeline.of(dataset, most_envs, most_bins)
    assert len(timeline.edges) - 1 <= most_bins
    assert len(timeline.envs) == min(most_envs, dataset.num_envs)
    ids, mask = dataset.read("trajectory_id"), dataset.read("valid_mask")
    ends = {t.id: t.end for t in dataset.trajectories}
    bins = list(zip(timeline.edges[:-1], timeline.edges[1:], strict=True))
    for i, env in enumerate(timeline.envs):
        for j, (first, stop) in enumerate(bins):
            kinds = {ends[number] for number in ids[first:stop, env].tolist()}
            want = {ENDED, ENDED2}
            want = {OPEN} if "open" in kinds else want
            want = {INTERRUPTED} if "interrupted" in kinds else want
            want = {FAILED} if "failed" in kinds else want
            want = want if mask[first:stop, env].any() else {INVALID}
            assert timeline.cells[i, j] in want
    failed = np.vectorize(lambda number: ends[number] == "failed")(ids)
    for j, (first, stop) in enumerate(bins):
        assert timeline.valid[j] == pytest.approx(mask[first:stop].mean())
        assert timeline.failed[j] == pytest.approx(failed[first:stop].mean())
    assert timeline.runs == (30,)


def test_neighbours_differ_in_shade(dataset: TrajectoryDataset) -> None:
    timeline, ended = Timeline.of(dataset), dataset.where(end="ended")
    begins = {(t.env, t.first_step): t for t in ended}
    pairs = [(a, begins[at]) for a in ended if (at := (a.env, a.last_step + 1)) in begins]
    assert pairs
    for a, b in pairs:
        shades = {timeline.cells[a.env, a.last_step], timeline.cells[b.env, b.first_step]}
        assert shades == {ENDED, ENDED2}


def test_no_steps(store: str) -> None:
    timeline = Timeline.of(helpers.record(store, 0))
    assert timeline.cells.shape == (4, 0)
