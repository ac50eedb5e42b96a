"""A student that acts: any network in TorchScript, the form in which rsl_rl exports policies."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
        path: Written by ``save_student`` or ``torch.jit.save``; it normalises its input itself.
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
        with _torchscript():
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


def save_student(network: torch.nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a network as ``load_student`` reads it.

    Args:
        network: From the student's observations ``(num_envs, student_obs_dim)`` to actions
            ``(num_envs, num_actions)``; its normaliser is part of it.
        path: Of the file.
    """
    with _torchscript():
        torch.jit.script(network).save(os.fspath(path))


@contextmanager
def _torchscript() -> Iterator[None]:
    """Of torch 2.13 on it is called deprecated, but it is what policies are exported in."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


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
