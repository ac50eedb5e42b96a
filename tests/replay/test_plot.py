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
from mosaic_collect.replay.plot import plot_replay, replay_figure
from mosaic_collect.replay.report import Differences, Step

TOLERANCE = 1e-5


def differences(values: list[float], most_bins: int = 2000) -> Differences:
    """One row a step; the mean's differences, and sigma's, which are none."""
    made = Differences(len(values), most_bins)
    for step, value in enumerate(values):
        made.add(Step(step, 1, value > TOLERANCE, value, 0.0))
    return made


def drawn(made: Differences, tolerance: float = TOLERANCE, title: str = "title") -> Any:
    """The picture's axes, after it was really drawn."""
    figure = replay_figure(made, tolerance, title)
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
    axes = drawn(differences([1e-7, 2e-6, 3e-8]))
    found = lines(axes)
    assert axes.get_yscale() == "log"
    assert found["largest difference of mean"].get_ydata().tolist() == [1e-7, 2e-6, 3e-8]
    assert found["tolerance 1e-05"].get_ydata()[0] == TOLERANCE
    assert axes.get_xlabel() == "step"
    assert axes.get_ylabel() == "absolute difference, in units of the actions"
    assert axes.get_title(loc="left") == "title"
    assert not [label for label in found if "rows off" in label]


def test_equal_steps_stand_on_a_line_of_their_own() -> None:
    axes = drawn(differences([0.0, 1e-7, 0.0]))
    sigma = lines(axes)["largest difference of sigma"].get_ydata()
    assert set(sigma) == {ticks(axes)["equal"]}
    assert ticks(axes)["equal"] < 1e-7
    assert axes.get_ylim()[0] < ticks(axes)["equal"]


def test_rows_off_are_marked() -> None:
    axes = drawn(differences([1e-7, 0.5, 1e-7, 2e-5]))
    marks = lines(axes)["steps with rows off: 2"]
    assert marks.get_xdata().tolist() == [1, 3]
    assert marks.get_ydata().tolist() == [0.5, 2e-5]
    assert axes.get_ylim()[1] > 0.5


def test_what_is_not_finite_does_not_vanish() -> None:
    axes = drawn(differences([1e-7, np.inf, 1e-3]))
    at = ticks(axes)["not finite"]
    assert lines(axes)["largest difference of mean"].get_ydata()[1] == at
    assert lines(axes)["steps with rows off: 2"].get_ydata()[0] == at
    assert 1e-3 < at < axes.get_ylim()[1]
    assert "not finite" not in ticks(drawn(differences([1e-7])))


def test_one_peak_among_very_many_steps_is_marked() -> None:
    values = [1e-7] * 10_000
    values[7_777] = 1.0
    axes = drawn(differences(values))
    marks = lines(axes)["bins of 5 steps with rows off: 1"]
    assert marks.get_xdata().tolist() == [7_777]
    assert axes.get_xlabel() == "step (the largest of each 5 steps)"
    assert len(lines(axes)["largest difference of mean"].get_xdata()) == 2000


@pytest.mark.parametrize("values", [[], [0.0], [np.inf], [1e-30, 1e30], [np.inf, 0.0]])
@pytest.mark.parametrize("tolerance", [0.0, 1e-5])
def test_edges_are_drawn(values: list[float], tolerance: float) -> None:
    axes = drawn(differences(values), tolerance)
    low, high = axes.get_ylim()
    shown = np.concatenate([line.get_ydata() for line in axes.get_lines()])
    assert ((low < shown) & (shown < high)).all()
    assert len(axes.get_yticks()) <= 13


@pytest.mark.parametrize("ending", ["png", "svg", "pdf", "PNG"])
def test_saved(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"replay.{ending}"
    plot_replay(differences([1e-7, 0.5]), TOLERANCE, "costs $5 and _more_ $", path)
    assert os.path.getsize(path) > 1000


@pytest.mark.parametrize("name", ["replay", "replay.txt", "none/replay.png"])
def test_a_picture_that_cannot_be_saved_is_refused_before_the_work(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(InputError, match="plot: expected"):
        check_picture(tmp_path / name)


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r"mosaic-collect\[plot\]"):
        check_picture(tmp_path / "replay.png")
