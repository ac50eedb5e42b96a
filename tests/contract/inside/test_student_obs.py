"""StudentObsBuilder beside Isaac Lab's own history groups, over random episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mosaic_collect.adapters.isaaclab.cfg import (
    add_student_group,
    prepare_env_cfg,
    prepare_motion_cfg,
)
from mosaic_collect.adapters.rsl_rl.simulation import ManagedSimulation
from mosaic_collect.collection.groups import STUDENT
from mosaic_collect.errors import InputError
from mosaic_collect.mosaic.student_obs import (
    StudentObsBuilder,
    create_student_obs_builder_from_env_cfg,
)
from tests.contract.inside.toy import PolicyCfg, make, task_cfg, write_motions

STEPS = 80


def simulate(folder: Path, history: int, policy_history: int = 0) -> Any:
    """Without noise, which each group would draw for itself."""
    cfg = task_cfg(5)
    prepare_motion_cfg(cfg.commands.motion, write_motions(folder / "motions", [7, 4, 30]))
    prepare_env_cfg(cfg, 5)
    cfg.observations.policy.enable_corruption = False
    cfg.observations.policy.history_length = policy_history or None
    add_student_group(cfg, PolicyCfg(), noise=False, history=history)
    return ManagedSimulation(make(cfg))


@pytest.mark.parametrize("history", [1, 3, 5])
@pytest.mark.parametrize("policy_history", [0, 2])
def test_bit_equal_to_isaac_labs_own_groups(
    tmp_path: Path, history: int, policy_history: int
) -> None:
    simulation = simulate(tmp_path, history, policy_history)
    builder = create_student_obs_builder_from_env_cfg(simulation.env, f"policy_history_{history}")
    generator = torch.Generator().manual_seed(history)
    observations, resets = simulation.reset(), 0
    for _ in range(STEPS):
        frame = builder.split(observations["policy"])
        assert torch.equal(builder.get_observation(frame), observations[STUDENT])
        builder.update_history(frame)
        scene = simulation.env.unwrapped.scene
        scene.fall[:] = torch.rand(5, generator=generator) < 0.2
        result = simulation.step(torch.rand(5, 2, generator=generator) - 0.5)
        resets += int(result.dones.sum())
        builder.reset_history(result.dones)
        observations = result.observations
    assert resets > 20


def test_the_environment_is_left_as_it_is(tmp_path: Path) -> None:
    simulation = simulate(tmp_path, 3)
    simulation.reset()
    for _ in range(3):
        observations = simulation.step(torch.zeros(5, 2)).observations
    manager = simulation.env.unwrapped.observation_manager
    before = {
        name: buffer.buffer.clone()
        for name, buffer in manager._group_obs_term_history_buffer[STUDENT].items()
    }
    state = torch.random.get_rng_state()
    builder = StudentObsBuilder(simulation.env, ["clock", "pos"], 4)
    for _ in range(5):
        frame = builder.split(observations["policy"])
        builder.update_history(frame)
        builder.get_observation(frame)
        builder.reset_history([1])
    after = manager._group_obs_term_history_buffer[STUDENT]
    assert all(torch.equal(before[name], after[name].buffer) for name in before)
    assert torch.equal(state, torch.random.get_rng_state())


def test_terms_are_named_where_one_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pos, command, clock"):
        StudentObsBuilder(simulate(tmp_path, 3).env, ["wheels"])
