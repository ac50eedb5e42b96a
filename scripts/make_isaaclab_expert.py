"""Make the expert that is recorded in Isaac Lab 3, where it follows squats.

Two steps, as for mjlab's:

1. A teacher balances by a few gains on the simulator's exact state.
2. The actor of rsl_rl's runner is regressed on it, DAgger style: the actor acts on its noisy
   observations, the teacher labels the states that come of it. This is repeated until nearly all
   episodes reach their motion's end with each of three seeds. The checkpoint holds the actor alone.

The task is the demo's G1 (``examples/g1/isaaclab``). Without a policy, about half of its
episodes end in a fall. Takes some ten minutes on one core, in the environment that
``python -m tests.envs`` makes:

    OMP_NUM_THREADS=1 .venv-isaaclab3/bin/python -m scripts.make_isaaclab_expert --output expert.pt
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

import torch
from rsl_rl.runners import OnPolicyRunner
from tensordict import TensorDict

from examples.g1 import isaaclab as g1
from examples.g1.isaaclab.motions import write_motions
from scripts.imitation import Policy, regress, save_actor
from tests.isaaclab3.inside.session import configs, opened

LENGTHS = [126, 126, 126, 101, 151]  # frames; each squat has a depth of its own
SEEDS = (1, 2, 3)


class Teacher:
    """Ankles and hips answer to where the torso is and how fast it goes, forward and sideways.

    Attributes:
        gains: Of a joint's action on m, on m/s, and what it always adds; found by a cross-entropy
            search in which 32 candidates at a time squatted with a noise of 0.1 on all actions.
    """

    gains: ClassVar[dict[str, tuple[float, float, float]]] = {
        "ankle_pitch": (-4.2, 1.2, -0.05),
        "hip_pitch": (-2.3, 0.5, 0.0),
        "ankle_roll": (1.0, -0.75, 0.0),
        "hip_roll": (-1.3, 0.75, 0.0),
    }

    def __init__(self, env: Any) -> None:
        manager = env.unwrapped.observation_manager
        names, widths = manager.active_terms["critic"], manager.group_obs_term_dim["critic"]
        ends = torch.tensor([width[0] for width in widths]).cumsum(0).tolist()
        self._begin = dict(zip(names, [0, *ends], strict=False))
        self._shape = (env.num_envs, env.num_actions)
        joints = env.unwrapped.scene["robot"].joint_names
        self._joints = {
            part: [i for i, joint in enumerate(joints) if part in joint] for part in self.gains
        }

    def __call__(self, observations: TensorDict) -> torch.Tensor:
        """Actions (N, 29) by the group without noise."""
        clean, actions = observations["critic"], torch.zeros(self._shape)
        for part, (place, speed, always) in self.gains.items():
            axis = 0 if part.endswith("pitch") else 1
            off = clean[:, self._begin["anchor_pos_b"] + axis]
            velocity = clean[:, self._begin["lin_vel"] + axis]
            actions[:, self._joints[part]] = (place * off + speed * velocity + always)[:, None]
        return actions


@torch.no_grad()
def roll_out(
    env: Any, policy: Policy, teacher: Policy, noise: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """One episode an environment, from its motion's first frame on, with noise on the actions.

    An episode counts that a reset within a step began: after an explicit one the command is stale
    and ends it at once.

    Returns:
        Noisy observations (S, 160) of all steps, the teacher's actions (S, 29), and the share of
        episodes that reached their motion's end.
    """
    env.reset()
    observations, *_ = env.step(torch.zeros(env.num_envs, env.num_actions))
    alive = torch.ones(env.num_envs, dtype=torch.bool)
    reached, seen, labels = torch.zeros_like(alive), [], []
    while alive.any():
        seen.append(observations["policy"][alive])
        labels.append(teacher(observations)[alive])
        actions = policy(observations)
        observations, _, dones, extras = env.step(actions + noise * torch.randn_like(actions))
        reached |= alive & extras["time_outs"]
        alive &= ~dones.bool()
    return torch.cat(seen), torch.cat(labels), reached.float().mean().item()


def _as_groups(seen: torch.Tensor) -> TensorDict:
    return TensorDict({"policy": seen}, batch_size=[len(seen)])


def imitate(
    env: Any, runner: OnPolicyRunner, teacher: Policy, wanted: float, rounds: int
) -> list[float]:
    """Regress the actor on more and more states of its own; returns the share with each seed."""
    actor = runner.alg.get_policy()
    seen, labels, share = roll_out(env, teacher, teacher, noise=0.2)
    say(f"teacher with noise: {share:.3f}")
    for round_ in range(rounds):
        error = regress(actor, _as_groups, seen, labels, 1500)
        more, answers, share = roll_out(env, runner.get_inference_policy("cpu"), teacher)
        say(f"round {round_}: {len(seen)} observations, rms error {error:.4f}, {share:.3f}")
        if share >= wanted:
            shares = test(env, runner.get_inference_policy("cpu"))
            say(f"seeds {SEEDS}: {shares}")
            if min(shares) >= wanted:
                return shares
        seen, labels = torch.cat((seen, more)), torch.cat((labels, answers))
    raise RuntimeError(f"{rounds} rounds were not enough for {wanted} of the episodes")


def test(env: Any, policy: Policy) -> list[float]:
    """The share of episodes that reach their motion's end, with each seed."""
    shares = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        shares.append(roll_out(env, policy, policy)[2])
    return shares


def say(text: str) -> None:
    """A line, and the seconds since the start."""
    print(f"{time.perf_counter() - START:6.0f} s  {text}", flush=True)


def parse_args() -> argparse.Namespace:
    """Command line arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="the checkpoint (.pt)")
    parser.add_argument("--num_envs", type=int, default=128, help="parallel environments")
    parser.add_argument("--rounds", type=int, default=8, help="of regression, at most")
    parser.add_argument("--success", type=float, default=0.97, help="share of episodes to reach")
    args, args.overrides = parser.parse_known_args()
    return args


def main() -> None:
    """Train, test and save."""
    args = parse_args()
    env_cfg, agent_cfg = configs(g1.TEACHER, args.overrides)
    torch.manual_seed(agent_cfg.seed)
    with (
        tempfile.TemporaryDirectory() as folder,
        opened(env_cfg, write_motions(Path(folder), LENGTHS), args.num_envs) as env,
    ):
        idle = roll_out(env, _zero, _zero)[2]
        say(f"without a policy: {idle:.3f}")
        runner = OnPolicyRunner(env, agent_cfg.to_dict(), None, "cpu")
        shares = imitate(env, runner, Teacher(env), args.success, args.rounds)
        save_actor(runner, args.output, {"task": g1.TEACHER, "success": shares, "idle": idle})


def _zero(observations: TensorDict) -> torch.Tensor:
    return torch.zeros(observations.batch_size[0], g1.NUM_ACTIONS)


START = time.perf_counter()
if __name__ == "__main__":
    main()
