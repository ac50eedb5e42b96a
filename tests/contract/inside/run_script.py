"""Runs the script with doubles of what only Isaac Sim has: the launcher, and Hydra's decorator.

usage: python -m tests.contract.inside.run_script FLAGS
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from tests.contract.inside.stand_ins import install

SCRIPT = Path(__file__).parents[3] / "scripts" / "collect_expert_trajectories.py"


class AppLauncher:
    """An app that can be closed; the flags will be Isaac Lab's own."""

    local_rank = 0
    add_app_launcher_args: Callable[..., None]

    def __init__(self, args: Any) -> None:
        self.app = SimpleNamespace(close=lambda: sys.stdout.write("app closed\n"))


def load_cfg_from_registry(task: str, key: str) -> Any:
    import gymnasium

    return gymnasium.spec(task).kwargs[key]()


def hydra_task_config(task: str, agent: str) -> Callable[..., Any]:
    def decorated(main: Callable[..., None]) -> Callable[[], None]:
        return lambda: main(
            load_cfg_from_registry(task, "env_cfg_entry_point"), load_cfg_from_registry(task, agent)
        )

    return decorated


def module(name: str, **content: Any) -> None:
    made = ModuleType(name)
    vars(made).update(content)
    sys.modules[name] = made


def simulator() -> None:
    """The doubles, in place of Isaac Lab's modules."""
    from isaaclab.app import AppLauncher as IsaacLabs

    # Isaac Lab's own flags, which it checks against ours.
    AppLauncher.add_app_launcher_args = IsaacLabs.add_app_launcher_args
    module("isaaclab.app", AppLauncher=AppLauncher)
    module("isaaclab_tasks")
    module("isaaclab_tasks.utils", load_cfg_from_registry=load_cfg_from_registry)
    module("isaaclab_tasks.utils.hydra", hydra_task_config=hydra_task_config)


if __name__ == "__main__":
    install()
    simulator()
    sys.argv[0] = str(SCRIPT)
    runpy.run_path(str(SCRIPT), run_name="__main__")
