"""Faults of MOSAIC's collector, by the numbers of docs/mosaic.md, and that this one has none.

Numbers 6 to 12 are of its script; ``tests/contract`` has them.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mosaic_collect import TrajectoryDataset
from mosaic_collect.errors import InputError
from tests import helpers
from tests.mosaic.upstream import ACT, OBS, STUDENT, N, UpstreamCollector, ours


def add(collector: Any, step: int, **more: Any) -> None:
    collector.add_step(torch.full((N, OBS), float(step)), torch.full((N, ACT), float(step)), **more)


KILLED = """
import os, sys, torch
from mosaic_collect.mosaic.collector import ExpertTrajectoryCollector
collector = ExpertTrajectoryCollector(1000, 8, store=sys.argv[1], buffer_mb=1)
for step in range(400):
    collector.add_step(torch.full((4, 1000), float(step)), torch.zeros(4, 8))
os.kill(os.getpid(), 9)
"""


def test_1_memory_stays_at_the_ring_and_a_kill_leaves_what_was_streamed(tmp_path: Path) -> None:
    collector, upstream = ours(tmp_path), UpstreamCollector(OBS, ACT)
    held = []
    for step in range(600):
        for each in (collector, upstream):
            add(each, step)
        held.append([each.get_statistics()["memory_usage_mb"] for each in (collector, upstream)])
    assert held[0][0] == held[-1][0] <= 1.0
    assert held[-1][1] == pytest.approx(600 * held[0][1])
    collector.close()

    store = str(tmp_path / "killed.zarr")
    assert subprocess.run([sys.executable, "-c", KILLED, store], check=False).returncode == -9
    left = TrajectoryDataset(store)
    assert left.num_steps >= 100
    assert left.read("observations")[:, 0, 0].tolist() == list(range(left.num_steps))


def test_2_a_buffer_that_is_used_again_reaches_no_stored_step(tmp_path: Path) -> None:
    collector, upstream = ours(tmp_path), UpstreamCollector(OBS, ACT)
    observations, actions = torch.zeros(N, OBS), torch.zeros(N, ACT)
    for step in range(5):
        observations.fill_(step)
        actions.fill_(step)
        collector.add_step(observations, actions)
        upstream.add_step(observations, actions)
    collector.save(tmp_path / "e.npy")
    stored = collector.load(tmp_path / "e.npy")["observations"][:, 0, 0]
    assert stored.tolist() == [0, 1, 2, 3, 4]
    assert upstream.content()["observations"][:, 0, 0].tolist() == [4, 4, 4, 4, 4]
    collector.close()


def test_3_a_student_observation_on_some_steps_only_is_refused_at_once(tmp_path: Path) -> None:
    collector, upstream = ours(tmp_path, STUDENT), UpstreamCollector(OBS, ACT, STUDENT)
    student = torch.zeros(N, STUDENT)
    for each in (collector, upstream):
        add(each, 0, student_observations=student)
    with pytest.raises(InputError, match="student_observations: expected on every step"):
        add(collector, 1)
    add(upstream, 1)
    lengths = {k: len(v) for k, v in upstream.content().items() if k != "metadata"}
    assert (lengths["student_observations"], lengths["observations"]) == (1, 2)
    collector.save(tmp_path / "e.npy")  # the refused step is not in it, the good one is
    assert len(collector.load(tmp_path / "e.npy")["student_observations"]) == 1
    collector.close()


def test_3_a_student_observation_that_never_comes_is_refused_at_the_first_step(
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError, match="student_observations: expected on every step"):
        add(ours(tmp_path, STUDENT), 0)


def test_3_a_mask_on_some_steps_only_means_all_valid_on_the_others(tmp_path: Path) -> None:
    collector, upstream = ours(tmp_path), UpstreamCollector(OBS, ACT)
    for each in (collector, upstream):
        add(each, 0, valid_mask=torch.tensor([True, False, True, False]))
        add(each, 1)
    with pytest.raises(ValueError, match="valid_mask count"):
        upstream.content()
    collector.save(tmp_path / "e.npy", layout="grid")
    mask = collector.load(tmp_path / "e.npy")["valid_mask"]
    assert mask.tolist() == [[True, False, True, False], [True] * N]
    collector.close()


@pytest.mark.parametrize("name", ["expert", "expert.zarr", "expert.v2", "expert.npy"])
def test_4_a_name_without_npy_gets_it_and_is_said(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    collector = ours(tmp_path)
    add(collector, 0)
    collector.save(str(tmp_path / "deep" / name))
    expected = name if name.endswith(".npy") else f"{name}.npy"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == [expected]
    assert (expected in caplog.text) is (name != expected)
    collector.close()


def test_5_trajectories_and_origin_are_in_store_and_file(tmp_path: Path) -> None:
    origin = {"seed": 3, "checkpoint": "model_1000.pt", "motions": ["walk.npz"]}
    collector = ours(tmp_path, metadata=origin)
    for step in range(3):
        add(collector, step)
        collector.mark_trajectory_end(env_ids=[0])
    collector.save(tmp_path / "e.npy")
    told = collector.load(tmp_path / "e.npy")["metadata"]["mosaic_collect"]
    assert {key: told["metadata"][key] for key in origin} == origin
    collector.close()
    data = TrajectoryDataset(tmp_path / "s.zarr")
    assert data.read("trajectory_id").tolist() == [[0, 1, 2, 3], [4, 1, 2, 3], [5, 1, 2, 3]]
    assert {key: data.metadata[key] for key in origin} == origin
    assert np.unique(data.read("trajectory_id")).size == 6


def test_each_fault_of_the_docs_table_has_a_test() -> None:
    root = Path(helpers.REPO)
    table = re.findall(r"^\| (\d+) \|", (root / "docs" / "mosaic.md").read_text(), re.M)
    assert table == [str(number) for number in range(1, 13)]
    files = [*(root / "tests/mosaic").glob("*.py"), *(root / "tests/contract").rglob("*.py")]
    tested = {n for file in files for n in re.findall(r"^def test_(\d+)_", file.read_text(), re.M)}
    assert tested == set(table)
