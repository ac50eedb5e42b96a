"""The checkpoint that ``scripts/make_isaaclab_expert.py`` made."""

from __future__ import annotations

from pathlib import Path

import torch

from examples.g1 import isaaclab as g1
from examples.g1.isaaclab.motions import write_motions
from mosaic_collect.adapters.rsl_rl.load import load_policy
from tests.isaaclab3.inside.session import configs, opened

NUM_ENVS = 24


def test_the_expert_follows_squats_to_their_end(tmp_path: Path) -> None:
    env_cfg, agent_cfg = configs(g1.TEACHER)
    with opened(env_cfg, write_motions(tmp_path, [101, 126]), NUM_ENVS) as env:
        policy = load_policy(env, agent_cfg, g1.EXPERT)
        env.reset()  # the command is stale, and ends all episodes at once
        observations, *_ = env.step(torch.zeros(NUM_ENVS, g1.NUM_ACTIONS))
        ended = torch.zeros(NUM_ENVS, dtype=torch.bool)
        reached = ended.clone()
        while not ended.all():
            actions = policy.act(observations).actions
            observations, _, dones, extras = env.step(actions)
            reached |= ~ended & extras["time_outs"]
            ended |= dones.bool()
    assert reached.sum() >= NUM_ENVS - 1
