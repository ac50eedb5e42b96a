"""A trained policy that is loaded and asked, and the simulation, beside the installed rsl_rl."""

from __future__ import annotations

import copy
import os
from typing import Any

import pytest
import torch

from mosaic_collect.adapters.rsl_rl.load import Actor, load_policy
from mosaic_collect.adapters.rsl_rl.simulation import ManagedSimulation
from mosaic_collect.errors import InputError
from tests.adapters.inside.toy import ACTIONS, GENERATION, ToyEnv, config, train


def observe(env: ToyEnv) -> Any:
    observed = env.get_observations()
    return observed[1]["observations"] if isinstance(observed, tuple) else observed


def test_the_installed_generation_is_the_one_asked_for() -> None:
    name = os.environ["MOSAIC_COLLECT_ENVIRONMENT"]
    expected = {"2": 2, "3": 3, "4": 5, "5": 5}
    assert expected[name.removeprefix("rsl-rl-")[0]] is GENERATION


def test_answers_as_the_trained_runner_does_bit_for_bit(trained: Any) -> None:
    runner, path, recurrent = trained
    runner_cfg = config(recurrent)
    before = copy.deepcopy(runner_cfg)
    env = ToyEnv()
    policy = load_policy(env, runner_cfg, path)
    assert isinstance(policy, Actor)
    assert runner_cfg == before
    assert env.asked == 1
    inference = runner.get_inference_policy("cpu")
    if recurrent:
        (getattr(runner.alg, "policy", None) or runner.alg.get_policy()).reset(None)
    for _ in range(3):  # a memory that advanced twice in a step would show in the second
        observations = observe(env)
        output = policy.act(observations)
        with torch.inference_mode():
            tensor = GENERATION == 2
            expected = inference(observations["policy"] if tensor else observations)
        assert torch.equal(output.mean, expected)
    assert torch.equal(output.actions, output.mean)
    assert output.sigma.shape == (4, ACTIONS)
    assert bool((output.sigma > 0).all())
    assert not output.mean.requires_grad
    assert not output.sigma.requires_grad


def test_sampled_actions_have_the_mean_and_sigma_they_say(trained: Any) -> None:
    _, path, recurrent = trained
    policy = load_policy(ToyEnv(512), config(recurrent), path, deterministic=False)
    output = policy.act(observe(ToyEnv(512)))
    z = (output.actions - output.mean) / output.sigma
    assert abs(float(z.mean())) < 0.1
    assert abs(float(z.std()) - 1) < 0.1


def test_acting_does_not_teach_the_normaliser(trained: Any) -> None:
    _, path, recurrent = trained
    policy, env = load_policy(ToyEnv(), config(recurrent), path), ToyEnv()
    observations = observe(env)
    first = policy.act(observations).mean.clone()
    for _ in range(5):
        policy.act({"policy": 100 * torch.randn(4, 6)})
    policy.reset(torch.ones(4, dtype=torch.bool))
    assert torch.equal(policy.act(observations).mean, first)


def test_a_critic_of_another_width_does_not_matter(trained: Any) -> None:
    _, path, recurrent = trained
    observations = observe(ToyEnv())
    expected = load_policy(ToyEnv(), config(recurrent), path).act(observations).mean
    narrow = load_policy(ToyEnv(critic_dim=5), config(recurrent), path)
    assert torch.equal(narrow.act(observations).mean, expected)


def test_a_reset_forgets_only_the_environments_named(trained: Any) -> None:
    _, path, recurrent = trained
    policy = load_policy(ToyEnv(), config(recurrent), path)
    observations = observe(ToyEnv())
    fresh = policy.act(observations).mean.clone()
    policy.reset(torch.tensor([False, True, False, False]))
    again = policy.act(observations).mean
    assert torch.equal(again[1], fresh[1])
    assert torch.equal(again[0], fresh[0]) is not recurrent


def test_without_a_normaliser(checkpoint: str) -> None:
    train(checkpoint, normalise=False)
    policy = load_policy(ToyEnv(), config(normalise=False), checkpoint)
    assert policy.act(observe(ToyEnv())).mean.shape == (4, ACTIONS)


@pytest.mark.parametrize("trained_with", [True, False])
def test_a_normaliser_on_one_side_only_is_refused(checkpoint: str, trained_with: bool) -> None:
    train(checkpoint, normalise=trained_with)
    with pytest.raises(InputError, match="norm"):
        load_policy(ToyEnv(), config(normalise=not trained_with), checkpoint)


def test_another_architecture_is_refused(checkpoint: str) -> None:
    train(checkpoint)
    with pytest.raises(InputError, match=r"memory_a\.rnn|rnn\.rnn"):
        load_policy(ToyEnv(), config(recurrent=True), checkpoint)


def test_another_width_is_refused_and_says_which(checkpoint: str) -> None:
    saved = train(checkpoint)
    del saved
    content = torch.load(checkpoint, weights_only=False)
    for key in ("model_state_dict", "actor_state_dict"):
        for name, value in content.get(key, {}).items():
            if value.ndim == 2 and value.shape == (16, 6):
                content[key][name] = torch.zeros(16, 7)
    torch.save(content, checkpoint)
    with pytest.raises(InputError, match="size mismatch"):
        load_policy(ToyEnv(), config(), checkpoint)


def test_wrong_observations_are_refused(trained: Any) -> None:
    _, path, recurrent = trained
    policy = load_policy(ToyEnv(), config(recurrent), path)
    with pytest.raises(InputError, match=r"expected the groups policy, got actor"):
        policy.act({"actor": torch.zeros(4, 6)})
    with pytest.raises(InputError, match=r"shape \(num_envs, 6\), got \(4, 7\)"):
        policy.act({"policy": torch.zeros(4, 7)})


def test_torchruns_world_is_not_joined(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, path, recurrent = trained
    monkeypatch.setenv("WORLD_SIZE", "2")
    load_policy(ToyEnv(), config(recurrent), path)
    assert not torch.distributed.is_initialized()
    assert os.environ["WORLD_SIZE"] == "2"


def test_another_generations_config_is_refused(trained: Any) -> None:
    _, path, _ = trained
    with pytest.raises(InputError, match="runner_cfg"):
        load_policy(ToyEnv(), {"seed": 1, "algorithm": {"class_name": "PPO"}}, path)


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
