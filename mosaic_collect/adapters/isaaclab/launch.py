"""Starting Isaac Lab and finding a task's configs: what differs between its generations.

2.1 to 2.3    with session:  Kit starts                    3.x    with session:  nothing
configs:   Hydra's decorator                        configs:   presets, Hydra
with simulating: nothing                            with simulating: what the
the environment                                     config needs starts
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any, TypeAlias

from mosaic_collect.errors import InputError, MissingDependencyError, MosaicCollectError
from mosaic_collect.recording.signals import handlers_kept

#: Under which name a task is registered with its config for rsl_rl.
RSL_RL_CFG = "rsl_rl_cfg_entry_point"
_TASKS = "isaaclab_tasks"
_INSTALL = (
    "Isaac Lab 3 comes by pip, and needs no Isaac Sim on Newton's physics: pip install isaaclab "
    "(Python 3.12); 2.x is installed beside Isaac Sim. Run this with the Python that has it"
)


#: Hydra would make a folder for each run, with the log and the config.
_NO_FILES = ("hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none")
#: Flags of 2.x that are the default in 3.
_GONE = {
    "--headless": "accepted: there is no window unless --viz asks for one",
    "--enable_cameras": "accepted: cameras render where the task has them",
}
_log = logging.getLogger(__name__)


class Generation2:
    """Isaac Lab 2.1 to 2.3: Kit runs from before the tasks are imported until the end.

    Written by Isaac Lab's sources; what needs Isaac Sim was not run.
    """

    def __init__(self) -> None:
        self._local_rank = 0

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        """Add its launcher's own flags, which may look at ``sys.argv``."""
        from isaaclab.app import AppLauncher

        AppLauncher.add_app_launcher_args(parser)

    @contextmanager
    def session(self, flags: argparse.Namespace) -> Iterator[None]:
        """Open the launcher; within it tasks can be imported. Leaving it may end the process."""
        from isaaclab.app import AppLauncher

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
        """A task's config, and its runner's if ``agent`` names an entry point, with overrides."""
        from isaaclab_tasks.utils import load_cfg_from_registry
        from isaaclab_tasks.utils.hydra import hydra_task_config

        if agent is None and not overrides:
            return load_cfg_from_registry(task, "env_cfg_entry_point"), None
        found = []

        @hydra_task_config(task, agent or "")  # type: ignore[untyped-decorator]
        def take(env_cfg: Any, agent_cfg: Any) -> None:
            found.append((env_cfg, agent_cfg))

        with command_line(*_NO_FILES, *overrides), refused_by_hydra(overrides):
            take()
        return found[0]

    @contextmanager
    def simulating(self, env_cfg: Any, flags: argparse.Namespace) -> Iterator[None]:
        """Prepare the config, of which the environment can be made within."""
        if getattr(flags, "distributed", False):
            env_cfg.sim.device = f"cuda:{self._local_rank}"
        yield


class Generation3:
    """Isaac Lab 3: configs come first and start what they need, on Newton's physics nothing.

    Methods are those of ``Generation2``.
    """

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        from isaaclab.app import add_launcher_args

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
        """Start what the config needs; refuse one that needs Isaac Sim where it is not."""
        from isaaclab.app import launch_simulation, validate_launch

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


Launch: TypeAlias = Generation2 | Generation3


def installed() -> Launch:
    """The launcher of the Isaac Lab that is installed, recognised by its parts."""
    if find_spec("isaaclab") is None:
        raise MissingDependencyError(f"isaaclab is not installed. {_INSTALL}")
    try:
        app = importlib.import_module("isaaclab.app")
        newer = hasattr(app, "launch_simulation")
    except ImportError as error:
        raise MissingDependencyError(
            f"isaaclab is installed, but cannot be imported: {error}. {_INSTALL}"
        ) from error
    return Generation3() if newer else Generation2()


def launcher_flags(launch: Launch, text: str) -> argparse.Namespace:
    """Parse flags of Isaac Lab's launcher out of a text; others have their defaults."""
    parser = argparse.ArgumentParser(prog="--launcher", add_help=False, exit_on_error=False)
    try:
        with command_line():  # where launchers look, too
            launch.add_flags(parser)
            flags, left = parser.parse_known_args(shlex.split(text))
    except argparse.ArgumentError as error:
        raise InputError(f"launcher: {error}") from error
    if left:
        raise InputError(f"launcher: Isaac Lab's launcher does not know {' '.join(left)}")
    return flags


def register_tasks(module: str | None) -> None:
    """Import Isaac Lab's own tasks, and those of a module, which registers them."""
    importlib.import_module(_TASKS)
    if module is None:
        return
    if os.getcwd() not in sys.path:  # a module that lies here, as ``python -m`` would find it
        sys.path.append(os.getcwd())
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"tasks_module: {module} cannot be imported: {error}") from error


def check_task(task: str, agent: str | None = None, name: str = "task") -> None:
    """Check that a task is registered, with its config and the entry point ``agent``."""
    from gymnasium import registry

    spec = registry.get(task.rsplit(":", maxsplit=1)[-1])
    if spec is None or "env_cfg_entry_point" not in spec.kwargs:
        known = [t for t, s in registry.items() if "env_cfg_entry_point" in s.kwargs]
        alike = ", ".join(get_close_matches(task, known, 5, 0.4)) or "none of a similar name"
        raise InputError(
            f"{name}: expected a registered task, got {task!r}; there are {len(known)}, such as "
            f"{alike}; tasks of a package of yours are registered by tasks_module"
        )
    if agent is not None and agent not in spec.kwargs:
        raise InputError(f"{name}: {task} has no config for rsl_rl ({agent})")


@contextmanager
def command_line(*words: str) -> Iterator[None]:
    """Let ``sys.argv`` be these words behind the program's name."""
    before, sys.argv = sys.argv, [*sys.argv[:1], *words]
    try:
        yield
    finally:
        sys.argv = before


@contextmanager
def refused_by_hydra(overrides: Sequence[str]) -> Iterator[None]:
    """Turn Hydra's errors into ``InputError``: it prints some words, and ends the process."""
    told = " ".join(overrides)
    try:
        yield
    except SystemExit as error:
        raise InputError(f"overrides: Hydra does not take {told}; it has said above why") from error
    except (ValueError, AttributeError, KeyError) as error:
        if not overrides:  # the task's own fault
            raise
        raise InputError(f"overrides: {told} cannot be applied: {error}") from error


def warn_of_new_fields(configs: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Log overrides of fields that the config's class lacks: Isaac Lab 3 sets any attribute."""
    for path in (text.split("=", 1)[0] for text in overrides if "=" in text):
        first, *between = path.split(".")
        owner = configs.get(first)
        for name in between[:-1]:
            owner = owner.get(name) if isinstance(owner, Mapping) else getattr(owner, name, None)
        fields = getattr(owner, "__dataclass_fields__", None)
        if between and fields and between[-1] not in fields:
            kind = type(owner).__name__
            _log.warning("overrides: %s: %s has no field %s", path, kind, between[-1])
