"""The scripts for many ranks under ``examples``: toys simulate and schedule."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from mosaic_collect import StoreError, TrajectoryDataset
from tests.collection.test_ranks import QUIET, check_whole
from tests.helpers import REPO, wait_until

FLAGS = [
    *("--task", "Toy", "--checkpoint", "none.pt", "--passes", "1"),
    *("--num-envs", "2", "--max-steps", "1000"),
]
#: Starts its tasks, hands signals on, and ends with the worst of their codes.
SRUN = f"""#!{sys.executable}
import os, signal, subprocess, sys
while sys.argv[1].startswith("--"):
    del sys.argv[1]
size = os.environ["SLURM_NTASKS"]
tasks = []
for n in range(int(size)):
    env = {{**os.environ, "SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)}}
    tasks.append(subprocess.Popen(sys.argv[1:], env=env))
def hand_on(number, frame):
    for task in tasks:
        task.send_signal(number)
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, hand_on)
with open(os.environ["TOY_SRUN"], "w") as file:
    file.write(str(os.getpid()))
codes = [task.wait() for task in tasks]
sys.exit(max(128 - code if code < 0 else code for code in codes))
"""


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """An environment in which ``mosaic-collect`` is the toy."""
    tools = tmp_path / "bin"
    tools.mkdir()
    worker = f"{REPO}/tests/collection/rank_worker.py"
    scripts = {
        "mosaic-collect": f'#!/bin/sh\nexec "{sys.executable}" "{worker}" --command "$@"\n',
        "scontrol": f'#!/bin/sh\necho "$@" >> "{tmp_path}/scontrol"\n',
        "srun": SRUN,
    }
    for name, text in scripts.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    path = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, **QUIET, "PATH": path, "GPUS": "2", "TOY_SRUN": f"{tmp_path}/srun"}


def start(recipe: str, shell: dict[str, str], *flags: str) -> subprocess.Popen[bytes]:
    command = ["bash", f"{REPO}/examples/{recipe}", *FLAGS, *flags]
    return subprocess.Popen(command, cwd=REPO, env=shell)


def steps(folder: Path) -> int:
    """Committed by all ranks; 0 as long as there are none."""
    try:
        return TrajectoryDataset(folder).num_steps
    except StoreError:
        return 0


def test_one_node(tmp_path: Path, shell: dict[str, str]) -> None:
    if shutil.which("torchrun", path=shell["PATH"]) is None:
        pytest.skip("torchrun is not on the path")
    folder = tmp_path / "expert"
    assert start("ranks_one_node.sh", shell, "--output", f"{folder}").wait(300) == 0
    check_whole(folder)


@pytest.mark.parametrize("recipe", ["ranks_one_node.sh", "ranks_several_nodes.sh"])
def test_no_rank_is_no_success(tmp_path: Path, shell: dict[str, str], recipe: str) -> None:
    """Where no GPU is seen and nobody says how many ranks there are to be."""
    (tmp_path / "bin" / "nvidia-smi").symlink_to("/bin/false")
    blind = {n: v for n, v in shell.items() if n != "GPUS"} | {"NODE": "0", "NODES": "1"}
    command = ["bash", f"{REPO}/examples/{recipe}", *FLAGS, "--output", f"{tmp_path}/expert"]
    done = subprocess.run(command, env=blind, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "no GPU is seen: say by GPUS=N how many ranks\n")


def test_several_nodes_one_of_which_is_stopped_and_comes_again(
    tmp_path: Path, shell: dict[str, str]
) -> None:
    folder = tmp_path / "expert"
    told = {**shell, "NODES": "2", "GPUS": "1", "TOY_SECONDS": "0.1"}
    first, second = (
        start("ranks_several_nodes.sh", {**told, "NODE": node}, "--output", f"{folder}")
        for node in "01"
    )
    wait_until(lambda: (folder / "rank-00001").exists() and steps(folder / "rank-00001") >= 4)
    second.send_signal(signal.SIGTERM)
    assert second.wait(100) == 128 + signal.SIGTERM
    assert first.wait(300) == 0
    again = {**told, "NODE": "1", "TOY_SECONDS": "0"}
    assert start("ranks_several_nodes.sh", again, "--output", f"{folder}").wait(300) == 0
    check_whole(folder)
    assert TrajectoryDataset(folder).status == "complete"


def test_several_on_s3(s3: str, shell: dict[str, str]) -> None:
    folder = f"{s3}/expert"
    cloud = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    nodes = [
        start(
            "ranks_on_s3.sh",
            {**shell, **cloud, "NODES": "2", "GPUS": "1", "NODE": node, "BUCKET": folder},
        )
        for node in "01"
    ]
    assert [node.wait(300) for node in nodes] == [0, 0]
    check_whole(folder)


def test_slurm_queues_again_what_it_stops(tmp_path: Path, shell: dict[str, str]) -> None:
    folder, srun = tmp_path / "expert", tmp_path / "srun"
    told = {**shell, "SLURM_JOB_ID": "7", "TOY_SECONDS": "0.1"}
    before = 0
    # Its time is nearly up; it is preempted; it is left alone, on fewer nodes.
    for size, number in (("2", signal.SIGUSR1), ("2", signal.SIGTERM), ("1", None)):
        srun.unlink(missing_ok=True)
        seconds = "0" if number is None else told["TOY_SECONDS"]
        job = start(
            "ranks_slurm.sh",
            {**told, "SLURM_NTASKS": size, "TOY_SECONDS": seconds},
            "--output",
            f"{folder}",
        )
        if number is None:
            assert job.wait(300) == 0
            continue
        wait_until(lambda before=before: srun.exists() and steps(folder) >= before + 8)
        os.kill(int(srun.read_text()), number)
        assert job.wait(100) == 128 + number
        before = steps(folder)
    assert (tmp_path / "scontrol").read_text() == "requeue 7\n", "a preempted job SLURM queues"
    check_whole(folder)


@pytest.mark.parametrize(
    "path", sorted((Path(REPO) / "examples").glob("*.sh")), ids=lambda p: p.name
)
def test_scripts_are_shell(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert path.read_text().startswith("#!/usr/bin/env bash\n# ")
