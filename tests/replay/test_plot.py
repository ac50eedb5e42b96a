"""The picture of a replay shows what it is to show."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from mosaic_collect.errors import InputError, MissingDependencyError
from mosaic_collect.look.canvas import check_picture
from mosaic_collect.replay.report import STEP, ReplayReport, plot_replay, replay_figure

TOLERANCE = 1e-5


def report(values: list[float], tolerance: float = TOLERANCE) -> ReplayReport:
    """One row a step; the mean's differences, and sigma's, which are none."""
    off = [value > tolerance for value in values]
    steps = [
        (1, bad, bad - 1, value, 0.0, 0.0, 0.0) for bad, value in zip(off, values, strict=True)
    ]
    return ReplayReport.of(np.array(steps, STEP), tolerance)


def drawn(made: ReplayReport, title: str = "title") -> Any:
    """The picture's axes, after it was really drawn."""
    figure = replay_figure(made, title)
    figure.canvas.draw()
    return figure.axes[0]


def lines(axes: Any) -> dict[str, Any]:
    return {line.get_label(): line for line in axes.get_lines()}


def ticks(axes: Any) -> dict[str, float]:
    return {
        t.get_text(): float(y)
        for t, y in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)
    }


def test_differences_and_tolerance_on_a_logarithmic_axis() -> None:
    axes = drawn(report([1e-7, 2e-6, 3e-8]))
    found = lines(axes)
    assert axes.get_yscale() == "log"
    assert found["largest difference of mean"].get_ydata().tolist() == [1e-7, 2e-6, 3e-8]
    assert found["tolerance 1e-05"].get_ydata()[0] == TOLERANCE
    assert axes.get_xlabel() == "step"
    assert axes.get_ylabel() == "absolute difference, in units of the actions"
    assert axes.get_title(loc="left") == "title"
    assert not [label for label in found if "rows off" in label]


def test_equal_steps_stand_on_a_line_of_their_own() -> None:
    axes = drawn(report([0.0, 1e-7, 0.0]))
    sigma = lines(axes)["largest difference of sigma"].get_ydata()
    assert set(sigma) == {ticks(axes)["equal"]}
    assert ticks(axes)["equal"] < 1e-7
    assert axes.get_ylim()[0] < ticks(axes)["equal"]


def test_rows_off_are_marked() -> None:
    axes = drawn(report([1e-7, 0.5, 1e-7, 2e-5]))
    marks = lines(axes)["steps with rows off: 2"]
    assert marks.get_xdata().tolist() == [1, 3]
    assert marks.get_ydata().tolist() == [0.5, 2e-5]
    assert axes.get_ylim()[1] > 0.5


def test_what_is_not_finite_does_not_vanish() -> None:
    axes = drawn(report([1e-7, np.inf, 1e-3]))
    at = ticks(axes)["not finite"]
    assert lines(axes)["largest difference of mean"].get_ydata()[1] == at
    assert lines(axes)["steps with rows off: 2"].get_ydata()[0] == at
    assert 1e-3 < at < axes.get_ylim()[1]
    assert "not finite" not in ticks(drawn(report([1e-7])))


def test_one_peak_among_very_many_steps_is_marked() -> None:
    values = [1e-7] * 9_999
    values[7_777], values[5] = 1.0, np.inf
    axes = drawn(report(values))
    marks = lines(axes)["bins of 5 steps with rows off: 2"]
    assert marks.get_xdata().tolist() == [7, 7_777]
    assert marks.get_ydata().tolist() == [ticks(axes)["not finite"], 1.0]
    assert axes.get_xlabel() == "step (the largest of each 5 steps)"
    curve = lines(axes)["largest difference of mean"]
    assert len(curve.get_xdata()) == 2000
    assert curve.get_ydata()[-1] == 1e-7


def test_a_step_without_valid_rows_leaves_a_gap() -> None:
    made = report([1e-7, 2e-7, 1e-7])
    made.steps["largest_mean"][1] = np.nan
    curve = lines(drawn(made))["largest difference of mean"].get_ydata()
    assert np.isnan(curve).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("steps", "bins"), [(1999, 1999), (2000, 2000), (2001, 1001), (4001, 1334)]
)
def test_at_most_2000_points_are_drawn(steps: int, bins: int) -> None:
    curve = lines(replay_figure(report([0.0] * steps), "").axes[0])["largest difference of mean"]
    assert len(curve.get_xdata()) == bins


@pytest.mark.parametrize("values", [[], [0.0], [np.inf], [1e-30, 1e30], [np.inf, 0.0]])
@pytest.mark.parametrize("tolerance", [0.0, 1e-5])
def test_edges_are_drawn(values: list[float], tolerance: float) -> None:
    axes = drawn(report(values, tolerance))
    low, high = axes.get_ylim()
    shown = np.concatenate([line.get_ydata() for line in axes.get_lines()])
    assert ((low < shown) & (shown < high)).all()
    assert len(axes.get_yticks()) <= 13


@pytest.mark.parametrize("ending", ["png", "svg", "pdf", "PNG"])
def test_saved(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"replay.{ending}"
    plot_replay(report([1e-7, 0.5]), "costs $5 and _more_ $", path)
    assert os.path.getsize(path) > 1000


@pytest.mark.parametrize("name", ["replay", "replay.txt", "none/replay.png"])
def test_a_picture_that_cannot_be_saved_is_refused_before_the_work(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(InputError, match="plot: expected"):
        check_picture(tmp_path / name)


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"mosaic-collect\[plot\]"):
        check_picture(tmp_path / "replay.png")
