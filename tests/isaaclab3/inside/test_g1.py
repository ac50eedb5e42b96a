"""The G1's task itself: what the tests of collecting in it take for granted."""

from __future__ import annotations

import copy
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
    """The teacher's task, beside it the student's group in both orders of its history."""
    env_cfg, _ = configs(g1.TEACHER)
    for name, order in (("by_term", "term"), ("by_time", "time")):
        group = copy.deepcopy(configs(g1.STUDENT, ["presets=time_major"])[0].observations.policy)
        group.history_order, group.enable_corruption = order, False
        setattr(env_cfg.observations, name, group)
    motions = write_motions(tmp_path_factory.mktemp("motions"), [SHORT, LONG])
    with opened(env_cfg, motions, NUM_ENVS) as made:
        yield made


def idle(env: Any) -> Any:
    return env.step(torch.zeros(env.num_envs, env.num_actions))


def test_groups(env: Any) -> None:
    dims = env.unwrapped.observation_manager.group_obs_dim
    assert dims == {"policy": (160,), "critic": (160,), "by_term": (770,), "by_time": (770,)}


def test_presets_of_a_student() -> None:
    frames = {
        preset: configs(g1.STUDENT, overrides)[0].observations.policy.history_length
        for preset, overrides in (("default", []), ("short", ["presets=short"]))
    }
    assert frames == {"default": 5, "short": 2}
    assert (
        configs(g1.STUDENT, ["presets=time_major"])[0].observations.policy.history_order == "time"
    )


def test_an_override_of_hydras() -> None:
    env_cfg, agent_cfg = configs(g1.TEACHER, ["env.episode_length_s=3.0", "agent.seed=7"])
    assert (env_cfg.episode_length_s, agent_cfg.seed) == (3.0, 7)


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


def test_both_orders_hold_the_same_frames(env: Any) -> None:
    env.reset()
    for _ in range(7):
        observations, *_ = idle(env)
    manager = env.unwrapped.observation_manager
    widths = [dim[-1] // 5 for dim in manager.group_obs_term_dim["by_term"]]
    parts = observations["by_term"].split([5 * width for width in widths], dim=1)
    frames = [part.unflatten(1, (5, -1)) for part in parts]
    assert torch.equal(torch.cat(frames, dim=2).flatten(1), observations["by_time"])
