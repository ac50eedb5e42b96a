"""The toy as registered tasks, as MOSAIC registers its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gymnasium

from tests.adapters.inside.toy import config
from tests.contract.inside.toy import ToyEnv, task_cfg

TEACHER, STUDENT, BLIND = "Toy-Teacher-v0", "Toy-Student-v0", "Toy-Blind-v0"


class AgentCfg:
    """A runner's config, as Isaac Lab's config classes are."""

    def __init__(self) -> None:
        self.device, self.clip_actions = "cpu", None
        self.experiment_name, self.load_run, self.load_checkpoint = "toy", ".*", "model_.*.pt"

    def to_dict(self) -> dict[str, Any]:
        found = config()
        if "obs_groups" in found:  # the task has no group for a critic
            found["obs_groups"] = {"policy": ["policy"], "critic": ["policy"]}
        return found


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
