"""A collection's pace, by a clock of the test's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from mosaic_collect.collection import record as paces
from mosaic_collect.look.charts import recorded_pace


class Writer:
    """What ``Pace`` needs of one."""

    def __init__(self) -> None:
        self.num_steps, self.metadata = 0, {}
        self.stats = SimpleNamespace(stalled_seconds=0.0)

    def update_metadata(self, **entries: Any) -> None:
        self.metadata.update(entries)


def run(
    seconds: float, steps: int, told: dict[str, Any], start: float = 0.0, back: float = 0.0
) -> Writer:
    """So many steps in so many seconds, half of which are stalls; the clock is set back at each."""
    writer = Writer()
    now = start

    def wall() -> float:
        return now - back * writer.num_steps

    pace = paces.Pace(1000, told, wall=wall, clock=lambda: now - start + 7)
    for _ in range(steps):
        now += seconds / steps
        writer.num_steps += 1
        writer.stats.stalled_seconds = (now - start) / 2
        pace.note(writer)  # type: ignore[arg-type]
    return writer


def test_nothing_of_a_short_run() -> None:
    assert run(9, 50, {}).metadata == {}


def test_rates_and_stalls() -> None:
    first = run(100, 400, {})
    found = recorded_pace(first.metadata)
    assert found is not None
    assert found.max_steps == 1000
    np.testing.assert_allclose(found.rates, 4, rtol=0.05)
    assert found.stalled_share == pytest.approx(0.5, abs=0.01)
    again = run(100, 100, first.metadata, start=500.0)
    both = recorded_pace(again.metadata)
    assert both is not None
    assert set(both.run.tolist()) == {0, 1}
    np.testing.assert_allclose(both.rates[both.run == 1], 1, rtol=0.11)
    assert both.stalled_share == pytest.approx(0.5, abs=0.01)


def test_a_clock_that_is_set_back_changes_no_rate() -> None:
    found = recorded_pace(run(100, 400, {}, start=1e6, back=3600).metadata)
    assert found is not None
    np.testing.assert_allclose(found.rates, 4, rtol=0.05)
    # Between runs, too: what each run tells is its own.
    again = recorded_pace(run(100, 400, run(100, 400, {}, start=1e6).metadata).metadata)
    assert again is not None
    np.testing.assert_allclose(again.rates, 4, rtol=0.05)


def test_it_takes_no_more_room_in_a_long_run() -> None:
    told: dict[str, Any] = {}
    for number in range(3):
        told = run(20_000, 20_000, told, start=number * 30_000.0).metadata
    entries = told["pace"]["entries"]
    assert len(entries) <= paces._MOST + 6
    found = recorded_pace(told)
    assert found is not None
    assert (found.steps.sum(), set(found.run.tolist())) == (
        pytest.approx(60_000, rel=0.03),
        {0, 1, 2},
    )


@pytest.mark.parametrize(
    "told", [{}, {"pace": 3}, {"pace": {}}, {"pace": {"entries": [[1, 2], "x"]}},
             {"pace": {"entries": [[0, 1, 2, 3]]}}, {"pace": {"entries": [[1, 2], [3, 4]]}}]
)  # fmt: skip
def test_what_makes_no_sense_tells_nothing(told: dict[str, Any]) -> None:
    assert recorded_pace(told) is None
