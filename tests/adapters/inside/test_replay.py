"""Collect with a loaded policy; what is stored answers the same when asked again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from mosaic_collect import Schema, TrajectoryDataset, TrajectoryWriter
from mosaic_collect.adapters.rsl_rl.load import load_policy
from mosaic_collect.adapters.rsl_rl.simulation import ManagedSimulation
from mosaic_collect.collection.protocols import Policy, Simulation
from mosaic_collect.errors import InputError
from tests.adapters.inside.toy import ToyEnv, config

STEPS = 30


def collect(simulation: Simulation, policy: Policy, store: str) -> list[torch.Tensor]:
    """Record ``STEPS`` steps; gives what ended at each."""
    ended = []
    schema = Schema.mosaic(obs_dim=6, action_dim=simulation.num_actions)
    with TrajectoryWriter(store, schema, simulation.num_envs, buffer_mb=1) as writer:
        observations = simulation.reset()
        for _ in range(STEPS):
            output = policy.act(observations)
            writer.add_step(
                observations=observations["policy"],
                actions=output.actions,
                action_mean=output.mean,
                action_sigma=output.sigma,
            )
            result = simulation.step(output.actions)
            writer.end_trajectories(result.dones)
            policy.reset(result.dones)
            observations = result.observations
            ended.append(result.dones)
    return ended


@pytest.mark.parametrize("deterministic", [True, False])
def test_replay(trained: Any, tmp_path: Path, deterministic: bool) -> None:
    _, path, recurrent = trained
    store = os.path.join(tmp_path, "expert.zarr")
    env = ToyEnv()
    policy = load_policy(env, config(recurrent), path, deterministic=deterministic)
    simulation = ManagedSimulation(env)
    ended = collect(simulation, policy, store)
    assert env.asked == 1  # the runner's; noise is drawn once a step

    again = load_policy(ToyEnv(), config(recurrent), path)
    data = TrajectoryDataset(store)
    ids = data.read("trajectory_id")
    for step in range(STEPS):
        output = again.act(
            {"policy": torch.from_numpy(data.read("observations", step, step + 1)[0])}
        )
        assert torch.equal(
            output.mean, torch.from_numpy(data.read("action_mean", step, step + 1)[0])
        )
        assert torch.equal(
            output.sigma, torch.from_numpy(data.read("action_sigma", step, step + 1)[0])
        )
        if step + 1 < STEPS:
            new = torch.from_numpy(ids[step + 1] != ids[step])
            assert torch.equal(new, ended[step])
            again.reset(new)
    equal = (data.read("actions") == data.read("action_mean")).all()
    assert bool(equal) is deterministic


def test_falls_are_told_from_ends_by_time() -> None:
    simulation = ManagedSimulation(ToyEnv())
    simulation.reset()
    for step in range(1, 8):
        result = simulation.step(torch.zeros(4, 3))
        assert result.dones.dtype == result.time_outs.dtype == torch.bool
        assert bool(result.dones[0]) is (step == 4)
        assert bool(result.dones[1]) is (step == 7)
        assert not result.time_outs[0]
        assert bool(result.time_outs[1]) is (step == 7)
    simulation.close()
    simulation.close()


def test_time_outs_are_asked_of_the_environment_or_missed() -> None:
    class Finite(ToyEnv):
        def step(self, actions: torch.Tensor) -> Any:
            observed, reward, dones, extras = super().step(actions)
            self.kept = extras.pop("time_outs")
            return observed, reward, dones, extras

    env = Finite()
    simulation = ManagedSimulation(env)
    simulation.reset()
    with pytest.raises(InputError, match="time_outs"):
        simulation.step(torch.zeros(4, 3))
    env.reset_time_outs = torch.tensor([True, False, False, True])
    assert torch.equal(simulation.step(torch.zeros(4, 3)).time_outs, env.reset_time_outs)
