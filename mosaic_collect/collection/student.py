"""A student that acts: any network in TorchScript, the form in which rsl_rl exports policies."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import torch

from mosaic_collect.collection.acting import Acting
from mosaic_collect.collection.groups import STUDENT
from mosaic_collect.collection.protocols import Simulation
from mosaic_collect.errors import InputError

#: From ``(num_envs, student_obs_dim)`` to ``(num_envs, num_actions)``.
Student = Callable[[torch.Tensor], torch.Tensor]


def read_student(acting: Acting, device: Any = "cpu") -> Any:
    """Load a student's network, of whatever widths.

    TorchScript is a program that can write files, and it may run while it is loaded.

    Raises:
        InputError: No such file, a file that is not trusted, or not TorchScript.
    """
    file = io.BytesIO(acting.student_file)
    if not zipfile.is_zipfile(file) or not is_torchscript(file):
        raise InputError(f"act_by: {acting.student_path}: expected TorchScript, got another file")
    if not acting.trust_checkpoint:
        raise InputError(
            f"act_by: {acting.student_path}: a student's file is a TorchScript program, and "
            "running it runs what is in it; if you know and trust who made it, "
            "trust_checkpoint=True runs it"
        )
    try:
        with _torchscript():
            return torch.jit.load(file, map_location=device).eval()
    except Exception as error:
        told = _lines(error)[0]
        raise InputError(
            f"act_by: {acting.student_path}: expected TorchScript, torch says: {told}"
        ) from error


def load_student(acting: Acting, simulation: Simulation) -> Student:
    """Load a student and ask it once, so that one that does not fit is refused before all else.

    It was written by ``save_student`` or ``torch.jit.save``, and normalises its input itself.

    Raises:
        InputError: The file cannot be read or is not trusted, the student has other widths, or the
            simulation has no observations for it.
    """
    dims, device = simulation.group_dims, simulation.device
    if STUDENT not in dims:
        raise InputError(f"act_by: expected a group {STUDENT!r} to act on, got {', '.join(dims)}")
    network = read_student(acting, device)

    def student(observations: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            # A copy: a network may normalise in place, and what it saw is recorded.
            actions: torch.Tensor = network(observations.clone())
        return actions

    seen, expected = (
        (simulation.num_envs, width) for width in (dims[STUDENT], simulation.num_actions)
    )
    asked = (
        f"act_by: {acting.student_path}: expected actions {expected} for student observations "
        f"{seen}"
    )
    try:
        actions = student(torch.zeros(seen, device=device))
    except Exception as error:
        raise InputError(f"{asked}, torch says: {_lines(error)[-1]}") from error
    if not isinstance(actions, torch.Tensor) or tuple(actions.shape) != expected:
        got = getattr(actions, "shape", type(actions).__name__)
        raise InputError(f"{asked}, got {tuple(got) if isinstance(got, torch.Size) else got}")
    return student


def save_student(network: torch.nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a network as ``load_student`` reads it.

    Args:
        network: From the student's observations ``(num_envs, student_obs_dim)`` to actions
            ``(num_envs, num_actions)``; its normaliser is part of it.
        path: Path of the file.
    """
    with _torchscript():
        torch.jit.script(network).save(os.fspath(path))


def is_torchscript(file: BinaryIO) -> bool:
    """Whether an archive of torch holds a program; torch's own mark of one."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
    file.seek(0)
    return any(os.path.basename(name) == "constants.pkl" for name in names)


@contextmanager
def _torchscript() -> Iterator[None]:
    """TorchScript is deprecated from torch 2.13 on, but it is what policies are exported in."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _lines(error: Exception) -> list[str]:
    return str(error).strip().splitlines() or [type(error).__name__]
