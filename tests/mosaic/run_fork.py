"""The update of MOSAIC's fork, with a file or a store: run with the fork's rsl_rl on the path.

``python -m tests.mosaic.run_fork attach|load PATH LOSS SEED POOL_MB``; the last line printed is
JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch


def main(way: str, path: str, loss: str, seed: str, shuffle_buffer_mb: str) -> None:
    torch.manual_seed(int(seed))
    algorithm = build(None if way == "attach" else path, loss)
    num_obs, num_envs = 6, 8
    sizes = ("mosaic", num_envs, 8, [num_obs], [num_obs], [3])
    algorithm.init_storage(*sizes)
    if way == "attach":
        from mosaic_collect.mosaic import attach

        attach(algorithm, path, shuffle_buffer_mb=float(shuffle_buffer_mb), seed=int(seed))
    told: dict[str, Any] = {}
    losses = []
    for _ in range(30):
        for _ in range(8):
            obs = torch.randn(num_envs, num_obs)
            algorithm.act(obs, obs)
            algorithm.process_env_step(torch.zeros(num_envs), torch.zeros(num_envs), {})
        told = algorithm.update()
        losses.append(told["bc_off_policy"])
    sys.stdout.write("\n" + json.dumps({**told, "losses": losses}) + "\n")


def build(path: str | None, loss: str) -> Any:
    from rsl_rl.algorithms import MOSAIC
    from rsl_rl.modules import ActorCritic

    policy = ActorCritic(
        6, 6, 3, actor_hidden_dims=[32], critic_hidden_dims=[8], init_noise_std=0.5
    )
    return MOSAIC(
        policy,
        num_mini_batches=4,
        use_ppo=False,
        learning_rate=3e-3,
        desired_kl=None,
        expert_trajectory_path=path,
        expert_loss_type=loss,
        lambda_off_policy=0.5,
        lambda_off_policy_decay=0.99,
        off_policy_batch_size=256,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
