"""Starting Isaac Lab and finding a task's configs: what differs between its generations.

2.1 to 2.3    with session:  Kit starts                    3.x    with session:  nothing
configs:   Hydra's decorator                        configs:   presets, Hydra
with simulating: nothing                            with simulating: what the
the environment                                     config needs starts
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any, Protocol

from mosaic_collect.errors import InputError, MissingDependencyError

#: Under which name a task is registered with its config for rsl_rl.
RSL_RL_CFG = "rsl_rl_cfg_entry_point"
_TASKS = "isaaclab_tasks"
_INSTALL = (
    "Isaac Lab 3 comes by pip, and needs no Isaac Sim on Newton's physics: pip install isaaclab "
    "(Python 3.12); 2.x is installed beside Isaac Sim. Run this with the Python that has it"
)


class Launch(Protocol):
    """One generation of Isaac Lab, and one use of it."""

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        """Add its launcher's own flags, which may look at ``sys.argv``."""

    def session(self, flags: argparse.Namespace) -> AbstractContextManager[None]:
        """Within it tasks can be imported; leaving it may end the process."""

    def configs(self, task: str, agent: str | None, overrides: Sequence[str]) -> tuple[Any, Any]:
        """A task's config and its runner's, with what Hydra or presets change of them.

        Args:
            task: Its registered name.
            agent: Name of the entry point of the runner's config; None: only the task's.
            overrides: Overrides for Hydra, such as ``env.sim.dt=0.005``.

        Raises:
            InputError: Overrides that the task does not take.
        """

    def simulating(self, env_cfg: Any, flags: argparse.Namespace) -> AbstractContextManager[None]:
        """Within it the environment can be made.

        Raises:
            MissingDependencyError: The config needs Isaac Sim, which is not installed.
        """


def installed() -> Launch:
    """Of the Isaac Lab that is installed, told from its parts.

    Raises:
        MissingDependencyError: There is none, or none that can be imported.
    """
    if find_spec("isaaclab") is None:
        raise MissingDependencyError(f"isaaclab is not installed. {_INSTALL}")
    try:
        app = importlib.import_module("isaaclab.app")
        newer = hasattr(app, "launch_simulation")
    except ImportError as error:
        raise MissingDependencyError(
            f"isaaclab is installed, but cannot be imported: {error}. {_INSTALL}"
        ) from error
    name = "generation3" if newer else "generation2"
    module = importlib.import_module(f"mosaic_collect.adapters.isaaclab.{name}")
    launch: Launch = module.launch()
    return launch


def launcher_flags(launch: Launch, text: str) -> argparse.Namespace:
    """What Isaac Lab's launcher is told: its defaults, and flags of its own out of a text.

    Raises:
        InputError: Flags that it does not have.
    """
    parser = argparse.ArgumentParser(prog="--launcher", add_help=False, exit_on_error=False)
    argv, sys.argv = sys.argv, sys.argv[:1]  # where launchers look, too
    try:
        launch.add_flags(parser)
        flags, left = parser.parse_known_args(shlex.split(text))
    except argparse.ArgumentError as error:
        raise InputError(f"launcher: {error}") from error
    finally:
        sys.argv = argv
    if left:
        raise InputError(f"launcher: Isaac Lab's launcher does not know {' '.join(left)}")
    return flags


def register_tasks(module: str | None) -> None:
    """Import Isaac Lab's own tasks, and those of a module, which registers them.

    Raises:
        InputError: The module cannot be imported.
    """
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
    """Look whether a task is registered, with its config.

    Args:
        task: Name of the task.
        agent: The entry point that it must have, too.
        name: Name of the option.

    Raises:
        InputError: The task is not registered; the message lists similar names.
    """
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


_log = logging.getLogger(__name__)


@contextmanager
def refused_by_hydra(overrides: Sequence[str]) -> Iterator[None]:
    """Its words as an error of ours: it prints some of them, and ends the process.

    Raises:
        InputError: Hydra or Isaac Lab's presets refuse the overrides.
    """
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
    """Say which overrides set what the config's class does not have, a misspelt field for one.

    Isaac Lab 3 sets attributes, and asks nobody.

    Args:
        configs: ``env`` and ``agent``, with the overrides applied.
        overrides: Overrides of the command line.
    """
    for path in (text.split("=", 1)[0] for text in overrides if "=" in text):
        first, *between = path.split(".")
        owner = configs.get(first)
        for name in between[:-1]:
            owner = owner.get(name) if isinstance(owner, Mapping) else getattr(owner, name, None)
        fields = getattr(owner, "__dataclass_fields__", None)
        if between and fields and between[-1] not in fields:
            kind = type(owner).__name__
            _log.warning("overrides: %s: %s has no field %s", path, kind, between[-1])
