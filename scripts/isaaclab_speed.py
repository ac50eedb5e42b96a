"""Environment steps a second in Isaac Lab 3, with recording and without, in turns.

Both let the expert act on the demo's G1 with a student's group of 770 beside it; the one is a bare
loop, the other the collection. In the environment that ``python -m tests.envs isaaclab3`` makes:

    OMP_NUM_THREADS=1 .venv-isaaclab3/bin/python -m scripts.isaaclab_speed --num_envs 16 64 256
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from examples.g1 import isaaclab as g1
from examples.g1.isaaclab.motions import write_motions
from mosaic_collect.adapters.isaaclab.cfg import (
    add_student_group,
    prepare_env_cfg,
    prepare_motion_cfg,
)
from mosaic_collect.adapters.isaaclab.collect import IsaacLabSimulation
from mosaic_collect.adapters.isaaclab.motion import MosaicMotionTracker
from mosaic_collect.adapters.rsl_rl.load import load_policy
from mosaic_collect.collection.motion_queue import MotionQueue
from mosaic_collect.collection.record import record
from mosaic_collect.text import table
from tests.isaaclab import loaded_motions
from tests.isaaclab3.inside.session import configs, opened


def bare(simulation: Any, policy: Any, steps: int) -> None:
    """The expert acts, and nothing is recorded."""
    observations = simulation.reset()
    for _ in range(steps):
        result = simulation.step(policy.act(observations).actions)
        policy.reset(result.dones)
        observations = result.observations


def recorded(*arguments: Any) -> float:
    """The same, recorded by ``record`` of these arguments; the share of time stalled."""
    shares: list[float] = []

    def note(writer: Any) -> None:
        shares.append(writer.stats.stalled_seconds / writer.stats.seconds)

    record(*arguments, on_step=note)
    return shares[-1]


def measure(num_envs: int, steps: int, rounds: int) -> tuple[str, ...]:
    """Medians of a number of environments, as a row."""
    with tempfile.TemporaryDirectory() as folder:
        motions = write_motions(Path(folder) / "motions", [126, 101, 151])
        env_cfg, agent_cfg = configs(g1.TEACHER)
        add_student_group(env_cfg, configs(g1.STUDENT)[0].observations.policy)
        prepare_motion_cfg(env_cfg.commands.motion, motions)
        prepare_env_cfg(env_cfg, num_envs)
        with opened(env_cfg, motions, num_envs) as env:
            policy = load_policy(env, agent_cfg, g1.EXPERT)
            origin = {"simulator": "isaaclab", "task": g1.TEACHER}
            seconds: dict[str, list[float]] = {"bare": [], "recorded": []}
            stalled = []
            for turn in range(rounds + 1):  # the first warms up
                queue = MotionQueue(loaded_motions(env.unwrapped))
                tracker = MosaicMotionTracker(env.unwrapped, queue)
                simulation = IsaacLabSimulation(env, agent_cfg, tracker)
                start = time.perf_counter()
                bare(simulation, policy, steps)
                middle, store = time.perf_counter(), f"{folder}/{turn}.zarr"
                share = recorded(simulation, policy, store, origin, steps)
                if turn:
                    seconds["bare"].append(middle - start)
                    seconds["recorded"].append(time.perf_counter() - middle)
                    stalled.append(share)
    rates = {name: num_envs * steps / median(times) for name, times in seconds.items()}
    ratios = [b / r for b, r in zip(seconds["bare"], seconds["recorded"], strict=True)]
    return (
        str(num_envs),
        *(f"{rate:,.0f}" for rate in rates.values()),
        f"{median(ratios):.2f}",
        f"{max(ratios) - min(ratios):.2f}",
        f"{median(stalled):.1%}",
    )


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num_envs", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--steps", type=int, default=100, help="of each turn")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    head = ("environments", "bare", "recorded", "recorded / bare", "its spread", "stalled")
    rows = [measure(num_envs, args.steps, args.rounds) for num_envs in args.num_envs]
    print(table(head, rows, right_from=0))


if __name__ == "__main__":
    main()
