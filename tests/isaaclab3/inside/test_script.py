"""``scripts/collect_expert_trajectories.py`` in real physics: killed, resumed, exported."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from examples.g1 import isaaclab as g1
from examples.g1.isaaclab.motions import write_motions
from mosaic_collect import TrajectoryDataset
from mosaic_collect.cli import main
from mosaic_collect.errors import StoreError
from tests import helpers

SCRIPT = str(Path(__file__).parents[3] / "scripts" / "collect_expert_trajectories.py")
LENGTHS = [30] * 24


def flags(work: Path, output: str, *more: str) -> list[str]:
    return [
        *("--headless", "--task", g1.TEACHER, "--tasks_module", g1.__name__),
        *("--motion", str(work / "motions"), "--checkpoint_path", str(g1.EXPERT)),
        *("--output_path", str(work / output), "--num_envs", "4", "--buffer_mb", "1", *more),
    ]


def script(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", [SCRIPT, *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(SCRIPT, run_name="__main__")
    return int(end.value.code or 0)


def steps_of(store: Path) -> int:
    try:
        return TrajectoryDataset(store).num_steps
    except StoreError:
        return 0


def test_killed_in_the_middle_it_goes_on_and_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_motions(tmp_path / "motions", LENGTHS)
    store, student = tmp_path / "expert.zarr", ("--student_task", g1.STUDENT)
    arguments = flags(tmp_path, "expert.npy", *student)
    killed = subprocess.Popen([sys.executable, SCRIPT, *arguments])
    helpers.wait_until(lambda: steps_of(store) or killed.poll() is not None)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    before = TrajectoryDataset(store)
    kept = {name: before.read(name) for name in before.schema.names}
    assert 0 < before.num_steps < sum(LENGTHS) // 4
    # A flag of 2.x that is gone, and one that is in neither.
    assert script(monkeypatch, *arguments, "--resume", "--layout", "compact") == 0
    assert script(monkeypatch, *arguments, "--resume", "--wings") == 2
    data = TrajectoryDataset(store)
    assert all(np.array_equal(data[name][: before.num_steps], kept[name]) for name in kept)
    whole = [t for t in data.trajectories if t.end == "truncated"]
    assert sorted(int(t["motion_id"][0]) for t in whole) == list(range(len(LENGTHS)))
    for trajectory in whole:
        frames = trajectory["motion_frame"][:]
        assert frames.tolist() == list(range(1, LENGTHS[0]))
    capsys.readouterr()
    assert main(["verify", str(store), "--checkpoint", str(g1.EXPERT)]) == 0
    assert "largest difference of mean 0.0e+00" in capsys.readouterr().out
    assert main(["verify", str(store), "--npy", str(tmp_path / "expert.npy")]) == 0


def test_overrides_and_presets_are_told_and_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_motions(tmp_path / "motions", [6, 6])
    asked = ("presets=clean", "env.terminations.fallen.params.threshold=0.3")
    assert script(monkeypatch, *flags(tmp_path, "a.zarr", "--max_steps", "3", *asked)) == 0
    told = TrajectoryDataset(tmp_path / "a.zarr").metadata["observations"]
    assert told["overrides"] == list(asked)
    assert script(monkeypatch, *flags(tmp_path, "a.zarr", "--resume")) == 1
    assert "observations: expected {" in capsys.readouterr().err
    assert script(monkeypatch, *flags(tmp_path, "b.zarr", "presets=long")) == 1
    assert "Unknown preset(s): long" in capsys.readouterr().err
