"""Which checkpoint the flags of ``scripts/collect_expert_trajectories.py`` mean."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable

from mosaic_collect.errors import InputError

_FILES = ("checkpoint_path", "resume_student_checkpoint")
_NAMED = (*_FILES, "wandb_path")


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
