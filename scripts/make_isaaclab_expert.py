"""Make the expert that the tests and the demo record in Isaac Lab 3: PPO, on one core.

The task is the tests' own G1 (``tests/isaaclab3/inside/g1``), which falls within two seconds when
nobody balances it. rsl_rl trains on squats that begin at random frames until, in episodes from the
first frame on, nearly all reach their motion's end with the actor's mean as action; three seeds are
asked. The checkpoint holds the actor alone.

Takes about twenty minutes on one core. In the environment that ``python -m tests.envs`` makes:

    .venv-isaaclab3/bin/python -m scripts.make_isaaclab_expert --output g1_isaaclab_expert.pt
"""

from __future__ import annotations

import argparse
import importlib.metadata
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import isaaclab.sim  # noqa: F401  before pxr: Isaac Lab tells OpenUSD where schemas are
import torch
from isaaclab.app import launch_simulation
from isaaclab_rl.rsl_rl import RslRlVecEnvWrapper, handle_deprecated_rsl_rl_cfg
from isaaclab_tasks.utils import resolve_task_config
from rsl_rl.runners import OnPolicyRunner

from tests.isaaclab3.inside import g1
from tests.isaaclab3.inside.g1.motions import write_motions

LENGTHS = [126, 126, 126, 101, 151]  # frames; each squat has a depth of its own
SEEDS = (1, 2, 3)

Policy = Callable[[Any], torch.Tensor]
"""Maps observations of N environments to actions (N, 29)."""


@torch.no_grad()
def success(env: RslRlVecEnvWrapper, policy: Policy, seed: int) -> float:
    """Share of episodes that reach their motion's end, one an environment, from its first frame.

    An episode counts that a reset within a step began: after an explicit one the command is stale
    and ends it at once.
    """
    command = env.unwrapped.command_manager.get_term("motion")
    command.cfg.start_from_beginning = True
    torch.manual_seed(seed)
    observations, _ = env.reset()
    begun, over, reached = torch.zeros(3, env.num_envs, dtype=torch.bool).unbind()
    while not over.all():
        observations, _, dones, extras = env.step(policy(observations))
        first = dones.bool() & begun & ~over
        reached |= first & extras["time_outs"]
        over |= first
        begun |= dones.bool()
    command.cfg.start_from_beginning = False
    return reached.float().mean().item()


def train(
    env: RslRlVecEnvWrapper, runner: OnPolicyRunner, wanted: float, chunk: int
) -> list[float]:
    """Learn until the share of episodes is reached with every seed; returns it for each."""
    start = time.perf_counter()
    for _ in range(0, runner.cfg["max_iterations"], chunk):
        runner.learn(chunk)
        shares = [success(env, runner.get_inference_policy("cpu"), seed) for seed in SEEDS]
        spent = time.perf_counter() - start
        print(f"iteration {runner.current_learning_iteration}: {shares}, {spent:.0f} s", flush=True)
        if min(shares) >= wanted:
            break
    return shares


def save_actor(runner: OnPolicyRunner, path: Path, infos: dict[str, Any]) -> None:
    """An rsl_rl checkpoint without critic and optimiser.

    Read it with ``runner.load(path, load_cfg={"actor": True})``.
    """
    runner.save(str(path))
    checkpoint = torch.load(path, map_location="cpu", weights_only=False)
    kept = {key: checkpoint[key] for key in ("actor_state_dict", "iter")}
    torch.save(kept | {"infos": infos}, path)


def parse_args() -> argparse.Namespace:
    """Command line arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="the checkpoint (.pt)")
    parser.add_argument("--num_envs", type=int, default=128, help="parallel environments")
    parser.add_argument("--success", type=float, default=0.97, help="share of episodes to reach")
    parser.add_argument("--chunk", type=int, default=25, help="iterations between two tests")
    args, args.overrides = parser.parse_known_args()
    return args


def main() -> None:
    """Train, test and save."""
    args = parse_args()
    env_cfg, agent_cfg = resolve_task_config(
        g1.TEACHER, "rsl_rl_cfg_entry_point", overrides=args.overrides
    )
    env_cfg.scene.num_envs = args.num_envs
    with tempfile.TemporaryDirectory() as folder, launch_simulation(env_cfg, {}):
        env_cfg.commands.motion.motion = write_motions(Path(folder), LENGTHS)
        env = RslRlVecEnvWrapper(gymnasium.make(g1.TEACHER, cfg=env_cfg))
        idle = success(env, lambda _: torch.zeros(env.num_envs, env.num_actions), 0)
        print(f"without a policy {idle:.3f} of the episodes reach their end", flush=True)
        # Takes out what only older releases of rsl_rl read; left in, it is one key too many.
        agent_cfg = handle_deprecated_rsl_rl_cfg(
            agent_cfg, importlib.metadata.version("rsl-rl-lib")
        )
        runner = OnPolicyRunner(env, agent_cfg.to_dict(), None, "cpu")
        shares = train(env, runner, args.success, args.chunk)
        save_actor(runner, args.output, {"task": g1.TEACHER, "success": shares, "idle": idle})
        env.close()


if __name__ == "__main__":
    main()
