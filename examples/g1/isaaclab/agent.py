"""The runner's config, of Isaac Lab's own classes."""

from __future__ import annotations

from isaaclab.utils import configclass
from isaaclab_rl.rsl_rl import RslRlMLPModelCfg, RslRlOnPolicyRunnerCfg, RslRlPpoAlgorithmCfg

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
    algorithm = RslRlPpoAlgorithmCfg(
        value_loss_coef=1.0,
        use_clipped_value_loss=True,
        clip_param=0.2,
        entropy_coef=0.001,
        num_learning_epochs=5,
        num_mini_batches=4,
        learning_rate=1.0e-4,
        schedule="adaptive",
        gamma=0.99,
        lam=0.95,
        desired_kl=0.01,
        max_grad_norm=1.0,
    )

    def __post_init__(self) -> None:
        self.obs_groups = {"actor": ["policy"], "critic": ["critic"]}
