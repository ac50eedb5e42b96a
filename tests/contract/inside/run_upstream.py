"""Runs MOSAIC's own script, of a checkout, with one line changed: where the collector comes from.

usage: python -m tests.contract.inside.run_upstream MOSAIC ours|theirs FLAGS
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from tests.contract.inside.run_script import load_cfg_from_registry, module, simulator
from tests.contract.inside.stand_ins import install

IMPORT = "from whole_body_tracking.collection import ExpertTrajectoryCollector"
OURS = "from mosaic_collect import ExpertTrajectoryCollector"


def tasks() -> None:
    """The toy's tasks, with what the script asks of a robot's scene and of Isaac Lab's configs."""
    from tests.contract.inside import toy, toy_tasks

    toy.Scene.__missing__ = lambda self, name: None  # type: ignore[attr-defined]
    for name in ("resume", "run_name", "logger"):
        setattr(toy_tasks.AgentCfg, name, None)
    made = toy_tasks.AgentCfg.__post_init__

    def on_cpu(self: Any) -> None:
        made(self)
        self.device = "cpu"  # where the script runs the policy

    toy_tasks.AgentCfg.__post_init__ = on_cpu  # type: ignore[method-assign]


def their_collector(mosaic: Path) -> ModuleType:
    package = mosaic / "source/whole_body_tracking/whole_body_tracking/collection"
    path = package / "expert_trajectory_collector.py"
    spec = importlib.util.spec_from_file_location("their_collector", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def main(mosaic: Path, whose: str, flags: list[str]) -> None:
    install()
    simulator()
    module("isaaclab_tasks.utils", get_checkpoint_path=None)
    module("isaaclab_tasks.utils.parse_cfg", load_cfg_from_registry=load_cfg_from_registry)
    module("whole_body_tracking")
    module("whole_body_tracking.tasks")
    found: dict[str, Any] = {} if whose == "ours" else vars(their_collector(mosaic))
    module("whole_body_tracking.collection", **found)
    tasks()
    scripts = mosaic / "scripts" / "rsl_rl"
    sys.path.insert(0, str(scripts))  # cli_args
    source = (scripts / "collect_expert_trajectories.py").read_text()
    assert source.count(IMPORT) == 1
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(source.replace(IMPORT, OURS) if whose == "ours" else source)
        script.flush()
        sys.argv = [script.name, *flags]
        torch.manual_seed(0)
        runpy.run_path(script.name, run_name="__main__")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
