"""``mosaic-collect collect`` as a scheduler runs and ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from mosaic_collect import TrajectoryDataset, verify_store
from mosaic_collect.errors import StoreError
from tests import helpers
from tests.mjlab import case as mjlab_case
from tests.mjlab.case import make_case

pytestmark = mjlab_case.MARKS
_CODE = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a child of nohup or of a shell's job has it
from mosaic_collect.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_collection_beneath_a_parent_that_ignores_interrupts(tmp_path: Path) -> None:
    case, store = make_case(tmp_path), str(tmp_path / "s.zarr")
    command = case.command("s", "--max-steps", "100000", "--num-envs", "2")
    command += ["--commit-seconds", "0.2", "--student-history", "0"]
    process = subprocess.Popen(
        [sys.executable, "-c", _CODE, *command],
        env={**os.environ, "PYTHONPATH": helpers.REPO},
        stderr=subprocess.PIPE,
        text=True,
    )

    def wait_for(steps: int) -> None:
        helpers.wait_until(lambda: _steps(store) >= steps or process.poll() is not None)

    try:
        wait_for(5)
        process.send_signal(signal.SIGINT)
        wait_for(_steps(store) + 20)
        assert process.poll() is None, "the interrupt was not ignored"
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=300)[1]
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "steps are committed; continue with: mosaic-collect collect --resume --output" in said
    dataset = TrajectoryDataset(store)
    assert dataset.num_steps >= 5
    assert dataset.status == "collecting"
    assert verify_store(store).ok


def _steps(store: str) -> int:
    try:
        return TrajectoryDataset(store).num_steps
    except StoreError:
        return 0
