"""MOSAIC's update with batches from a store is the one with a loaded file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mosaic_collect import Schema, TrajectoryDataset, export_npy
from mosaic_collect.errors import ClosedError, InputError
from mosaic_collect.mosaic import attach
from tests import helpers
from tests.mosaic.fork import Algorithm

MOSAIC = os.environ.get("MOSAIC_COLLECT_MOSAIC", "")
N, STEPS, OBS, STUDENT, ACT = 24, 60, 5, 6, 3
KEYS = ["observations", "actions", "action_mean", "action_sigma"]
SEEDS = range(5)


@pytest.fixture(scope="module")
def expert(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A store of something to learn, with invalid rows that would show, and its export."""
    folder = tmp_path_factory.mktemp("expert")
    store, npy = str(folder / "expert.zarr"), str(folder / "expert.npy")
    chance = np.random.default_rng(0)
    weights = chance.normal(size=(STUDENT, ACT)).astype(np.float32) / 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mosaic_collect.store.grid.CHUNK_NBYTES", 500)
        schema = Schema.mosaic(OBS, ACT, STUDENT)
        with helpers.open_writer(store, N, schema, block_steps=6) as writer:
            for _ in range(STEPS):
                student = chance.normal(size=(N, STUDENT)).astype(np.float32)
                valid = chance.random(N) < 0.8
                mean = np.tanh(student @ weights)
                student[~valid] = 1e4
                noise = chance.normal(scale=0.1, size=mean.shape).astype(np.float32)
                writer.add_step(
                    observations=student[:, :OBS],
                    student_observations=student,
                    actions=mean + noise,
                    action_mean=mean,
                    action_sigma=np.full_like(mean, 0.1),
                    valid_mask=valid,
                )
    export_npy(store, npy)
    return store, npy


#: Half of the store, about: so tiles come and go.
POOL_MB = 0.06


def losses(algorithm: Any, iterations: int = 30) -> list[float]:
    return [algorithm.update()["bc_off_policy"] for _ in range(iterations)]


@pytest.mark.parametrize(("loss", "repeat"), [("mse", False), ("kl", True)])
def test_the_loss_over_30_iterations_is_the_files(expert: Any, loss: str, repeat: bool) -> None:
    store, npy = expert
    options = {"expert_loss_type": loss, "expert_allow_repeat_sampling": repeat}
    loaded, attached = [], []
    for seed in SEEDS:
        theirs = Algorithm(STUDENT, ACT, seed=seed, expert_trajectory_path=npy, **options)
        loaded.append(losses(theirs))
        ours = Algorithm(STUDENT, ACT, seed=seed, **options)
        attach(ours, store, shuffle_buffer_mb=POOL_MB, seed=seed)
        attached.append(losses(ours))
    assert_same_within_the_spread_of_seeds(loaded, attached)


def assert_same_within_the_spread_of_seeds(loaded: Any, attached: Any) -> None:
    """At the beginning, in the middle and at the end: ten iterations each."""
    file, drawn = (np.array(x).reshape(-1, 3, 10).mean(axis=2) for x in (loaded, attached))
    spread = file.max(axis=0) - file.min(axis=0)
    assert (np.abs(file.mean(axis=0) - drawn.mean(axis=0)) <= spread).all()
    assert file[:, -1].mean() < 0.8 * file[:, 0].mean(), "there was nothing to learn"


def test_batches_are_as_its_own(expert: Any) -> None:
    store, npy = expert
    theirs = Algorithm(STUDENT, ACT, expert_trajectory_path=npy)._sample_expert_batch()
    algorithm = Algorithm(STUDENT, ACT)
    assert algorithm._sample_expert_batch() is None
    attached = attach(algorithm, store, shuffle_buffer_mb=POOL_MB)
    ours = algorithm._sample_expert_batch()
    assert list(ours) == list(theirs) == KEYS
    for key in KEYS:
        assert (ours[key].shape, ours[key].dtype) == (theirs[key].shape, theirs[key].dtype)
        assert ours[key].device == theirs[key].device
        assert ours[key].is_contiguous()
    assert ours["observations"].abs().max() < 100, "an invalid row"
    assert attached.loader.num_pairs == TrajectoryDataset(store).num_valid
    assert algorithm.summaries == [True], "its own words on what is enabled"


def test_the_switches_stay_in_force(expert: Any) -> None:
    store, _ = expert
    pairs = TrajectoryDataset(store).num_valid
    algorithm = Algorithm(STUDENT, ACT, off_policy_batch_size=100_000)
    attach(algorithm, store)
    batch = algorithm._sample_expert_batch()["observations"]
    assert len(batch) == len(batch.unique(dim=0)) == pairs, "every pair once"
    algorithm.expert_allow_repeat_sampling = True
    algorithm.off_policy_batch_size = 3000
    batch = algorithm._sample_expert_batch()["observations"]
    assert len(batch) == 3000 > len(batch.unique(dim=0))
    algorithm.use_off_policy_bc = False
    assert algorithm._sample_expert_batch() is None
    assert algorithm.update()["bc_off_policy"] == 0


def test_what_is_given_back_is_of_the_batches_that_are_drawn(store: str) -> None:
    """Also once the algorithm asks for others, and when there are more pairs than it asked for."""
    threads = set(threading.enumerate())
    algorithm = Algorithm(3, 2, off_policy_batch_size=6)

    def size() -> int:
        batch = algorithm._sample_expert_batch()["observations"]
        return len(batch.unique(dim=0))

    with helpers.open_writer(store) as writer:
        helpers.add(writer, 0, 1)
        writer.commit()
        attached = attach(algorithm, store)
        assert size() == 6
        algorithm.off_policy_batch_size = 1000
        assert size() == 8
        helpers.add(writer, 2)
        writer.commit()
        assert size() == 8
        attached.refresh()
        assert [size() for _ in range(2)][-1] == 12
        algorithm.off_policy_batch_size = 5
        assert size() == 5
    assert set(threading.enumerate()) - threads
    attached.close()
    assert set(threading.enumerate()) <= threads


def test_an_interrupt_or_an_error_ends_one_batch_and_not_all(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    helpers.record(store, 6)
    algorithm = Algorithm(3, 2, off_policy_batch_size=4)
    attached = attach(algorithm, store)
    algorithm._sample_expert_batch()
    for kind in (KeyboardInterrupt, OSError):
        with monkeypatch.context() as patch:
            patch.setattr("mosaic_collect.sampling.prefetch.Prefetcher.__next__", raising(kind))
            with pytest.raises(kind):
                algorithm._sample_expert_batch()
        for _ in range(3):
            assert len(algorithm._sample_expert_batch()["actions"]) == 4
    attached.close()
    for _ in range(2):
        with pytest.raises(ClosedError, match="attach the stores again"):
            algorithm._sample_expert_batch()


def raising(kind: type[BaseException]) -> Any:
    def raise_it(*_given: Any) -> Any:
        raise kind

    return raise_it


def test_without_the_students_the_teachers_observations(store: str) -> None:
    dataset = helpers.record(store, 6)
    algorithm = Algorithm(3, 2, off_policy_batch_size=24)
    attach(algorithm, store)
    batch = algorithm._sample_expert_batch()
    want = dataset.read("observations").reshape(24, 3).tolist()
    assert sorted(batch["observations"].tolist()) == sorted(want)


def test_what_it_cannot_be_attached_to(expert: Any, store: str, caplog: Any) -> None:
    path, npy = expert
    with pytest.raises(InputError, match="expected MOSAIC's, got Linear without _sample_expert"):
        attach(torch.nn.Linear(1, 1), path)
    with pytest.raises(InputError, match=r"has loaded .*expert.npy already"):
        attach(Algorithm(STUDENT, ACT, expert_trajectory_path=npy), path)
    with pytest.raises(InputError, match="fields, device: that is as the algorithm has it"):
        attach(Algorithm(STUDENT, ACT), path, device="cpu", fields=["observations"])
    helpers.record(store, 3, schema=helpers.ALL_DTYPES)
    with pytest.raises(InputError, match="no field observations or student_observations"):
        attach(Algorithm(STUDENT, ACT), store)
    idle = Algorithm(STUDENT, ACT, lambda_off_policy=0)
    idle.hybrid = False
    attach(idle, path)
    assert [r.message.split(":")[0] for r in caplog.records if r.levelname == "WARNING"] == [
        "hybrid=False",
        "lambda_off_policy is 0",
    ]


@pytest.mark.slow
@pytest.mark.skipif(not MOSAIC, reason="MOSAIC_COLLECT_MOSAIC names no checkout of MOSAIC")
@pytest.mark.parametrize("loss", ["mse", "kl"])
def test_on_the_fork_itself(expert: Any, loss: str) -> None:
    found: dict[str, list[list[float]]] = {}
    for way, path in zip(("attach", "load"), expert, strict=True):
        for seed in SEEDS[:3]:
            command = [sys.executable, "-W", "ignore", "-m", "tests.mosaic.run_fork"]
            root = str(Path(__file__).parents[2])
            fork = os.path.join(MOSAIC, "source", "rsl_rl")
            done = subprocess.run(
                [*command, way, path, loss, str(seed), str(POOL_MB)],
                cwd=root,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([fork, root])},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            told = json.loads(done.stdout.splitlines()[-1])
            assert told["lambda_off_policy"] == pytest.approx(0.5 * 0.99**30)
            assert "Enabled: True" in done.stdout
            found.setdefault(way, []).append(told["losses"])
    assert_same_within_the_spread_of_seeds(found["load"], found["attach"])
