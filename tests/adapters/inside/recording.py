"""Collections with a trained policy whose records may be at fault; what it acts on never is."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Moment:
    """What a recorder could take for the observation of a step.

    Attributes:
        step: Which.
        acted: What the policy acts on, ``(N, D)``.
        before: What it acted on a step before; at the first step the same.
        fresh: Environments that the step before reset, ``(N,)`` bool.
        env: Computes observations again, with other noise.
    """

    step: int
    acted: torch.Tensor
    before: torch.Tensor
    fresh: torch.Tensor
    env: ToyEnv


Fault = Callable[[Moment], torch.Tensor]


def right(now: Moment) -> torch.Tensor:
    return now.acted


def one_shifted_row(now: Moment) -> torch.Tensor:
    at = torch.arange(ENVS) == (2 if now.step == 9 else -1)
    return torch.where(at[:, None], now.before, now.acted)


def one_environment_shifted(now: Moment) -> torch.Tensor:
    return torch.where((torch.arange(ENVS) == 2)[:, None], now.before, now.acted)


def stale_after_resets(now: Moment) -> torch.Tensor:
    return torch.where(now.fresh[:, None], now.before, now.acted)


def noise_drawn_again(now: Moment) -> torch.Tensor:
    observed = now.env.get_observations()
    groups = observed[1]["observations"] if isinstance(observed, tuple) else observed
    return groups["policy"]


def record(
    store: str, checkpoint: str, recurrent: bool, fault: Fault = right, about: Any = None
) -> np.ndarray[Any, Any]:
    """Collect into a store that says its network.

    Args:
        store: Where to.
        checkpoint: Of the policy.
        recurrent: Whether it is a recurrent one.
        fault: Makes the recorded observations.
        about: Metadata; None: as collections note it.

    Returns:
        Rows whose answer is another one now, ``(T, N)`` bool: the valid ones whose record is not
        what was acted on, and of a recurrent policy the rest of their trajectories.
    """
    told = {"runner_cfg": json_safe(config(recurrent)), "groups": {"policy": POLICY_DIM}}
    torch.manual_seed(0)
    env = ToyEnv(ENVS)
    policy = load_policy(env, config(recurrent), checkpoint)
    simulation = ManagedSimulation(env)
    schema = Schema.mosaic(obs_dim=POLICY_DIM, action_dim=ACTIONS)
    wrong = []
    with TrajectoryWriter(
        store, schema, ENVS, buffer_mb=1, metadata=told if about is None else about
    ) as writer:
        observations = simulation.reset()
        before, fresh = observations["policy"], torch.zeros(ENVS, dtype=torch.bool)
        for step in range(STEPS):
            acted = observations["policy"]
            output = policy.act(observations)
            seen = fault(Moment(step, acted, before, fresh, env))
            writer.add_step(
                observations=seen,
                actions=output.actions,
                action_mean=output.mean,
                action_sigma=output.sigma,
                valid_mask=(torch.arange(ENVS) < ENVS - 1) | (step < IDLE_FROM),
            )
            wrong.append((seen != acted).any(1).numpy())
            result = simulation.step(output.actions)
            policy.reset(result.dones)
            writer.end_trajectories(result.dones)
            before, fresh, observations = acted.clone(), result.dones, result.observations
    return _answers_differ(TrajectoryDataset(store), np.stack(wrong), recurrent)


def _answers_differ(
    data: TrajectoryDataset, wrong: np.ndarray[Any, Any], recurrent: bool
) -> np.ndarray[Any, Any]:
    ids = data.read("trajectory_id")
    if recurrent:
        for step, env in itertools.product(range(1, STEPS), range(ENVS)):
            wrong[step, env] |= wrong[step - 1, env] and ids[step, env] == ids[step - 1, env]
    return wrong & data.read("valid_mask")
