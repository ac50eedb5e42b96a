"""MOSAIC's own script with the import line changed: it runs, and its file holds the same arrays.

The script is not part of this project: ``MOSAIC_COLLECT_MOSAIC`` names a checkout of MOSAIC.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect import TrajectoryDataset
from tests.adapters.inside.toy import GENERATION, train
from tests.contract.inside.session import toy_env
from tests.contract.inside.toy import write_motions
from tests.contract.inside.toy_tasks import STUDENT, TEACHER, AgentCfg

MOSAIC = os.environ.get("MOSAIC_COLLECT_MOSAIC", "")
pytestmark = [
    pytest.mark.skipif(not MOSAIC, reason="MOSAIC_COLLECT_MOSAIC names no checkout of MOSAIC"),
    pytest.mark.skipif(GENERATION != 2, reason="MOSAIC's script is of rsl_rl 2.x"),
]


def collect(work: Path, whose: str, *flags: str) -> dict[str, Any]:
    (work / whose).mkdir(exist_ok=True)
    python = [sys.executable, "-W", "ignore", "-m", "tests.contract.inside.run_upstream"]
    done = subprocess.run(
        [
            *(*python, MOSAIC, whose, "--headless", "--task", TEACHER),
            *("--motion", str(work / "motions"), "--checkpoint_path", str(work / "model.pt")),
            *("--num_envs", "2", "--steps_per_env", "3", "--output_path", "expert.npy", *flags),
        ],
        cwd=work / whose,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    content: dict[str, Any] = np.load(work / whose / "expert.npy", allow_pickle=True).item()
    return content


@pytest.mark.parametrize("flags", [(), ("--student_task", STUDENT)], ids=["alone", "student"])
def test_the_same_arrays_come_out(tmp_path: Path, flags: tuple[str, ...]) -> None:
    motions = write_motions(tmp_path / "motions", [6, 4, 5, 6, 3])
    train(str(tmp_path / "model.pt"), env=toy_env(motions, 2), told=AgentCfg().to_dict())
    ours, theirs = (collect(tmp_path, whose, *flags) for whose in ("ours", "theirs"))
    told = ours.pop("metadata")
    assert {key: told[key] for key in theirs["metadata"]} == theirs.pop("metadata")
    assert set(ours) == set(theirs)
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype
        assert np.array_equal(ours[name], array), name
    (store,) = (tmp_path / "ours").glob("expert_trajectories-*.zarr")
    assert TrajectoryDataset(store).status == "complete"
