"""Collections with a trained policy whose records may be at fault; what it acts on never is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mosaic_collect import Schema, TrajectoryDataset, TrajectoryWriter
from mosaic_collect.adapters.rsl_rl.load import load_policy
from mosaic_collect.adapters.rsl_rl.runner_cfg import json_safe
from mosaic_collect.adapters.rsl_rl.simulation import ManagedSimulation
from tests.adapters.inside.toy import ACTIONS, POLICY_DIM, ToyEnv, config

STEPS, ENVS, IDLE_FROM = 30, 4, 20  # the last environment idles from then on
VALID = STEPS * (ENVS - 1) + IDLE_FROM


#: What a recorder takes for the observations of a step: of its number, those that the policy acts
#: on, those of the step before, and which environments that step reset.
Fault = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def one_shifted_row(
    step: int, acted: torch.Tensor, before: torch.Tensor, fresh: torch.Tensor
) -> torch.Tensor:
    at = torch.arange(ENVS) == (2 if step == 9 else -1)
    return torch.where(at[:, None], before, acted)


def stale_after_resets(
    step: int, acted: torch.Tensor, before: torch.Tensor, fresh: torch.Tensor
) -> torch.Tensor:
    return torch.where(fresh[:, None], before, acted)


def noise_drawn_again(
    step: int, acted: torch.Tensor, before: torch.Tensor, fresh: torch.Tensor
) -> torch.Tensor:
    return acted + 0.1 * torch.randn_like(acted)


def record(
    store: str, checkpoint: str, recurrent: bool, about: Any = None, fault: Fault | None = None
) -> np.ndarray[Any, Any]:
    """Collect with the checkpoint's policy; metadata None: as collections note it.

    Gives the valid rows whose answer is another one now, ``(T, N)``: those at fault, and of a
    recurrent policy the rest of their trajectories.
    """
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
        before, fresh = observations["policy"], torch.zeros(ENVS, dtype=torch.bool)
        wrong = np.zeros((STEPS, ENVS), bool)
        for step in range(STEPS):
            acted = observations["policy"].clone()
            output = policy.act(observations)
            seen = fault(step, acted, before, fresh) if fault else acted
            wrong[step] = (seen != acted).any(1).numpy()
            if recurrent and step:
                wrong[step] |= wrong[step - 1] & ~fresh.numpy()
            writer.add_step(
                observations=seen,
                actions=output.actions,
                action_mean=output.mean,
                action_sigma=output.sigma,
                valid_mask=(torch.arange(ENVS) < ENVS - 1) | (step < IDLE_FROM),
            )
            result = simulation.step(output.actions)
            policy.reset(result.dones)
            writer.end_trajectories(result.dones)
            before, fresh, observations = acted, result.dones, result.observations
    assert env.asked == 1, "by the runner that was built: noise is drawn once a step"
    return wrong & TrajectoryDataset(store).read("valid_mask")
