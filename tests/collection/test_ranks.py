"""Ranks under torchrun: each motion once, whoever is killed, comes late, or never comes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("torch")

from mosaic_collect import InputError, TrajectoryDataset, export_npy, verify_store
from mosaic_collect.collection.ranks import RankStore, torchrun_ranks
from mosaic_collect.store.ranks import blobs_at
from tests.collection.rank_worker import MEMBER, toy_motions
from tests.helpers import REPO, wait_until

WORKER = ["tests/collection/rank_worker.py"]
MOTIONS = 20
QUIET = {"OMP_NUM_THREADS": "1", "PYTHONPATH": REPO}
TORCHRUN = ["-m", "torch.distributed.run", "--standalone"]


def start(folder: Path, rank: int, world: int, *options: str) -> subprocess.Popen[bytes]:
    """A rank by itself, as a scheduler starts it."""
    told = {"RANK": f"{rank}", "LOCAL_RANK": "0", "WORLD_SIZE": f"{world}"}
    command = [sys.executable, *WORKER, str(folder), "--motions", f"{MOTIONS}", *options]
    return subprocess.Popen(command, cwd=REPO, env={**os.environ, **QUIET, **told})


def joined(folder: Path, rank: int, world: int, *options: str) -> subprocess.Popen[bytes]:
    """A rank that has a share of the motions, before those who come later take what is left."""
    process = start(folder, rank, world, *options)
    member = folder / MEMBER.format(rank)
    wait_until(lambda: member.exists() or process.poll() is not None)
    return process


def check_whole(folder: Path) -> None:
    """Every motion has one trajectory of all its rows, in the store of one rank."""
    dataset = TrajectoryDataset(folder)
    hashes = [m["sha256"] for m in dataset.metadata["motions"]]
    frames = {m.sha256: m.frames for m in toy_motions(MOTIONS)}
    ended = Counter()
    for trajectory in dataset.where(end="truncated", min_valid=1):
        motion = hashes[trajectory.motion]
        assert trajectory["motion_frame"][:].tolist() == list(range(1, frames[motion]))
        ended[motion] += 1
    assert ended == dict.fromkeys(frames, 1)
    assert sum(dataset.metadata["motion_counts"]["completed"]) == MOTIONS
    report = verify_store(folder)
    assert report.ok, report.problems


@pytest.mark.slow
def test_a_rank_that_is_killed_goes_on_after_torchrun_started_all_again(tmp_path: Path) -> None:
    folder = tmp_path / "expert"
    command = [sys.executable, *TORCHRUN, "--nproc-per-node=3", "--max-restarts=1", *WORKER]
    subprocess.run(
        [*command, str(folder), "--kill", "1", "9"],
        cwd=REPO,
        env={**os.environ, **QUIET},
        check=True,
        timeout=300,
    )
    check_whole(folder)
    dataset = TrajectoryDataset(folder)
    assert dataset.status == "complete"
    assert len(dataset.parts) == 3
    # It was killed behind its second commit, and the others were told to end in good order.
    assert [run.first_step for run in dataset.parts[1].state.runs] == [0, 8]
    assert export_npy(folder, tmp_path / "x.npy", exclude_interrupted=True).num_pairs == sum(
        motion.frames - 1 for motion in toy_motions(MOTIONS)
    )


@pytest.mark.slow
def test_one_killed_resumes_alone_and_one_never_starts(tmp_path: Path) -> None:
    folder = tmp_path / "expert"
    killed = joined(folder, 1, 4, "--kill", "1", "6")
    # Neither is through with all motions before the other one begins.
    ranks = [killed, joined(folder, 0, 4, "--meet", "3"), start(folder, 3, 4)]
    assert [process.wait(300) for process in ranks] == [-9, 0, 0]
    dataset = TrajectoryDataset(folder)
    assert dataset.never_joined == (f"{folder}/rank-00002",)
    assert [part.status for part in dataset.parts] == ["complete", "collecting", "complete"]
    assert start(folder, 1, 2).wait(300) == 0
    check_whole(folder)
    assert TrajectoryDataset(folder).status == "complete"
    assert start(folder, 2, 4).wait(300) == 0, "who comes when nothing is left has nothing to do"
    assert len(TrajectoryDataset(folder).parts) == 3


@pytest.mark.slow
def test_what_a_dead_rank_had_is_recorded_by_who_takes_over(tmp_path: Path) -> None:
    folder = tmp_path / "expert"
    ranks = [joined(folder, 1, 2, "--kill", "1", "6"), start(folder, 0, 2)]
    assert [process.wait(300) for process in ranks] == [-9, 0]
    left = MOTIONS - sum(TrajectoryDataset(folder).metadata["motion_counts"]["completed"])
    assert left > 0
    assert start(folder, 0, 1).wait(300) == 0
    assert sum(TrajectoryDataset(folder).metadata["motion_counts"]["completed"]) == MOTIONS - left
    assert start(folder, 0, 1, "--gone", "1").wait(300) == 0
    check_whole(folder)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({}, "RANK=''"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "LOCAL_RANK=''"),
        ({"RANK": "-1", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}, "RANK='-1'"),
        ({"RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}, "RANK below WORLD_SIZE"),
    ],
)
def test_variables_that_say_no_rank(told: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        torchrun_ranks(told)


def test_devices_and_seeds_differ(tmp_path: Path) -> None:
    whole = blobs_at(tmp_path / "expert")
    ranks = [RankStore(whole, number, number % 8, 16) for number in range(16)]
    assert [rank.device(None, cuda=True) for rank in ranks[7:9]] == ["cuda:7", "cuda:0"]
    assert ranks[3].device("cpu", cuda=True) == ranks[3].device(None, cuda=False) == "cpu"
    seeds = {rank.seed(0, run) for rank in ranks for run in range(4)}
    assert len(seeds) == 64
    assert ranks[1].seed(5, 0) == ranks[1].seed(5, 0) != ranks[1].seed(6, 0)
