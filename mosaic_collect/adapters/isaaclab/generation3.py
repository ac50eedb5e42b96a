"""Isaac Lab 3: configs come first and start what they need, on Newton's physics nothing."""

from __future__ import annotations

import argparse
import importlib.metadata
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

from isaaclab.app import add_launcher_args, launch_simulation, validate_launch

from mosaic_collect.adapters.isaaclab.launch import refused_by_hydra, warn_of_new_fields
from mosaic_collect.errors import InputError, MissingDependencyError, MosaicCollectError
from mosaic_collect.recording.signals import handlers_kept

#: Flags of 2.x that are the default here.
_GONE = {
    "--headless": "accepted: there is no window unless --viz asks for one",
    "--enable_cameras": "accepted: cameras render where the task has them",
}


class Generation3:
    """A ``mosaic_collect.adapters.isaaclab.launch.Launch``."""

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        add_launcher_args(parser)
        for flag, words in _GONE.items():
            if flag not in parser._option_string_actions:
                parser.add_argument(flag, action="store_true", help=words)

    def session(self, flags: argparse.Namespace) -> nullcontext[None]:
        return nullcontext()

    def configs(self, task: str, agent: str | None, overrides: Sequence[str]) -> tuple[Any, Any]:
        from isaaclab_rl.rsl_rl import handle_deprecated_rsl_rl_cfg
        from isaaclab_tasks.utils import resolve_task_config

        with refused_by_hydra(overrides):
            env_cfg, agent_cfg = resolve_task_config(task, agent, overrides=list(overrides))
        warn_of_new_fields({"env": env_cfg, "agent": agent_cfg}, overrides)
        if agent_cfg is not None:
            version = importlib.metadata.version("rsl-rl-lib")
            agent_cfg = handle_deprecated_rsl_rl_cfg(agent_cfg, version)
        return env_cfg, agent_cfg

    @contextmanager
    def simulating(self, env_cfg: Any, flags: argparse.Namespace) -> Iterator[None]:
        try:
            _, kit = validate_launch(env_cfg, flags)
        except ValueError as error:
            raise InputError(f"task: cannot be launched: {error}") from error
        if kit and find_spec("isaacsim") is None:
            raise MissingDependencyError(
                f"the task needs Isaac Sim, which is not installed, for {'; '.join(kit)}. Tasks "
                "with a preset for Newton run without it: overrides physics=newton_mjwarp"
            )
        refused = None
        with ExitStack() as simulation:
            with handlers_kept():
                simulation.enter_context(launch_simulation(env_cfg, flags))
            try:
                yield
            except MosaicCollectError as error:
                if kit:  # whose closing ends the process, with an exit code by the error
                    raise
                refused = error  # it would print a traceback where our words are enough
        if refused is not None:
            raise refused


def launch() -> Generation3:
    """For one use."""
    return Generation3()
