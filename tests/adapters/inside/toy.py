"""One toy task and its training config, in the words of each rsl_rl generation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from rsl_rl.env import VecEnv
from rsl_rl.runners import OnPolicyRunner

from mosaic_collect import TrajectoryDataset
from mosaic_collect.adapters.rsl_rl.load import generation, load_policy, quiet
from mosaic_collect.adapters.rsl_rl.runner_cfg import json_safe
from mosaic_collect.adapters.rsl_rl.simulation import ManagedSimulation
from mosaic_collect.collection import record as collection

GENERATION = generation()
ACTIONS, POLICY_DIM = 3, 6
ENVS, STEPS = 4, 30


class ToyEnv(VecEnv):
    """A noisy point that drifts; episodes of seven steps, environment 0 falls every fourth.

    Observations are drawn anew at each call, as noisy simulators do.
    """

    def __init__(self, num_envs: int = ENVS, critic_dim: int = 12) -> None:
        self.num_envs, self.num_actions, self.max_episode_length = num_envs, ACTIONS, 7
        self.device, self.cfg, self._critic_dim = "cpu", {}, critic_dim
        self.episode_length_buf = torch.zeros(num_envs, dtype=torch.long)
        self.state = torch.randn(num_envs, POLICY_DIM)
        self.asked = self.closed = 0
        dims = {"policy": (POLICY_DIM,), "critic": (critic_dim,)}
        self.observation_manager = SimpleNamespace(group_obs_dim=dims)

    @property
    def unwrapped(self) -> ToyEnv:
        return self

    def get_observations(self) -> Any:
        self.asked += 1
        return self._observe()

    def reset(self) -> Any:
        self.episode_length_buf[:] = 0
        observed = self._observe()
        return observed if isinstance(observed, tuple) else (observed, {})

    def step(self, actions: torch.Tensor) -> Any:
        self.state = 0.9 * self.state
        self.state[:, :ACTIONS] += 0.1 * actions
        self.episode_length_buf += 1
        time_outs = self.episode_length_buf >= self.max_episode_length
        falls = self.episode_length_buf >= 4
        falls[1:] = False
        dones = time_outs | falls
        self.episode_length_buf[dones] = 0
        self.state[dones] = torch.randn(int(dones.sum()), POLICY_DIM)
        reward, extras = -self.state.square().sum(-1), {"time_outs": time_outs & ~falls}
        observed = self._observe()
        if isinstance(observed, tuple):
            return observed[0], reward, dones.long(), {**extras, **observed[1]}
        return observed, reward, dones.long(), extras

    def close(self) -> None:
        self.closed += 1

    def _observe(self) -> Any:
        noisy = 3 * self.state + 1 + 0.1 * torch.randn_like(self.state)
        groups = {"policy": noisy, "critic": self.state.repeat(1, 2)[:, : self._critic_dim]}
        if GENERATION == 2:
            return groups["policy"], {"observations": groups}
        from tensordict import TensorDict

        return TensorDict(groups, batch_size=[self.num_envs])


def config(
    recurrent: bool = False,
    normalise: bool = True,
    hidden: tuple[int, ...] = (16, 16),
    actor_groups: tuple[str, ...] = ("policy",),
) -> dict[str, Any]:
    """A training config of the installed generation."""
    common = {
        "seed": 1,
        "num_steps_per_env": 8,
        "save_interval": 50,
        "logger": "tensorboard",
        "algorithm": {"class_name": "PPO", "num_learning_epochs": 1, "num_mini_batches": 2},
    }
    rnn = {"rnn_type": "gru", "rnn_hidden_dim": 8, "rnn_num_layers": 1} if recurrent else {}
    if GENERATION == 5:
        common["algorithm"]["rnd_cfg"] = None
        model = {
            "class_name": "RNNModel" if recurrent else "MLPModel",
            "hidden_dims": list(hidden),
            "activation": "elu",
            "obs_normalization": normalise,
            **rnn,
        }
        sets = {"actor": list(actor_groups), "critic": ["critic"]}
        return {**common, "obs_groups": sets, "actor": {**model, **_noise()}, "critic": model}
    policy = {
        "class_name": "ActorCriticRecurrent" if recurrent else "ActorCritic",
        "init_noise_std": 0.5,
        "actor_hidden_dims": list(hidden),
        "critic_hidden_dims": list(hidden),
        "activation": "elu",
        **rnn,
    }
    if GENERATION == 2:
        return {**common, "policy": policy, "empirical_normalization": normalise}
    policy |= {"actor_obs_normalization": normalise, "critic_obs_normalization": normalise}
    sets = {"policy": list(actor_groups), "critic": ["critic"]}
    return {**common, "policy": policy, "obs_groups": sets}


def _noise() -> dict[str, Any]:
    from importlib.util import find_spec

    if find_spec("rsl_rl.modules.distribution") is None:
        return {"stochastic": True, "init_noise_std": 0.5}
    return {"distribution_cfg": {"class_name": "GaussianDistribution", "init_std": 0.5}}


def train(
    path: str,
    recurrent: bool = False,
    seed: int = 0,
    env: Any = None,
    told: dict[str, Any] | None = None,
    **options: Any,
) -> OnPolicyRunner:
    """A runner that learned for one iteration and was saved; ``config``'s options make its own."""
    torch.manual_seed(seed)
    with quiet():
        told = told or config(recurrent, **options)
        runner = OnPolicyRunner(env or ToyEnv(), told, None, "cpu")
        # 2.x and 3.x want to be told that there is no log; 3.3 would save at iteration 0.
        runner.disable_logs, runner.logger_type = True, "none"
        runner.current_learning_iteration = 1
        runner.learn(1)
        runner.save(path)
    return runner


def record(
    store: str, checkpoint: str, told: dict[str, Any], env: Any = None, noted: Any = None
) -> TrajectoryDataset:
    """Collect with the policy of a checkpoint and its training config, which the store contains.

    Or what is to be ``noted`` instead.
    """
    env = env or ToyEnv()
    policy = load_policy(env, told, checkpoint)
    metadata = {"runner_cfg": json_safe(told)} if noted is None else noted
    collection.record(ManagedSimulation(env), policy, store, metadata, STEPS, buffer_mb=1)
    assert env.asked == 1, "by the runner that was built: noise is drawn once a step"
    return TrajectoryDataset(store)
