"""Environments of the G1's tasks, as a collector would set them up, one after the other."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium
import isaaclab.sim  # noqa: F401  before pxr: Isaac Lab tells OpenUSD where schemas are
from isaaclab.app import launch_simulation
from isaaclab_rl.rsl_rl import RslRlVecEnvWrapper, handle_deprecated_rsl_rl_cfg
from isaaclab_tasks.utils import resolve_task_config

from examples.g1 import isaaclab as g1


def configs(task: str, overrides: Sequence[str] = ()) -> tuple[Any, Any]:
    """The task's and the runner's, presets resolved."""
    env_cfg, agent_cfg = resolve_task_config(
        task, "rsl_rl_cfg_entry_point", overrides=list(overrides)
    )
    version = importlib.metadata.version("rsl-rl-lib")
    return env_cfg, handle_deprecated_rsl_rl_cfg(agent_cfg, version)


@contextlib.contextmanager
def opened(env_cfg: Any, motions: str, num_envs: int) -> Iterator[RslRlVecEnvWrapper]:
    """The environment in Isaac Lab's rsl_rl wrapper, each motion from its first frame."""
    env_cfg.scene.num_envs = num_envs
    env_cfg.commands.motion.motion = motions
    env_cfg.commands.motion.start_from_beginning = True
    with launch_simulation(env_cfg, {}):
        env = RslRlVecEnvWrapper(gymnasium.make(g1.TEACHER, cfg=env_cfg))
        try:
            yield env
        finally:
            env.close()
