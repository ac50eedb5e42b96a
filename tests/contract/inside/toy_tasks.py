"""The toy as registered tasks, as MOSAIC registers its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gymnasium

from examples.g1.isaaclab import PPO
from tests.adapters.inside.toy import GENERATION
from tests.contract.inside.toy import ToyEnv, task_cfg

# isort: split
from isaaclab.utils import configclass
from isaaclab_rl.rsl_rl import (
    RslRlOnPolicyRunnerCfg,
    RslRlPpoActorCriticCfg,
    RslRlPpoAlgorithmCfg,
)

TEACHER, STUDENT, BLIND = "Toy-Teacher-v0", "Toy-Student-v0", "Toy-Blind-v0"
TUPLES = GENERATION == 2
CLIP = 0.02  # of the wrapper; the toy's untrained actors say more than that


@configclass
class AgentCfg(RslRlOnPolicyRunnerCfg):
    """A runner's config of Isaac Lab's own classes, with what such configs have besides."""

    num_steps_per_env = 8
    max_iterations = 1
    save_interval = 50
    experiment_name = "toy"
    device = "cuda:0"  # of the training; no such device is here
    clip_actions = CLIP
    policy = RslRlPpoActorCriticCfg(
        init_noise_std=0.5,
        actor_hidden_dims=[16, 16],
        critic_hidden_dims=[16, 16],
        activation="elu",
        **({} if TUPLES else {"actor_obs_normalization": True, "critic_obs_normalization": True}),
    )
    algorithm = RslRlPpoAlgorithmCfg(**{**PPO, "num_learning_epochs": 1, "num_mini_batches": 2})

    def __post_init__(self) -> None:
        if TUPLES:
            self.empirical_normalization = True
        else:  # the task has no group for a critic
            self.obs_groups = {"policy": ["policy"], "critic": ["policy"]}


def make_env(cfg: Any, render_mode: Any = None, **_: Any) -> ToyEnv:
    return ToyEnv(cfg)


def student_cfg() -> Any:
    cfg = task_cfg()
    cfg.observations.policy.history_length = 2
    cfg.observations.policy.command = None
    return cfg


def blind_cfg() -> Any:
    return SimpleNamespace(observations=SimpleNamespace())


for name, entry in ((TEACHER, task_cfg), (STUDENT, student_cfg), (BLIND, blind_cfg)):
    gymnasium.register(
        id=name,
        entry_point=make_env,
        disable_env_checker=True,
        kwargs={"env_cfg_entry_point": entry, "rsl_rl_cfg_entry_point": AgentCfg},
    )
