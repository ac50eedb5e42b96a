"""The G1's task itself: what the tests of collecting in it take for granted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from examples.g1 import isaaclab as g1
from examples.g1.isaaclab.motions import write_motions
from tests.isaaclab3.inside.session import configs, opened

NUM_ENVS = 6
SHORT, LONG = 8, 20


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The teacher's task."""
    env_cfg, _ = configs(g1.TEACHER)
    motions = write_motions(tmp_path_factory.mktemp("motions"), [SHORT, LONG])
    with opened(env_cfg, motions, NUM_ENVS) as made:
        yield made


def idle(env: Any) -> Any:
    return env.step(torch.zeros(env.num_envs, env.num_actions))


def test_an_explicit_reset_leaves_the_command_stale(env: Any) -> None:
    command = env.unwrapped.command_manager.get_term("motion")
    command.body_pos_relative_w.zero_()
    env.reset()
    assert command.time_steps.tolist() == [0] * NUM_ENVS
    _, _, dones, extras = idle(env)
    assert dones.all()  # a fall, though nobody fell
    assert not extras["time_outs"].any()
    assert command.time_steps.tolist() == [1] * NUM_ENVS
    _, _, dones, _ = idle(env)
    assert not dones.any()


def test_a_motion_ends_by_time_a_step_behind_its_last_frame(env: Any) -> None:
    command = env.unwrapped.command_manager.get_term("motion")
    env.reset()
    command.env_motion_indices[:] = torch.tensor([0, 1] * (NUM_ENVS // 2))
    idle(env)
    for frame in range(1, SHORT + 1):
        assert command.time_steps[0] == frame
        assert command.motion_end_buf[0] == (frame == SHORT)
        _, _, dones, extras = idle(env)
    assert dones.bool().tolist() == [True, False] * (NUM_ENVS // 2)
    assert extras["time_outs"].tolist() == [True, False] * (NUM_ENVS // 2)


def test_a_reset_puts_the_robot_on_the_motion(env: Any) -> None:
    """Names are not in the file: joints and bodies must be in the robot's own order."""
    command = env.unwrapped.command_manager.get_term("motion")
    env.reset()
    off = command.robot_body_pos_w - command.body_pos_w
    assert off.norm(dim=-1).max() < 0.03
    assert (command.robot.data.joint_pos.torch - command.joint_pos).abs().max() < 0.021
