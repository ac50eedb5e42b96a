"""A student that acts: any network that was saved as TorchScript, as rsl_rl's export writes it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable

import torch

from mosaic_collect.errors import InputError

#: From ``(num_envs, student_obs_dim)`` to ``(num_envs, num_actions)``.
Student = Callable[[torch.Tensor], torch.Tensor]


def load_student(
    path: str | os.PathLike[str],
    num_envs: int,
    obs_dim: int,
    num_actions: int,
    device: torch.device,
) -> Student:
    """Load a student and ask it once, so that one that does not fit is refused before all else.

    Args:
        path: Saved by ``torch.jit.save``; it normalises its input itself.
        num_envs: Environments, N.
        obs_dim: Width of the student's observation.
        num_actions: Width of an action, A.
        device: Of observations and actions.

    Raises:
        InputError: No such file, not TorchScript, or of other widths.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise InputError(f"act_by: expected mean, sample or a student's file, got {path!r}")
    try:
        with warnings.catch_warnings():
            # torch 2.13 has another format in mind; this one is what policies are exported in.
            warnings.simplefilter("ignore", DeprecationWarning)
            network = torch.jit.load(path, map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise InputError(f"act_by: {path}: expected TorchScript, torch says: {first}") from error

    def student(observations: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            actions: torch.Tensor = network(observations)
        return actions

    _check(student, path, (num_envs, obs_dim), (num_envs, num_actions), device)
    return student


def _check(
    student: Student,
    path: str,
    seen: tuple[int, int],
    expected: tuple[int, int],
    device: torch.device,
) -> None:
    asked = f"act_by: {path}: expected actions {expected} for student observations {seen}"
    try:
        actions = student(torch.zeros(seen, device=device))
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{asked}, torch says: {str(error).splitlines()[-1]}") from error
    if not isinstance(actions, torch.Tensor) or tuple(actions.shape) != expected:
        got = getattr(actions, "shape", type(actions).__name__)
        raise InputError(f"{asked}, got {tuple(got) if isinstance(got, torch.Size) else got}")
