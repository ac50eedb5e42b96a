"""Isaac Lab 2.1 to 2.3: Kit runs from before the tasks are imported until the end.

Written by Isaac Lab's sources; what needs Isaac Sim was not run.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from isaaclab.app import AppLauncher

from mosaic_collect.adapters.isaaclab.launch import refused_by_hydra
from mosaic_collect.recording.signals import handlers_kept

#: Hydra would make a folder for each run, with the log and the config.
_NO_FILES = ("hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none")


class Generation2:
    """A ``mosaic_collect.adapters.isaaclab.launch.Launch``."""

    def __init__(self) -> None:
        self._local_rank = 0

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        AppLauncher.add_app_launcher_args(parser)

    @contextmanager
    def session(self, flags: argparse.Namespace) -> Iterator[None]:
        with handlers_kept():
            launcher = AppLauncher(flags)
        self._local_rank = launcher.local_rank
        try:
            yield
        except BaseException:
            # Closing the app may end the process at once, with nobody told why.
            traceback.print_exc()
            raise
        finally:
            sys.stdout.flush()
            launcher.app.close()

    def configs(self, task: str, agent: str | None, overrides: Sequence[str]) -> tuple[Any, Any]:
        from isaaclab_tasks.utils import load_cfg_from_registry
        from isaaclab_tasks.utils.hydra import hydra_task_config

        if agent is None and not overrides:
            return load_cfg_from_registry(task, "env_cfg_entry_point"), None
        found = []

        @hydra_task_config(task, agent or "")  # type: ignore[untyped-decorator]
        def take(env_cfg: Any, agent_cfg: Any) -> None:
            found.append((env_cfg, agent_cfg))

        argv, sys.argv = sys.argv, [sys.argv[0], *_NO_FILES, *overrides]
        try:
            with refused_by_hydra(overrides):
                take()
        finally:
            sys.argv = argv
        return found[0]

    @contextmanager
    def simulating(self, env_cfg: Any, flags: argparse.Namespace) -> Iterator[None]:
        if getattr(flags, "distributed", False):
            env_cfg.sim.device = f"cuda:{self._local_rank}"
        yield


def launch() -> Generation2:
    """For one use."""
    return Generation2()
