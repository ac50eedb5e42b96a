"""Collect with a loaded policy; what is stored answers the same when asked again."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mosaic_collect.adapters.rsl_rl.simulation import ManagedSimulation
from mosaic_collect.errors import InputError
from tests.adapters.inside.toy import ToyEnv


def test_falls_are_told_from_ends_by_time() -> None:
    env = ToyEnv()
    simulation = ManagedSimulation(env)
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
    assert env.closed == 1, "a second close is nothing"


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
