"""A collection with a trained policy, whose store tells of its network what a test wants."""

from __future__ import annotations

from typing import Any

import torch

from mosaic_collect import Schema, TrajectoryWriter
from mosaic_collect.adapters.rsl_rl.load import load_policy
from mosaic_collect.adapters.rsl_rl.runner_cfg import json_safe
from mosaic_collect.adapters.rsl_rl.simulation import ManagedSimulation
from tests.adapters.inside.toy import ACTIONS, POLICY_DIM, ToyEnv, config

STEPS, ENVS, IDLE_FROM = 30, 4, 20  # the last environment idles from then on
VALID = STEPS * (ENVS - 1) + IDLE_FROM


def record(store: str, checkpoint: str, recurrent: bool, about: Any = None) -> None:
    """Collect with the checkpoint's policy; metadata None: as collections note it."""
    told = {"runner_cfg": json_safe(config(recurrent)), "groups": {"policy": POLICY_DIM}}
    torch.manual_seed(0)
    env = ToyEnv(ENVS)
    policy = load_policy(env, config(recurrent), checkpoint)
    simulation = ManagedSimulation(env)
    schema = Schema.mosaic(obs_dim=POLICY_DIM, action_dim=ACTIONS)
    with TrajectoryWriter(
        store, schema, ENVS, buffer_mb=1, metadata=told if about is None else about
    ) as writer:
        observations = simulation.reset()
        for step in range(STEPS):
            output = policy.act(observations)
            writer.add_step(
                observations=observations["policy"],
                actions=output.actions,
                action_mean=output.mean,
                action_sigma=output.sigma,
                valid_mask=(torch.arange(ENVS) < ENVS - 1) | (step < IDLE_FROM),
            )
            result = simulation.step(output.actions)
            policy.reset(result.dones)
            writer.end_trajectories(result.dones)
            observations = result.observations
