"""The demo, with fewer environments than it has by default."""

from __future__ import annotations

import os
from typing import Any

import pytest

from mosaic_collect import TrajectoryDataset
from mosaic_collect.cli import main
from mosaic_collect.export.compare import verify_export
from mosaic_collect.reading.verify import verify_store
from tests.mjlab import case as mjlab_case

pytestmark = mjlab_case.MARKS


@pytest.mark.skipif(
    "MOSAIC_COLLECT_TEST_SH" in os.environ,
    reason="tests/test_readme.py runs all of scripts/demo.sh",
)
def test_the_demo_proves_itself(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(tmp_path / "demo")
    assert main(["demo", "--output", output, "--num-envs", "3", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    store, npy = f"{output}/g1.zarr", f"{output}/g1.npy"
    assert "all proven" in out
    assert "NO" not in out.split("all proven", 1)[1].splitlines()[0]
    for words in ("broken off, as by Ctrl-C: 30 steps committed", "Try next", store, npy):
        assert words in out

    dataset = TrajectoryDataset(store)
    assert dataset.status == "complete"
    assert len(dataset.state.runs) == 2
    assert dataset.schema["student_observations"].dim == 770
    counts = dataset.metadata["motion_counts"]
    assert sum(counts["completed"]) >= 1, "the expert tracks the motion to its end"
    assert dataset.metadata["acting"] == {"action_noise": 0.6}
    for name in ("report.html", "fall.png")[: 1 + (sum(counts["fell"]) > 0)]:
        assert f"{output}/{name}" in out.split("all proven", 1)[1]
        assert os.path.getsize(f"{output}/{name}") > 10_000
    assert verify_store(store).ok
    assert verify_export(store, npy).ok


def test_a_folder_with_something_else_is_left_alone(
    tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert main(["demo", "--output", str(tmp_path)]) == 2
    assert "no demo made" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
