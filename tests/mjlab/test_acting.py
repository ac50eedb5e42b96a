"""Disturbed recording in mjlab: executed is one thing, labelled another."""

from __future__ import annotations

import numpy as np
import pytest

from mosaic_collect import TrajectoryDataset
from mosaic_collect.cli import main
from mosaic_collect.errors import InputError
from mosaic_collect.reading.verify import verify_store
from mosaic_collect.store.schema import TRUNCATED
from tests import helpers
from tests.mjlab import case as mjlab_case
from tests.mjlab.case import EXPERT, FRAMES, Case, trajectories

pytestmark = mjlab_case.MARKS


@pytest.fixture(scope="module")
def noisy(case: Case) -> TrajectoryDataset:
    """Sixteen environments that begin anywhere, disturbed and pushed, interrupted once."""
    options = {"num_envs": 16, "action_noise": 0.3, "push": 0.3, "start": "random", "seed": 2}
    case.run("noisy", max_steps=8, **options)
    case.run("noisy", max_steps=16, resume=True, **options)
    return case.data("noisy")


def test_the_next_observation_shows_what_was_executed(noisy: TrajectoryDataset) -> None:
    actions, ids = noisy.read("actions"), helpers.ids(noisy)
    seen = noisy.read("observations")[:, :, -29:]
    same = ids[1:] == ids[:-1]
    assert same.sum() > 100
    np.testing.assert_array_equal(seen[1:][same], actions[:-1][same])
    unit = (actions - noisy.read("action_mean")) / noisy.read("action_noise")[..., None]
    assert abs(unit.mean()) < 0.1
    assert abs(unit.std() - 1) < 0.1
    assert verify_store(noisy.path).ok
    assert noisy.metadata["acting"] == {"action_noise": 0.3, "push": 0.3, "start": "random"}
    # The resumed run draws numbers of its own.
    assert not np.array_equal(noisy.read("action_noise", 0, 1), noisy.read("action_noise", 8, 9))


def test_the_checkpoint_says_the_same_on_every_row(
    noisy: TrajectoryDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", noisy.path, "--checkpoint", EXPERT]) == 0
    assert f"{16 * 16} valid rows" in capsys.readouterr().out


def test_trajectories_begin_anywhere_and_end_with_their_motion(
    noisy: TrajectoryDataset,
) -> None:
    found = trajectories(noisy)
    begun = {(motion, frames[0]) for motion, frames, _ in found}
    assert {motion for motion, _ in begun} == {0, 1}
    assert len(begun) > 8
    assert all(1 <= first <= FRAMES[motion] - 1 for motion, first in begun)
    ended = noisy.read("trajectory_end") == TRUNCATED
    last = np.array(FRAMES)[noisy.read("motion_id")] - 1
    assert ended.sum() > 16
    assert np.array_equal(ended, noisy.read("motion_frame") == last)


def test_a_push_moves_the_base_and_the_next_observation_shows_it(case: Case) -> None:
    import torch

    from mosaic_collect.adapters.mjlab.collect import MjlabSimulation
    from mosaic_collect.collection.motion_queue import MotionQueue
    from mosaic_collect.collection.motions import find_motions

    options = case.options("none", num_envs=4, teacher_noise=False)
    simulation = MjlabSimulation(options, MotionQueue(find_motions(case.motions)))
    simulation.reset()
    robot = simulation.env.unwrapped.scene["robot"]
    velocity = torch.zeros(4, 2)
    velocity[2] = torch.tensor([0.5, -0.25])
    before = robot.data.data.qvel.clone()
    simulation.push(velocity)
    change = robot.data.data.qvel - before
    assert torch.equal(change[:, :2], velocity)
    assert not change[:, 2:].any()
    simulation.step(torch.zeros(4, 29))
    moved = robot.data.root_link_vel_w[:, :2]
    assert (moved[2] - moved[1]).abs().max() > 0.1
    simulation.close()


def test_a_robot_without_a_free_base_is_not_pushed(case: Case) -> None:
    import torch

    from mosaic_collect.adapters.mjlab.collect import MjlabSimulation

    options = case.options("none", task="Mjlab-Cartpole-Balance", num_envs=1, student_history=0)
    simulation = MjlabSimulation(options, None)
    with pytest.raises(InputError, match="push: expected a robot with a free base"):
        simulation.push(torch.zeros(1, 2))
    simulation.close()


def test_samples_are_of_the_policys_own_distribution(case: Case) -> None:
    case.run("sampled", num_envs=8, max_steps=6, act_by="sample")
    dataset = case.data("sampled")
    sigma = dataset.read("action_sigma")
    unit = (dataset.read("actions") - dataset.read("action_mean")) / sigma
    assert abs(unit.std() - 1) < 0.1
    assert dataset.metadata["acting"] == {"act_by": "sample"}
