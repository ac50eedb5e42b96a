"""The runner's config, of Isaac Lab's own classes."""

from __future__ import annotations

from isaaclab.utils import configclass
from isaaclab_rl.rsl_rl import RslRlMLPModelCfg, RslRlOnPolicyRunnerCfg, RslRlPpoAlgorithmCfg

from examples.g1.isaaclab import PPO

_NET = {"hidden_dims": [128, 128], "activation": "elu", "obs_normalization": True}


@configclass
class AgentCfg(RslRlOnPolicyRunnerCfg):
    """PPO with networks so small that a checkpoint of the actor is 200 KB."""

    device = "cpu"
    num_steps_per_env = 24
    max_iterations = 300
    save_interval = 1000
    experiment_name = "g1"
    actor = RslRlMLPModelCfg(
        **_NET, distribution_cfg=RslRlMLPModelCfg.GaussianDistributionCfg(init_std=0.1)
    )
    critic = RslRlMLPModelCfg(**_NET)
    algorithm = RslRlPpoAlgorithmCfg(**PPO)

    def __post_init__(self) -> None:
        self.obs_groups = {"actor": ["policy"], "critic": ["critic"]}
