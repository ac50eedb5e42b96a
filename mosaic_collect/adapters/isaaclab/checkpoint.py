"""Which checkpoint the flags of ``scripts/collect_expert_trajectories.py`` mean."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mosaic_collect.errors import InputError, MissingDependencyError

_FILES = ("checkpoint_path", "resume_student_checkpoint")
_NAMED = (*_FILES, "wandb_path")


@dataclass(frozen=True)
class TrainingRun:
    """Where Isaac Lab's training left checkpoints, below ``logs/rsl_rl``.

    Attributes:
        experiment: Folder of the experiment; None: as the runner's config says.
        run: Folder of the run, or a pattern of it; None: likewise.
        file: Within the run, or a pattern; None: likewise.
    """

    experiment: str | None = None
    run: str | None = None
    file: str | None = None

    @classmethod
    def of(cls, args: argparse.Namespace) -> TrainingRun:
        """As the flags say."""
        return cls(args.experiment_name, args.load_run, args.checkpoint)

    def find(self, runner_cfg: Any) -> str:
        """The newest checkpoint there.

        Raises:
            InputError: There is none.
        """
        from isaaclab_tasks.utils import get_checkpoint_path

        experiment: str = self.experiment or runner_cfg.experiment_name
        logs = os.path.abspath(os.path.join("logs", "rsl_rl", experiment))
        run, file = self.run or runner_cfg.load_run, self.file or runner_cfg.load_checkpoint
        try:
            return str(get_checkpoint_path(logs, run, file))
        except (OSError, ValueError) as error:
            raise InputError(
                f"checkpoint: none is named, and there is no {file} of a run {run} in {logs}: "
                f"{error}"
            ) from error


def named_checkpoint(args: argparse.Namespace) -> str:
    """The file that the flags name, fetched from Weights & Biases if it is there; "": none is.

    Raises:
        MissingDependencyError: It is to be fetched, and wandb is not installed.
    """
    named: str = args.checkpoint_path or args.resume_student_checkpoint
    if named:
        return os.path.abspath(named)
    return _downloaded(str(args.wandb_path)) if args.wandb_path else ""


def _downloaded(wandb_path: str) -> str:
    try:
        import wandb
    except ImportError as error:
        raise MissingDependencyError(f"wandb_path: needs wandb: {error}") from error
    run_path, named = wandb_run(wandb_path)
    run = wandb.Api().run(run_path)
    name = named or newest_checkpoint([file.name for file in run.files()])
    folder = os.path.join("logs", "rsl_rl", "temp")
    run.file(name).download(folder, replace=True)
    return os.path.abspath(os.path.join(folder, name))


def checkpoint_problems(args: argparse.Namespace) -> list[str]:
    """What is wrong with them: a file that is not there, or two checkpoints."""
    named = {name: value for name in _NAMED if (value := getattr(args, name))}
    problems = [
        f"{name}: expected a file, found none at {path}"
        for name, path in named.items()
        if name in _FILES and not os.path.isfile(path)
    ]
    if len(named) > 1:
        problems.append(f"{', '.join(named)}: expected one checkpoint, got {len(named)}")
    return problems


def wandb_run(wandb_path: str) -> tuple[str, str | None]:
    """Run path, and the checkpoint's name if ``--wandb_path`` has it behind the run's."""
    run, _, last = wandb_path.rstrip("/").rpartition("/")
    return (run, last) if last.endswith(".pt") else (wandb_path.rstrip("/"), None)


def newest_checkpoint(names: Iterable[str]) -> str:
    """``model_N.pt`` of the highest N.

    Raises:
        InputError: There is none.
    """
    numbers = {int(m[1]): name for name in names if (m := re.fullmatch(r"model_(\d+)\.pt", name))}
    if not numbers:
        raise InputError("wandb_path: expected a run with files model_*.pt, found none")
    return numbers[max(numbers)]
