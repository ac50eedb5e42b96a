"""``StudentObsBuilder`` beside Isaac Lab 3's own groups, in both orders of their histories."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from examples.g1 import isaaclab as g1
from examples.g1.isaaclab.motions import write_motions
from mosaic_collect.mosaic.student_obs import create_student_obs_builder_from_env_cfg
from tests.isaaclab3.inside.session import configs, opened

NUM_ENVS, FRAMES, STEPS = 4, 3, 40


@pytest.mark.parametrize("policy_order", ["term", "time"])
def test_bit_equal_to_isaac_labs_own_groups(tmp_path: Path, policy_order: str) -> None:
    """Whatever the order of the policy's own history, whose newest frame is the student's."""
    env_cfg, _ = configs(g1.TEACHER, ["presets=clean"])
    policy = env_cfg.observations.policy
    for order in ("term", "time"):
        group = copy.deepcopy(policy)
        group.history_length, group.history_order = FRAMES, order
        setattr(env_cfg.observations, f"by_{order}", group)
    policy.history_length, policy.history_order = 2, policy_order
    motions = write_motions(tmp_path, [6, 9, 14])
    with opened(env_cfg, motions, NUM_ENVS) as env:
        builders = {
            order: create_student_obs_builder_from_env_cfg(
                env, f"history_{FRAMES}", history_order=order
            )
            for order in ("term", "time")
        }
        observations, _ = env.reset()
        resets = 0
        for _ in range(STEPS):
            for order, builder in builders.items():
                frame = builder.split(observations["policy"])
                assert torch.equal(builder.get_observation(frame), observations[f"by_{order}"])
                builder.update_history(frame)
            actions = 0.5 * torch.randn(NUM_ENVS, g1.NUM_ACTIONS)
            observations, _, dones, _ = env.step(actions)
            resets += int(dones.sum())
            for builder in builders.values():
                builder.reset_history(dones.bool())
    assert resets > NUM_ENVS
